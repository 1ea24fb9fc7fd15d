"""The process behind `helper.py`: does one task after another until its input closes."""

import os
import pickle
import resource
import signal
import sys
from pathlib import Path
from typing import Any, BinaryIO, Final

from llumnix.frontend.bodies.helper import HEADER

_MAPPED, _RESIDENT = 0, 1
_NICE: Final = 10
"""Where cores are short, streams go first."""
_MEMORY_BYTES: Final = 2 * 2**30
"""What a task may take beyond what the process has at its start."""
_RETIREMENT_BYTES: Final = 256 * 2**20
"""A process that has grown so much is replaced: its memory would never come back."""


def main() -> None:
    """Serve tasks from standard input."""
    for name in (signal.SIGINT, signal.SIGTERM):  # a whole group gets these; our end is our input's
        signal.signal(name, signal.SIG_IGN)
    os.nice(_NICE)
    limit = _memory_bytes(_MAPPED) + _MEMORY_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    while (head := sys.stdin.buffer.read(HEADER.size)) and len(head) == HEADER.size:
        task_bytes, body_bytes = HEADER.unpack(head)
        task = _exactly(sys.stdin.buffer, task_bytes)
        body = _exactly(sys.stdin.buffer, body_bytes)
        result = _done(task, body)
        del body
        ends = _memory_bytes(_RESIDENT) > _RETIREMENT_BYTES
        sys.stdout.buffer.write(HEADER.pack(len(result), ends) + result)
        sys.stdout.buffer.flush()
        if ends:
            return


def _done(task: bytes, body: bytes) -> bytes:
    result: Any
    try:
        work, arguments = pickle.loads(task)  # noqa: S301 - from the process that started this one
        result = work(body, *arguments)
        return pickle.dumps(result)
    except MemoryError:
        result = MemoryError()
    except Exception as error:
        result = error
    return pickle.dumps(result)


def _exactly(source: BinaryIO, size: int) -> bytes:
    data = source.read(size)
    if len(data) < size:
        raise SystemExit(0)
    return data


def _memory_bytes(field: int) -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[field])
    return pages * resource.getpagesize()


if __name__ == "__main__":
    main()
