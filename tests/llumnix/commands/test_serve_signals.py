"""`llumnix serve` as a process: what signals make it do, and how it ends."""

import asyncio
import json
import signal
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from llumnix.processes.launch import stop_process
from tests.llumnix.frontend.splicing.chunks import DONE
from tests.llumnix.frontend.stub import Script, StubInstance

SOON_S = 30.0
COMPLETION = {"model": "m", "prompt": [1], "stream": True}


class Serving:
    """A running `llumnix serve`, and the one instance behind it."""

    def __init__(
        self, process: asyncio.subprocess.Process, url: str, log: Path, stub: StubInstance
    ) -> None:
        self.process, self.url, self.stub = process, url, stub
        self._log = log

    def log(self) -> str:
        return self._log.read_text()

    async def logged(self, text: str) -> None:
        """Wait until the log says this."""
        async with asyncio.timeout(SOON_S):
            while text not in self.log():  # noqa: ASYNC110 - a file signals no event
                await asyncio.sleep(0.02)

    async def ended(self) -> int:
        async with asyncio.timeout(SOON_S):
            return await self.process.wait()


@asynccontextmanager
async def serving(
    folder: Path, arguments: Sequence[str] = (), *, listed: bool = True
) -> AsyncIterator[Serving]:
    """Serve before one instance, which is a member from the start if it is `listed`."""
    stub = StubInstance("a", plugged=False)
    await stub.start()
    log = folder / "log"
    member = ("--instance", stub.url) if listed else ()
    with log.open("wb") as stderr:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "llumnix", "serve", "--port", "0", "--announce"),
            *("--log-level", "info", *member, *arguments),
            stdout=asyncio.subprocess.PIPE,
            stderr=stderr,
        )
    try:
        assert process.stdout is not None
        async with asyncio.timeout(SOON_S):
            url = json.loads(await process.stdout.readline())["url"]
        serving = Serving(process, url, log, stub)
        await serving.logged("event=instance_up")
        yield serving
    finally:
        await stop_process(process, 5.0)
        await stub.stop()


async def test_a_stream_outlives_the_signal_and_the_exit_is_clean(tmp_path: Path) -> None:
    gate = asyncio.Event()

    async def wait() -> None:
        await gate.wait()

    async with serving(tmp_path) as served, aiohttp.ClientSession(served.url) as session:
        served.stub.scripts.append(Script(pause=wait))

        async def read() -> bytes:
            async with session.post("/v1/completions", json=COMPLETION) as response:
                return await response.read()

        stream = asyncio.create_task(read())
        await served.stub.began.wait()
        served.process.send_signal(signal.SIGTERM)
        await served.logged("event=frontend_leaving")
        async with session.post("/v1/completions", json=COMPLETION) as late:
            assert late.status == 503
        gate.set()

        assert (await stream).endswith(DONE)
        assert await served.ended() == 0
    assert "Traceback" not in served.log()


async def test_a_second_signal_ends_at_once_and_quietly(tmp_path: Path) -> None:
    async with serving(tmp_path) as served, aiohttp.ClientSession(served.url) as session:
        served.stub.scripts.append(Script(tokens=2, then="hang"))
        response = await session.post("/v1/completions", json=COMPLETION)
        await response.content.readany()
        served.process.send_signal(signal.SIGTERM)
        await served.logged("event=frontend_leaving")
        served.process.send_signal(signal.SIGTERM)

        assert await served.ended() == 0
        response.close()
    log = served.log()
    assert "event=frontend_left cut_requests=1" in log
    assert "event=request_failed" in log
    for noise in ("Unclosed", "Traceback", "never retrieved", "destroyed"):
        assert noise not in log


async def test_before_it_is_ready_it_ends_as_well(tmp_path: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "llumnix", "serve", "--port", "0", "--emulate", "1"),
        *("--start-timeout-s", "600"),
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    await asyncio.sleep(0.5)  # wherever its start has come to
    process.send_signal(signal.SIGTERM)
    async with asyncio.timeout(SOON_S):
        _, stderr = await process.communicate()

    assert process.returncode in (0, -signal.SIGTERM)  # the latter: before Python ran at all
    assert b"Traceback" not in stderr


async def test_hangup_reads_the_file_again_and_no_stream_notices(tmp_path: Path) -> None:
    gate = asyncio.Event()

    async def wait() -> None:
        await gate.wait()

    settings = tmp_path / "llumnix.yaml"
    settings.write_text("scheduler: {dispatch: round-robin}")
    async with (
        serving(tmp_path, ["--config", str(settings)]) as served,
        aiohttp.ClientSession(served.url) as session,
    ):
        served.stub.scripts.append(Script(pause=wait))

        async def read() -> bytes:
            async with session.post("/v1/completions", json=COMPLETION) as response:
                return await response.read()

        stream = asyncio.create_task(read())
        await served.stub.began.wait()
        settings.write_text("scheduler: {dispatch: nonsense}")
        served.process.send_signal(signal.SIGHUP)
        await served.logged("event=reload_refused")
        settings.write_text("scheduler: {dispatch: random}\nfrontend: {backlog: 9}")
        served.process.send_signal(signal.SIGHUP)
        await served.logged("event=reloaded")
        gate.set()
        assert (await stream).endswith(DONE)

    log = served.log()
    assert "changed=scheduler.dispatch.name needs_restart=frontend.backlog" in log
    assert "Traceback" not in log


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--port", "70000", "--emulate", "1"], "port must be between 0 and 65535"),
        (["--instances", "http://a:1"], "did you mean --instance?"),
        (["--worker-urls", "http://a:1"], "did you mean --instance?"),
        (["--inst", "http://a:1"], "there is no flag --inst"),
    ],
)
async def test_what_cannot_be_meant_is_refused_in_one_line(arguments: list[str], said: str) -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "llumnix", "serve", *arguments),
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(SOON_S):
        _, stderr = await process.communicate()

    assert process.returncode == 2
    assert said in stderr.decode()
    assert len(stderr.splitlines()) == 1


async def test_hangup_lets_members_join_and_leave(tmp_path: Path) -> None:
    settings = tmp_path / "llumnix.yaml"
    other = StubInstance("b", plugged=False)
    await other.start()
    try:
        settings.write_text(f"fleet: {{instances: [{other.url}]}}")
        arguments = ["--config", str(settings)]
        async with serving(tmp_path, arguments, listed=False) as served:
            settings.write_text(f"fleet: {{instances: [{served.stub.url}]}}")
            served.process.send_signal(signal.SIGHUP)
            await served.logged(f"url={served.stub.url}")
            await served.logged("event=instance_leaving")
            settings.write_text("fleet: {instances: ['ftp://a']}")
            served.process.send_signal(signal.SIGHUP)
            await served.logged("event=reload_refused")
            async with (
                aiohttp.ClientSession(served.url) as session,
                session.post("/v1/completions", json=COMPLETION) as response,
            ):
                assert (await response.read()).endswith(DONE)
            assert len(served.stub.heard) == 1
    finally:
        await other.stop()
