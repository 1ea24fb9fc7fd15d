"""A server on a loopback port that answers each GET as a test says, over TLS if it says so."""

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

_TURNS = 5
MODELS = json.dumps({"object": "list", "data": [{"id": "m", "object": "model"}]})


@dataclass(frozen=True, slots=True)
class Reply:
    """What is answered; the connection stays open."""

    body: str | bytes = ""
    status: int = 200
    headers: tuple[str, ...] = ()
    kind: str = "application/json"

    def bytes(self) -> bytes:
        body = self.body.encode() if isinstance(self.body, str) else self.body
        lines = [f"HTTP/1.1 {self.status} X", f"Content-Type: {self.kind}", *self.headers]
        return "\r\n".join([*lines, f"Content-Length: {len(body)}", "", ""]).encode() + body


Answer = Callable[[str, Mapping[str, str]], Reply | None]
"""Given a path and its headers (names in lower case); None answers nothing, ever."""


@dataclass
class RawServer:
    """Answers models and an empty metrics page unless `answer` says otherwise."""

    tls: ssl.SSLContext | None = None
    models: list[str] = field(default_factory=lambda: ["m"])
    metrics: str | bytes = ""
    path: str = ""
    asked: list[str] = field(default_factory=list)
    port: int = 0

    def __post_init__(self) -> None:
        self.answer: Answer = self.usual
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()

    def usual(self, path: str, headers: Mapping[str, str]) -> Reply | None:
        """Answer as a plain OpenAI-compatible server."""
        if path == f"{self.path}/v1/models":
            data = [{"id": each, "object": "model"} for each in self.models]
            return Reply(json.dumps({"object": "list", "data": data}))
        if path == f"{self.path}/metrics" and self.metrics:
            return Reply(self.metrics, kind="text/plain")
        if path.startswith(f"{self.path}/v1/"):
            return Reply(json.dumps({"choices": [{"text": "hi"}], "path": path}))
        return Reply("{}", 404)

    @property
    def url(self) -> str:
        scheme = "http" if self.tls is None else "https"
        return f"{scheme}://127.0.0.1:{self.port}{self.path}"

    async def start(self) -> None:
        self._server = await asyncio.start_server(
            self._serve, "127.0.0.1", self.port, ssl=self.tls, reuse_address=True
        )
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Stop listening and cut all connections."""
        assert self._server is not None
        self._server.close()
        # One that was accepted in this moment is known a few turns later.
        for _ in range(_TURNS):
            for writer in list(self._writers):
                writer.transport.abort()
            await asyncio.sleep(0)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            while True:
                first = await reader.readexactly(1)
                if not first.isalpha():  # a TLS greeting to a plain port
                    writer.write(Reply("", 400).bytes())
                    break
                rest = await reader.readuntil(b"\r\n\r\n")
                head = (first + rest).decode("latin-1").split("\r\n")
                headers = {
                    name.strip().lower(): value.strip()
                    for name, _, value in (line.partition(":") for line in head[1:] if line)
                }
                await reader.readexactly(int(headers.get("content-length", "0")))
                path = head[0].split(" ")[1]
                self.asked.append(path)
                reply = self.answer(path, headers)
                if reply is None:
                    await asyncio.Event().wait()
                else:
                    writer.write(reply.bytes())
        except (OSError, EOFError, asyncio.CancelledError):
            pass
        finally:
            self._writers.discard(writer)
            writer.close()


@asynccontextmanager
async def raw_server(answer: Answer | None = None, **more: object) -> AsyncIterator[RawServer]:
    """Run such a server."""
    server = RawServer(**more)  # type: ignore[arg-type]
    if answer is not None:
        server.answer = answer
    await server.start()
    try:
        yield server
    finally:
        await server.stop()
