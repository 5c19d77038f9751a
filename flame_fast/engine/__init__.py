"""Engines: where calls run. `local` (worker processes) and `inline` (the driver itself) behind `protocol.Engine`."""
