"""python -m token_handlers: the command line."""

import sys

from token_handlers.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
