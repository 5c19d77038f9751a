"""Faces: what the stand-ins for the pools of other libraries have in common, see `flame_fast.executor` and `flame_fast.pool`."""
