"""Faces: what the stand-ins for other libraries share, see `flame_fast.executor`, `flame_fast.pool` and `flame_fast.joblib`."""
