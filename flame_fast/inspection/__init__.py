"""A look at a runner from outside, for one that hangs: ``python -m flame_fast dump``."""
