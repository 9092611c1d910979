"""A model as the user named it, opened safely: references, checkpoints, programs; and what surgeon saves."""
