"""`python -m llumnix.testbed 0.32.0`: build an environment and print its folder."""

import sys

from llumnix.testbed.environment import main

sys.exit(main())
