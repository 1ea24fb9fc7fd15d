"""Child processes: they announce themselves, and never outlive us or their failures."""

import asyncio
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from llumnix.errors import LaunchError
from llumnix.processes.launch import Emulator, launch_emulators, stop_emulators
from tests.llumnix.frontend.stage import until

CHILD = """
import json, os, sys, threading
name = sys.argv[sys.argv.index("--instance-id") + 1]
print("hello from", name, os.environ["LLUMNIX_SECRET"], *sys.argv[1:], file=sys.stderr, flush=True)
if name.startswith("bad"):
    sys.exit(3)
if name.startswith("stubborn"):
    import signal
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
if not name.startswith("mute"):
    print(json.dumps({"instance_id": name, "url": "http://x", "control_port": 1}), flush=True)
sys.stdin.buffer.read()
"""


@pytest.fixture(name="command")
def _command(tmp_path: Path) -> list[str]:
    script = tmp_path / "child.py"
    script.write_text(CHILD)
    return [sys.executable, str(script)]


@pytest.fixture(name="started")
async def _started(command: list[str], tmp_path: Path) -> AsyncIterator[list[Emulator]]:
    emulators = await launch_emulators(
        ["one", "two"], b"s3cret", ["--speed", "4"], log_dir=tmp_path / "logs", command=command
    )
    yield emulators
    await stop_emulators(emulators)


async def test_children_announce_themselves_and_log_to_files(started: list[Emulator]) -> None:
    assert [each.instance_id for each in started] == ["one", "two"]
    assert started[0].url == "http://x"
    log = started[0].log_path.read_text()
    assert "hello from one s3cret" in log
    assert "--speed 4" in log


async def test_stopping_ends_them(started: list[Emulator]) -> None:
    await stop_emulators(started)

    assert all(each.process.returncode is not None for each in started)
    await stop_emulators(started)


async def test_a_child_ends_when_its_standard_input_closes(started: list[Emulator]) -> None:
    """So it ends with us, however we end: the pipe closes with its last holder."""
    process = started[0].process
    assert process.stdin is not None
    process.stdin.close()

    assert await asyncio.wait_for(process.wait(), 10.0) == 0


async def test_a_stubborn_child_is_killed(command: list[str], tmp_path: Path) -> None:
    (child,) = await launch_emulators(["stubborn"], b"", log_dir=tmp_path, command=command)
    await child.stop(grace_s=0.05)

    assert child.process.returncode == -9


async def test_when_one_does_not_start_the_others_are_stopped(
    command: list[str], tmp_path: Path
) -> None:
    """The error shows the end of its log; nothing is left running."""
    with pytest.raises(LaunchError, match="hello from bad"):
        await launch_emulators(
            ["good", "bad"], b"", ["--marker"], log_dir=tmp_path, command=command
        )
    await until(lambda: not running(tmp_path / "good.log"))


async def test_a_child_that_says_nothing_is_given_up(command: list[str], tmp_path: Path) -> None:
    with pytest.raises(LaunchError, match="did not start within"):
        await launch_emulators(
            ["mute"], b"", start_timeout_s=0.3, log_dir=tmp_path, command=command
        )


def running(log: Path) -> bool:
    """Say whether any process still has this file open."""
    for fds in Path("/proc").glob("[0-9]*/fd"):
        try:
            if any(fd.readlink() == log for fd in fds.iterdir()):
                return True
        except OSError:
            continue
    return False


async def test_a_child_that_said_nothing_leaves_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    script = tmp_path / "quiet.py"
    script.write_text(CHILD.replace('print("hello', '"" and print("hello'))
    emulators = await launch_emulators(["a", "b"], b"s", command=[sys.executable, str(script)])
    folder = emulators[0].log_path.parent
    assert folder.is_dir()

    await stop_emulators(emulators)

    assert not folder.exists()
