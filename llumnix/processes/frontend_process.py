"""A frontend with its emulated fleet as a child process, for the demo and the benchmarks."""

import sys
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from llumnix.processes.launch import drop_empty_log, start_child, stop_process

COMMAND = (sys.executable, "-m", "llumnix", "serve", "--announce", "--exit-with-parent")
START_TIMEOUT_S = 90.0
STOP_GRACE_S = 10.0


@asynccontextmanager
async def launched_frontend(
    serve_arguments: Sequence[str], log_dir: Path | None = None
) -> AsyncIterator[str]:
    """Run `llumnix serve` with these arguments within the context; yield its URL.

    Raises LaunchError, with the end of its log, if it does not start.
    """
    logs = log_dir or Path(tempfile.mkdtemp(prefix="llumnix-"))
    # With a token in its environment it would open an admin port of its own.
    child = await start_child(
        "frontend",
        [*COMMAND, *serve_arguments],
        START_TIMEOUT_S,
        logs,
        {"LLUMNIX_ADMIN_TOKEN": ""},
    )
    try:
        yield str(child.told["url"])
    finally:
        await stop_process(child.process, STOP_GRACE_S)
        drop_empty_log(child.log_path)
