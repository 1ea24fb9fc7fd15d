"""`python -m llumnix` is the `llumnix` command."""

import sys

from llumnix.cli import main

sys.exit(main())
