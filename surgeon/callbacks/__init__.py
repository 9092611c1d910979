"""`surgeon.Pruner` in other people's trainers, a file each."""
