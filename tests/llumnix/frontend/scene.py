"""One request on a stage of vLLM instances, and the events around its migration, one at a time."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from policies.types import RequestId
from tests.llumnix.frontend.splicing.vllm_chunks import VllmWriter
from tests.llumnix.frontend.stage import Stage, until
from tests.llumnix.frontend.stub import TOKENS
from tests.llumnix.frontend.vllm_stub import Stay, VllmInstance

REQUEST = RequestId("r")


class Scene:
    """A request that runs at `a`; it may be moved to `b`, and be carried on by any."""

    def __init__(self, stage: Stage, body: dict[str, Any], *, chat: bool, stream: bool) -> None:
        self.stage = stage
        self.chat = chat
        self.body = {"messages" if chat else "prompt": [], **body, "stream": stream}
        self.got = asyncio.create_task(self._ask(chat=chat, stream=stream, body=body))

    async def _ask(self, *, chat: bool, stream: bool, body: dict[str, Any]) -> bytes:
        async with self.stage.post(body, chat=chat, stream=stream, X_Request_Id=REQUEST) as got:
            read: bytes = await got.read()
            return read

    def at(self, name: str, index: int = -1) -> Stay:
        """Give a stay at an instance, the latest unless said."""
        return self._vllm(name).stays[index]

    def stays(self, name: str) -> int:
        """Count the stays at an instance."""
        return len(self._vllm(name).stays)

    async def next_stay(self, *before: Stay) -> Stay:
        """Wait for a stay, anywhere, that is none of these."""

        def found() -> Stay | None:
            stays = [
                each for name in "abc"[: len(self.stage.stubs)] for each in self._vllm(name).stays
            ]
            return next((each for each in stays if each not in before), None)

        await until(found)
        stay = found()
        assert stay is not None
        return stay

    async def arrived(self, name: str, count: int = 1) -> Stay:
        """Wait until an instance has been sent the request so many times."""
        await until(lambda: self.stays(name) >= count)
        return self.at(name)

    async def client_has(self, tokens: int) -> None:
        """Wait until the client has been sent so many tokens."""
        active = self.stage.fleet.requests.active
        await until(lambda: [each.tokens() for each in active.values()] == [tokens])

    def start(self, migration_id: str = "m", source: str = "a", destination: str = "b") -> None:
        """Let a migration of the request start."""
        self.stage.order(migration_id, source, destination)
        self.stage.started(migration_id, REQUEST, source, destination)

    def end(self, kind: str, migration_id: str = "m", *, unresolved: bool = False) -> None:
        """Let the source say what became of the migration."""
        self.stage.ended(migration_id, kind, REQUEST, "a", "b", unresolved=unresolved)

    def url_of(self, name: str) -> str:
        """Give the id of an instance that has no name for itself."""
        return self._vllm(name).url.removeprefix("http://")

    def resumes(self, name: str) -> list[tuple[str | None, bool, int]]:
        """List what an instance was asked to carry on: migration, early, tokens known."""
        told = [stay.heard.resume for stay in self._vllm(name).stays]
        return [
            (each["migration_id"], each["early"], len(each["output_token_ids"]))
            for each in told
            if each is not None
        ]

    async def unmoved(self, tokens: int = TOKENS) -> bytes:
        """Give the bytes of the same request when it is not moved, nor anything asked for it."""
        stay = Stay(self.at("a", 0).heard, VllmWriter(self.body, created=98, request_id=REQUEST))
        stay.finish(tokens)
        written = stay.writer.opening() if self.body["stream"] else b""
        while not stay.orders.empty():
            written += stay.orders.get_nowait()[1]
        return written

    def _vllm(self, name: str) -> VllmInstance:
        found = next(each for each in self.stage.stubs if each.name == name)
        assert isinstance(found, VllmInstance)
        return found


@asynccontextmanager
async def scene(
    body: dict[str, Any] | None = None,
    *,
    chat: bool = False,
    stream: bool = True,
    instances: int = 2,
    plugged: bool = True,
    **config: Any,
) -> AsyncIterator[Scene]:
    """Set the scene: the request has arrived at `a`."""
    config = {"claim_patience_s": 20.0, **config}
    async with Stage(instances, engine=VllmInstance, plugged=plugged, **config) as stage:
        made = Scene(stage, body or {}, chat=chat, stream=stream)
        try:
            await made.arrived("a")
            yield made
        finally:
            made.got.cancel()
            await asyncio.gather(made.got, return_exceptions=True)
