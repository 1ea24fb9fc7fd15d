"""A frontend's admin API with canned answers, for tests of the commands that talk to one."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Answer = tuple[int, Any]


def instance(instance_id: str, **changes: Any) -> dict[str, Any]:
    """Make one row of the fleet's instances."""
    row: dict[str, Any] = {
        "id": instance_id,
        "url": f"http://127.0.0.1:1/{instance_id}",
        "state": "up",
        "kind": "llumnix",
        "engine": "",
        "capacity_tokens": 13616,
        "physical_tokens": 6808,
        "freeness": 123.4,
        "running": 7,
        "waiting": 2,
        "reserved_tokens": 512,
        "prefill_backlog_tokens": 0,
        "reason": "",
        "detail": "",
        "age_s": 0.25,
    }
    return row | changes


def fleet(*instances: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """Make an answer of GET /llumnix/fleet."""
    answer: dict[str, Any] = {
        "policy": "freeness",
        "migration": True,
        "speed": 10.0,
        "now_s": 3725.0,
        "classes": ["high", "normal"],
        "queue": {"length": 4, "limit": 512},
        "instances": list(instances) or [instance("emu-0"), instance("emu-1")],
        "migrations": [],
        "totals": {
            "requests": 1234,
            "finished": 1200,
            "failed": 0,
            "rejected": 3,
            "resumed": 45,
            "migrations_committed": 120,
            "migrations_aborted": 6,
            "streams_open": 31,
            "downtime_ms": [float(n) for n in range(1, 101)],
            "gap_ms": [],
        },
    }
    return answer | changes


class StubFrontend:
    """Answers each path from `answers`: a list is played to its last entry, which then stays."""

    def __init__(self) -> None:
        self.answers: dict[str, list[Answer]] = {
            "GET /llumnix/fleet": [(200, fleet())],
            "GET /llumnix/events": [(200, {"next": 0, "events": []})],
        }
        self.asked: list[tuple[str, str, Any]] = []
        self.url = ""

    def answer(self, method: str, path: str, body: Any) -> Answer:
        """Look up what to say, and note that it was asked."""
        self.asked.append((method, path, body))
        script = self.answers.get(f"{method} {path.partition('?')[0]}")
        if not script:
            return 404, {
                "error": {"message": "not found", "type": "x", "param": None, "code": None}
            }
        return script.pop(0) if len(script) > 1 else script[0]


@contextmanager
def serving(stub: StubFrontend) -> Iterator[StubFrontend]:
    """Serve the stub on a free loopback port for as long as the context lasts."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._reply(None)

        def do_POST(self) -> None:
            self._reply(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

        do_DELETE = do_POST  # noqa: N815 - as the base class asks

        def _reply(self, body: Any) -> None:
            status, answer = stub.answer(self.command, self.path, body)
            payload = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(payload)))
            self.end_headers()
            self.wfile.write(payload)

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class names it
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    stub.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield stub
    finally:
        server.shutdown()
        server.server_close()
        thread.join(timeout=5)
