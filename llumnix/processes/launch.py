"""Start emulated instances as child processes, and stop them.

A child holds one end of a pipe as its standard input and exits when it closes, so no child outlives
its parent, however the parent dies. It announces its address in one line of JSON on its standard
output; its log goes to a file.
"""

import asyncio
import json
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from llumnix.errors import LaunchError

COMMAND = (sys.executable, "-m", "llumnix", "emulate", "--exit-with-parent")
_LOG_SHOWN_CHARACTERS = 2000


@dataclass(frozen=True, slots=True)
class Child:
    """A process that has started: its announcement and its log."""

    process: asyncio.subprocess.Process
    log_path: Path
    told: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Emulator:
    """A running child: its address, and the process to stop."""

    instance_id: str
    url: str
    control_port: int
    log_path: Path
    process: asyncio.subprocess.Process

    async def stop(self, grace_s: float = 5.0) -> None:
        """Terminate it, and kill it if it does not exit within the grace period."""
        await stop_process(self.process, grace_s)
        drop_empty_log(self.log_path)


async def launch_emulators(
    instance_ids: Sequence[str],
    secret: bytes,
    extra_args: Sequence[str] = (),
    *,
    start_timeout_s: float = 60.0,
    log_dir: Path | None = None,
    command: Sequence[str] = COMMAND,
) -> list[Emulator]:
    """Start one emulated instance per id, all at once, and wait until they serve.

    If one does not, stops the others and raises LaunchError with the end of its log.
    """
    logs = log_dir or Path(tempfile.mkdtemp(prefix="llumnix-"))
    started = await asyncio.gather(
        *(
            _launch(
                name, secret, [*command, "--instance-id", name, *extra_args], logs, start_timeout_s
            )
            for name in instance_ids
        ),
        return_exceptions=True,
    )
    failures = [each for each in started if isinstance(each, BaseException)]
    emulators = [each for each in started if isinstance(each, Emulator)]
    if failures:
        await stop_emulators(emulators)
        raise failures[0]
    return emulators


async def stop_emulators(emulators: Sequence[Emulator], grace_s: float = 5.0) -> None:
    """Stop them all at once."""
    await asyncio.gather(*(each.stop(grace_s) for each in emulators))


async def start_child(
    name: str,
    command: Sequence[str],
    timeout_s: float,
    log_dir: Path,
    environment: Mapping[str, str] | None = None,
) -> Child:
    """Start a process and wait for its line of JSON; raises LaunchError with the end of its log."""
    log_path = log_dir / f"{name}.log"
    with _log_file(log_path) as log:
        try:
            process = await asyncio.create_subprocess_exec(
                *command,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
                env={**os.environ, **(environment or {})},
            )
        except OSError as error:
            raise LaunchError(
                f"{name} cannot be started: {command[0]}: {error.strerror}"
            ) from error
    try:
        assert process.stdout is not None
        async with asyncio.timeout(timeout_s):
            line = await process.stdout.readline()
        return Child(process, log_path, dict(json.loads(line)))
    except (TimeoutError, ValueError, TypeError) as error:
        await stop_process(process, 0.0)
        tail = log_path.read_text(errors="replace")[-_LOG_SHOWN_CHARACTERS:]
        slow = isinstance(error, TimeoutError)
        why = f"did not start within {timeout_s:g} s" if slow else "gave up starting"
        raise LaunchError(f"{name} {why}; its log {log_path} ends:\n{tail}") from error
    except BaseException:
        await stop_process(process, 0.0)
        raise


async def _launch(
    instance_id: str, secret: bytes, command: Sequence[str], logs: Path, timeout_s: float
) -> Emulator:
    environment = {"LLUMNIX_SECRET": os.fsdecode(secret)}
    child = await start_child(instance_id, command, timeout_s, logs, environment)
    try:
        told = child.told
        return Emulator(
            str(told["instance_id"]),
            str(told["url"]),
            int(told["control_port"]),
            child.log_path,
            child.process,
        )
    except (KeyError, ValueError, TypeError) as error:
        await stop_process(child.process, 0.0)
        raise LaunchError(f"{instance_id} sent an invalid announcement: {child.told}") from error


async def stop_process(process: asyncio.subprocess.Process, grace_s: float) -> None:
    """Terminate a child, and kill it if it does not exit within the grace period."""
    if process.returncode is None:
        with suppress(ProcessLookupError):
            process.terminate()
        try:
            async with asyncio.timeout(grace_s):
                await process.wait()
        except TimeoutError:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()
    if process.stdin is not None:
        process.stdin.close()


def drop_empty_log(path: Path) -> None:
    """Remove the log of a child that had nothing to say, and its temporary folder with the last."""
    with suppress(OSError):
        if path.stat().st_size == 0:
            path.unlink()
        if path.parent.parent == Path(tempfile.gettempdir()):
            path.parent.rmdir()  # fails, as it should, while another log is in it


def _log_file(path: Path) -> BinaryIO:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.open("wb")
