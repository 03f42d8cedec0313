"""Puts a bridge in front of a module of a host model, and takes it out again."""
