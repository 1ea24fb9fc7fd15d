"""`llumnix scheduler` and `llumnix serve --scheduler` as processes on one machine."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from llumnix.processes.launch import stop_process
from tests.llumnix.workers.cluster import SOON_S

SECRET = "the fleet's own secret"


@asynccontextmanager
async def process(
    folder: Path, name: str, *arguments: str, secret: str = SECRET
) -> AsyncIterator[tuple[asyncio.subprocess.Process, dict[str, Any]]]:
    """Run a command until the test ends; yields it, and what it said when it was ready."""
    (folder / "secret").write_text(secret)
    log = folder / f"{name}.log"
    with log.open("wb") as stderr:
        running = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "llumnix", *arguments, "--announce"),
            *("--secret-file", str(folder / "secret"), "--log-level", "info"),
            stdout=asyncio.subprocess.PIPE,
            stderr=stderr,
        )
    assert running.stdout is not None
    try:
        async with asyncio.timeout(2 * SOON_S):
            line = await running.stdout.readline()
        assert line, log.read_text()
        yield running, json.loads(line)
    finally:
        if running.returncode is None:
            await stop_process(running, SOON_S)


def scheduler(folder: Path, *arguments: str) -> Any:
    """Run a scheduler with two emulated instances."""
    return process(
        folder,
        "scheduler",
        *("scheduler", "--listen", "127.0.0.1:0", "--admin-port", "0", "--emulate", "2"),
        *arguments,
    )


def bare_scheduler(folder: Path, address: str, *arguments: str) -> Any:
    """Run a scheduler before instances that are there already."""
    listening = ("scheduler", "--listen", address, "--admin-port", "0")
    return process(folder, "scheduler", *listening, *arguments)


def frontend(folder: Path, name: str, address: str, *arguments: str) -> Any:
    """Run a frontend that shares a scheduler."""
    return process(folder, name, "serve", "--port", "0", "--scheduler", address, *arguments)
