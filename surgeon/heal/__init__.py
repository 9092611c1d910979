"""Getting accuracy back from inputs alone: what a cut did to every layer's output is undone by least squares."""
