"""Applications: their lifecycle, their registry, the liveness of their owners, the storage of their packages."""
