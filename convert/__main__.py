"""`python -m mlx_colbert.convert`: the same as `mlx-colbert convert`."""

import sys

from mlx_colbert.cli import main

if __name__ == "__main__":
    sys.argv.insert(1, "convert")
    sys.exit(main())
