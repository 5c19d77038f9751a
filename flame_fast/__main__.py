"""Entry point of ``python -m flame_fast``."""

import sys

from flame_fast.cli import main

if __name__ == "__main__":
    sys.exit(main())
