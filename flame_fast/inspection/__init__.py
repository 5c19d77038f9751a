"""A runner seen from outside, for one that hangs: ``python -m flame_fast dump``."""
