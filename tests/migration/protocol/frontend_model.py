"""The frontend as arbiter: it holds every stream, claims what has moved, recomputes what was lost.

Every token is checked as the client gets it: exactly once, in order, and the very one the request
gives when left alone (INV-2 and INV-4).
"""

from dataclasses import dataclass, field

from policies.types import InstanceId, MigrationId, RequestId
from tests.migration.chain import expected_output
from tests.migration.fake_engine import FakeEngine


@dataclass
class Stream:
    """One client's stream; `feeder` is the instance and request its tokens come from now."""

    prompt: tuple[int, ...]
    max_tokens: int
    expected: tuple[int, ...]
    feeder: tuple[InstanceId, RequestId] | None
    tokens: list[int] = field(default_factory=list)
    redirect: MigrationId | None = None
    state: str = "open"


class Frontend:
    """All streams. Listens to the engines; `repair` is what it does when a stream has no feeder."""

    def __init__(self) -> None:
        self.streams: dict[RequestId, Stream] = {}
        self.destinations: dict[MigrationId, InstanceId] = {}
        self._recomputes = 0

    def open(self, engine: FakeEngine, request_id: RequestId, prompt: list[int], n: int) -> None:
        """Send a new request to an engine."""
        expected = expected_output(prompt, n)
        feeder = (engine.instance_id, request_id)
        self.streams[request_id] = Stream(tuple(prompt), n, expected, feeder)
        engine.submit(request_id, prompt, [], n)

    # --- what engines say ---

    def token(self, instance_id: InstanceId, request_id: RequestId, token: int) -> None:
        stream = self._fed_by(instance_id, request_id)
        if stream is not None:
            self._deliver(stream, token)

    def ended(self, instance_id: InstanceId, request_id: RequestId, redirect: str) -> None:
        stream = self._fed_by(instance_id, request_id)
        if stream is None:
            return
        stream.feeder = None
        if redirect:
            migration_id = redirect.removeprefix("migrate:")
            stream.redirect = None if migration_id == "requeue" else MigrationId(migration_id)
        else:
            assert tuple(stream.tokens) == stream.expected, "a stream ended early"
            stream.state = "finished"

    def instance_lost(self, instance_id: InstanceId) -> None:
        """An instance died: its streams broke off."""
        for stream in self.streams.values():
            if stream.feeder and stream.feeder[0] == instance_id:
                stream.feeder = None

    # --- what the frontend does ---

    def cancelled(self, request_id: RequestId) -> None:
        """The client left."""
        stream = self.streams[request_id]
        stream.state, stream.feeder, stream.redirect = "cancelled", None, None

    def waiting(self) -> list[RequestId]:
        """List the streams nobody feeds."""
        return [
            key
            for key, stream in self.streams.items()
            if stream.state == "open" and stream.feeder is None
        ]

    def repair(self, request_id: RequestId, engines: dict[InstanceId, FakeEngine]) -> None:
        """Claim a moved request where it went; failing that, recompute it on any instance."""
        stream = self.streams[request_id]
        migration_id, stream.redirect = stream.redirect, None
        if migration_id is not None:
            engine = engines.get(self.destinations[migration_id])
            claimed = engine.claim(migration_id) if engine else None
            if engine is not None and claimed is not None:
                stream.feeder = (engine.instance_id, claimed.request_id)
                self._replay(stream, claimed.outputs)
                if claimed.request_id not in engine.running:
                    self.ended(engine.instance_id, claimed.request_id, "")
                return
        self._recompute(request_id, stream, engines)

    def _recompute(
        self, request_id: RequestId, stream: Stream, engines: dict[InstanceId, FakeEngine]
    ) -> None:
        """Resume from the tokens the client has, under a name no engine knows yet."""
        if len(stream.tokens) == stream.max_tokens:
            stream.state = "finished"
            return
        engine = min(engines.values(), key=lambda engine: engine.instance_id, default=None)
        if engine is None:
            stream.state = "failed"
            return
        self._recomputes += 1
        name = RequestId(f"{request_id}+{self._recomputes}")
        stream.feeder = (engine.instance_id, name)
        engine.submit(name, stream.prompt, stream.tokens, stream.max_tokens)

    def _replay(self, stream: Stream, outputs: list[int]) -> None:
        known = len(stream.tokens)
        assert outputs[:known] == stream.tokens, "a continuation does not begin with what was sent"
        for token in outputs[known:]:
            self._deliver(stream, token)

    def _deliver(self, stream: Stream, token: int) -> None:
        position = len(stream.tokens)
        assert position < len(stream.expected), "a token too many"
        assert token == stream.expected[position], f"wrong token at {position}"
        stream.tokens.append(token)

    def _fed_by(self, instance_id: InstanceId, request_id: RequestId) -> Stream | None:
        for stream in self.streams.values():
            if stream.feeder == (instance_id, request_id):
                return stream
        return None
