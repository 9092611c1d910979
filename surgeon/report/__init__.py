"""What a shrink looks like to people: text, later HTML and plots."""
