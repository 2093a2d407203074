"""Training runs that have a name, as functions."""
