"""Faces: what the stand-ins for other libraries' pools share, see `flame_fast.executor`, `pool` and `joblib`."""
