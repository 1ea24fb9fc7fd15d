"""`python -m llumnix.workers`: one child of a supervisor, which says what it is to be."""

import sys

from llumnix.errors import LlumnixError
from llumnix.logs.setup import configure
from llumnix.processes.event_loop import run_async
from llumnix.processes.open_files import raise_limit
from llumnix.workers.parent import Parent
from llumnix.workers.scheduler import run_scheduler
from llumnix.workers.setup import read_setup
from llumnix.workers.worker import run_worker


def main() -> int:
    """Run as told, until told to stop."""
    descriptor = sys.stdin.fileno()
    try:
        setup = read_setup(descriptor)
    except EOFError:
        return 0
    configure(setup.settings.logs, background=True)
    raise_limit()
    parent = Parent(descriptor)
    try:
        return run_async((run_worker if setup.number else run_scheduler)(setup, parent))
    except (LlumnixError, OSError, ValueError) as error:
        parent.tell(error=str(error))
        return 2


if __name__ == "__main__":
    sys.exit(main())
