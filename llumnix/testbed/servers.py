"""`vllm serve` processes on loopback: started together, healthy when yielded, stopped at exit."""

import asyncio
import json
import os
import random
import re
import secrets
import signal
import socket
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

from llumnix.errors import LaunchError
from llumnix.testbed.environment import Environment
from llumnix.testbed.overlay import write_overlay

MODEL_NAME = "tiny"
START_TIMEOUT_S = 300.0
_POLL_S = 0.2
_STOP_GRACE_S = 10.0
_SHOWN_CHARACTERS = 3000
# Below the range from which the kernel picks ports for outgoing connections.
_PORTS = range(20000, 30000)


def connector_config(extra: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return the `--kv-transfer-config` that switches the plugin on."""
    return {
        "kv_connector": "LlumnixConnector",
        "kv_connector_module_path": "migration.vllm.connector",
        "kv_role": "kv_both",
        "kv_load_failure_policy": "recompute",
        "kv_connector_extra_config": dict(extra or {}),
    }


@dataclass(frozen=True, slots=True)
class ServerOptions:
    """How to run one server. Servers that migrate to each other share `secret`.

    `dtype` must be given: vLLM would turn a float32 model into a bfloat16 one. Each step of the
    model sleeps for `step_s`, so that there is time to migrate a request of a tiny model.
    `plugin_settings` are the plugin's own; `arguments` are further ones of `vllm serve`, which win
    over the defaults; `variables` are further environment variables. `api_key` is what its clients
    must send, if set; `certificate` holds the files of its certificate and key, if it speaks https.
    """

    environment: Environment
    model: Path
    plugin: bool = False
    secret: str = ""
    plugin_settings: Mapping[str, Any] = field(default_factory=dict)
    dtype: str = "float32"
    blocks: int = 512
    block_tokens: int = 32
    max_context: int = 8192
    async_scheduling: bool = False
    step_s: float = 0.0
    api_key: str = ""
    certificate: tuple[Path, Path] | None = None
    arguments: tuple[str, ...] = ()
    variables: Mapping[str, str] = field(default_factory=dict)

    def command(self, port: int) -> list[str]:
        """Return the command line of the server."""
        command = [
            *(str(self.environment.python), "-m", "llumnix.testbed.serve_child"),
            *("serve", str(self.model), f"--port={port}", "--host=127.0.0.1"),
            *(
                f"--served-model-name={MODEL_NAME}",
                "--enforce-eager",
                "--seed=0",
                f"--dtype={self.dtype}",
            ),
            *(f"--block-size={self.block_tokens}", f"--num-gpu-blocks-override={self.blocks}"),
            *(f"--max-model-len={self.max_context}", "--max-num-seqs=32"),
            # vLLM 0.32 on a CPU: a seeded request whose prefill is chunked kills the engine.
            f"--max-num-batched-tokens={max(32768, self.max_context)}",
        ]
        if self.plugin:
            config = json.dumps(connector_config(self.plugin_settings))
            command.append(f"--kv-transfer-config={config}")
        if self.api_key:
            command.append(f"--api-key={self.api_key}")
        if self.certificate is not None:
            certificate, key = self.certificate
            command += [f"--ssl-certfile={certificate}", f"--ssl-keyfile={key}"]
        return [*command, *self.arguments]

    def process_environment(self, overlay: Path) -> dict[str, str]:
        """Return the environment variables of the server."""
        inherited = {
            key: os.environ[key] for key in ("HOME", "LANG", "TMPDIR") if key in os.environ
        }
        return {
            **inherited,
            "PATH": f"{self.environment.python.parent}:{os.environ.get('PATH', os.defpath)}",
            "PYTHONPATH": str(overlay),
            "PYTHONUNBUFFERED": "1",
            "LLUMNIX_SECRET": self.secret,
            "OMP_NUM_THREADS": "1",
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
            "VLLM_CPU_KVCACHE_SPACE": "1",
            "VLLM_NO_USAGE_STATS": "1",
            "DO_NOT_TRACK": "1",
            "HF_HUB_OFFLINE": "1",
            **self.variables,
        }


class VllmServer:
    """One server process and its children, a process group of their own."""

    def __init__(self, name: str, options: ServerOptions, folder: Path) -> None:
        self.name = name
        self.options = options
        self.log_path = folder / f"{name}.log"
        self.url = ""
        self._port = 0
        self._overlay = folder / f"{name}.overlay"
        self._process: asyncio.subprocess.Process | None = None

    @property
    def pid(self) -> int:
        """The API server's process id, which is also its group's."""
        assert self._process is not None, "not started"
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether the API server's process is running."""
        return self._process is not None and self._process.returncode is None

    async def start(self, timeout_s: float = START_TIMEOUT_S) -> None:
        """Start it (again) and wait until it is healthy; raises LaunchError with its log's end."""
        options = self.options
        write_overlay(
            self._overlay,
            options.environment.version,
            async_scheduling=options.async_scheduling,
            step_s=options.step_s,
        )
        self._port = (
            self._port or free_port()
        )  # the same as before: the fleet knows it by its address
        port = self._port
        self.url = f"{'https' if options.certificate else 'http'}://127.0.0.1:{port}"
        with self.log_path.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *options.command(port),
                stdin=asyncio.subprocess.PIPE,
                stdout=log,
                stderr=log,
                env=options.process_environment(self._overlay),
                start_new_session=True,
            )
        try:
            async with asyncio.timeout(timeout_s):
                await self._healthy()
        except TimeoutError as error:
            await self.kill()
            raise self._failed(f"was not healthy within {timeout_s:g} s") from error
        except BaseException:
            await self.kill()
            raise

    async def _healthy(self) -> None:
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=5.0)) as session:
            while self.alive:
                with suppress(aiohttp.ClientError, OSError, TimeoutError):
                    # Whose certificate it is does not matter here: only whether it is up.
                    async with session.get(f"{self.url}/health", ssl=False) as answer:
                        if answer.status == 200:
                            return
                await asyncio.sleep(_POLL_S)
        raise self._failed("gave up starting")

    def _failed(self, what: str) -> LaunchError:
        return LaunchError(
            f"vLLM server {self.name} {what}; its log {self.log_path} says:\n"
            f"{_causes(self.log_path.read_text(errors='replace'))}"
        )

    async def stop(self, grace_s: float = _STOP_GRACE_S) -> None:
        """Terminate it; kill what is left after the grace period, engine included."""
        if self.alive:
            with suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGTERM)
            with suppress(TimeoutError):
                async with asyncio.timeout(grace_s):
                    await self._ended()
        await self.kill()

    async def kill(self) -> None:
        """`kill -9` the server, its engine and its workers, all at once."""
        if self._process is None:
            return
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        await self._ended()

    async def _ended(self) -> None:
        assert self._process is not None
        await self._process.wait()
        if self._process.stdin is not None:
            self._process.stdin.close()


@asynccontextmanager
async def launched_vllm(
    options: Sequence[ServerOptions],
    log_dir: Path | None = None,
    *,
    start_timeout_s: float = START_TIMEOUT_S,
) -> AsyncIterator[list[VllmServer]]:
    """Run one server per entry of `options` within the context, all started at once.

    If one does not start, stops the others and raises LaunchError.
    """
    folder = log_dir or Path(tempfile.mkdtemp(prefix="llumnix-vllm-"))
    folder.mkdir(parents=True, exist_ok=True)
    servers = [VllmServer(f"vllm-{number}", each, folder) for number, each in enumerate(options)]
    try:
        async with asyncio.TaskGroup() as starting:
            for server in servers:
                starting.create_task(server.start(start_timeout_s))
    except ExceptionGroup as group:
        await asyncio.gather(*(server.kill() for server in servers))
        raise group.exceptions[0] from group
    try:
        yield servers
    finally:
        await asyncio.gather(*(server.stop() for server in servers))


def fleet_options(
    environment: Environment,
    model: Path,
    count: int = 2,
    *,
    plugin: bool = True,
    secret: str = "",
    arguments: tuple[str, ...] = (),
    async_scheduling: bool = False,
    blocks: int = 512,
    dtype: str = "float32",
) -> list[ServerOptions]:
    """Return the options of equal servers that can migrate to each other."""
    one = ServerOptions(
        environment,
        model,
        plugin=plugin,
        secret=secret or secrets.token_hex(16),
        arguments=arguments,
        async_scheduling=async_scheduling,
        blocks=blocks,
        dtype=dtype,
    )
    return [one] * count


def _causes(log: str) -> str:
    """Return the distinct lines that name an error, in order; without any, the log's end."""
    lines = [line.split("] ", 1)[-1].strip() for line in log.splitlines()]
    named = [line for line in lines if re.match(r"[\w.]*(Error|Exception|Incompatible\w*): ", line)]
    causes = "\n".join(dict.fromkeys(named)) or log[-_SHOWN_CHARACTERS:]
    return causes[:_SHOWN_CHARACTERS]


def free_port() -> int:
    """Return a loopback port that is not in use."""
    for port in random.SystemRandom().sample(_PORTS, 100):
        with socket.socket() as tried:
            try:
                tried.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise LaunchError(f"no free port among {_PORTS.start}-{_PORTS.stop}")
