"""Where calls run: `local` (worker processes) and `inline` (the driver itself) behind one protocol, `base.Engine`."""
