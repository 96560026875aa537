"""``python -m dimo_core``: the command ``dimo`` of this Python."""

import sys

from dimo_core.cli import main

if __name__ == "__main__":
    sys.exit(main())
