"""A second module of tools, with a name that `own_environments` has too."""

from doubles.own_environments import add

__all__ = ["add"]
