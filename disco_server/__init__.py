"""Starts the whole system on one machine: the command `disco-server`. Owns no rule."""
