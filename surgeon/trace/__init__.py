"""From a model to its Graph, and to its Program: the only place that knows how networks are captured."""
