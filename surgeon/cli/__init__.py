"""The command line: parsers and printing, one file per command. No torch until a command runs."""
