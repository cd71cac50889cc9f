"""`python -m mlx_colbert` is the command line."""

import sys

from mlx_colbert.cli import main

sys.exit(main())
