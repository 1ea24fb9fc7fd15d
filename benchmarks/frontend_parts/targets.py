"""The routers that are compared: how each is started on its core, in front of the same servers."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from frontend_parts.tools import HERE, say, started
from speed_parts.process import RunFailedError, environment_with

VLLM_ROUTER = "0.1.17"
_START_TIMEOUT_S = 60.0
_ASK_TIMEOUT_S = 10.0
_ANSWERS_IN_A_ROW = 8
_QUESTION = json.dumps({"model": "m", "prompt": "Hello", "max_tokens": 1}).encode()


class NotStartedError(Exception):
    """A router does not serve; the message holds the end of its log."""


@dataclass(frozen=True, slots=True)
class Target:
    """A port to send load to, and the process whose CPU time it costs; None: the servers'."""

    name: str
    port: int
    pid: int | None


def commands(names: Sequence[str], folder: Path, workers: int = 1) -> dict[str, list[str]]:
    """Return how each router of these names is started; those that cannot be had are left out.

    "{port}", "{other_port}" and "{urls}" stand for what is known only then.
    """
    serve = [sys.executable, "-m", "llumnix", "serve", "--exit-with-parent"]
    serve += ["--port={port}", "--admin-port={other_port}"]
    found: dict[str, list[str]] = {}
    for name in names:
        if name == "llumnix":
            found[name] = [*serve, "--instance={urls}"]
        elif name == "llumnix-workers":
            found[name] = [*serve, f"--workers={workers}", "--instance={urls}"]
        elif name == "bare-aiohttp":
            found[name] = [sys.executable, str(HERE / "bare_proxy.py"), "{port}", "{urls}"]
        elif name == "nginx":
            found.update(_nginx(folder))
        elif name == "vllm-router":
            found.update(_vllm_router())
    return found


def _vllm_router() -> dict[str, list[str]]:
    given = os.environ.get("VLLM_ROUTER", "")
    try:
        program = given or str(
            environment_with(
                f"vllm-router-{VLLM_ROUTER}", [f"vllm-router=={VLLM_ROUTER}"]
            ).with_name("vllm-router")
        )
    except (RunFailedError, OSError) as error:
        say(f"NOT COMPARED WITH VLLM-ROUTER: it cannot be installed ({error})")
        return {}
    flags = "--host 127.0.0.1 --policy round_robin --log-level error"
    ports = ["--port", "{port}", "--prometheus-port", "{other_port}"]
    return {"vllm-router": [program, "--worker-urls", "{urls}", *flags.split(), *ports]}


def _nginx(folder: Path) -> dict[str, list[str]]:
    program = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")
    if program is None:
        say("NOT COMPARED WITH NGINX: it is not installed")
        return {}
    return {"nginx": [program, "-p", str(folder), "-c", str(folder / "nginx.conf")]}


def nginx_config(port: int, upstreams: Sequence[int], folder: Path) -> str:
    """Write nginx's configuration: one process, connections kept on both sides, no buffering."""
    servers = "".join(f"server 127.0.0.1:{each};" for each in upstreams)
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    temporary = "".join(f"{kind}_temp_path {folder}/{kind};" for kind in kinds)
    user = "user root;" if os.geteuid() == 0 else ""
    return f"""{user} daemon off; worker_processes 1;
pid {folder}/nginx.pid; error_log stderr error;
events {{ worker_connections 16384; }}
http {{
    access_log off; {temporary}
    keepalive_requests 1000000000; client_body_buffer_size 1m; client_max_body_size 64m;
    upstream engines {{ {servers} keepalive 1024; keepalive_requests 1000000000; }}
    server {{
        listen 127.0.0.1:{port} backlog=4096;
        location / {{
            proxy_pass http://engines; proxy_http_version 1.1; proxy_set_header Connection "";
            proxy_buffering off; proxy_read_timeout 600s;
        }}
    }}
}}
"""


@contextmanager
def running(
    commands: dict[str, list[str]], upstreams: Sequence[int], core: Sequence[int], folder: Path
) -> Iterator[list[Target]]:
    """Run the routers within the context, all on the same cores; only one at a time has work."""
    with ExitStack() as stack:
        targets = []
        for name, command in commands.items():
            port, other_port = free_port(), free_port()
            if name == "nginx":
                (folder / "nginx.conf").write_text(nginx_config(port, upstreams, folder))
            words = list(_filled(command, upstreams, port, other_port))
            log = stack.enter_context((folder / f"{name}.log").open("w+"))
            environment = {**os.environ, "LLUMNIX_SECRET": "", "LLUMNIX_ADMIN_TOKEN": ""}
            process = stack.enter_context(
                started(words, core, stdout=log, stderr=subprocess.STDOUT, env=environment)
            )
            wait_until_served(name, port, process, log)
            targets.append(Target(name, port, process.pid))
        yield targets


def _filled(
    command: Sequence[str], upstreams: Sequence[int], port: int, other_port: int
) -> Iterator[str]:
    for word in command:
        if word.endswith("{urls}"):
            urls = [f"http://127.0.0.1:{each}" for each in upstreams]
            yield from (word.replace("{urls}", url) for url in urls)
        else:
            yield word.replace("{port}", str(port)).replace("{other_port}", str(other_port))


def wait_until_served(name: str, port: int, process: "subprocess.Popen[str]", log: IO[str]) -> None:
    """Wait until a router has answered several requests. Raises NotStartedError."""
    until_s = time.monotonic() + _START_TIMEOUT_S
    good = 0
    while good < _ANSWERS_IN_A_ROW:
        if process.poll() is not None or time.monotonic() > until_s:
            log.seek(0)
            raise NotStartedError(f"{name} does not serve:\n{log.read()[-1500:]}")
        good = good + 1 if _answers(port) else 0
        time.sleep(0.1)


def _answers(port: int) -> bool:
    headers = {"Content-Type": "application/json"}
    url = f"http://127.0.0.1:{port}/v1/completions"
    request = urllib.request.Request(url, _QUESTION, headers)
    try:
        with urllib.request.urlopen(request, timeout=_ASK_TIMEOUT_S) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def has_workers() -> bool:
    """Whether this version of `llumnix serve` has workers."""
    command = [sys.executable, "-m", "llumnix", "serve", "--help"]
    told = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
    return "--workers" in told


def free_port() -> int:
    """Return a port of 127.0.0.1 that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
