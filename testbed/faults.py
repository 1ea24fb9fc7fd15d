"""One fault, at one moment of one migration between real servers: what happens to the stream?"""

import asyncio
import contextlib
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from llumnix.testbed.servers import MODEL_NAME, VllmServer
from testbed.cases import Case
from testbed.chaos import Act, ChaosProxy, Seen, let_pass
from testbed.recorder import Recording, differences, record
from testbed.stack import Stack

MOMENTS = (
    "reserve",
    "reserved",
    "blocks",
    "stage_done",
    "stage_ack",
    "last reserve",
    "last blocks",
    "commit",
    "committed",
    "first new tokens",
)
"""The messages of a migration in order; a fault is injected while one of them is under way.

The last is none: the destination has resumed.
"""
CUT_LETTERS = 20
BLOCKS, MAX_CONTEXT = 160, 4096
"""Of each server: so little memory that a few long prompts fill it."""
_HOGS, _HOG_TOKENS, _HOG_STEPS = 2, 2400, 150
_NEW_TOKENS = 3
_WORDS_S = 0.25
_TIMEOUT_S = 60.0
_HELD_S = 4.0


@dataclass(frozen=True, slots=True)
class FaultCase:
    """What goes wrong, when, and with which kind of request."""

    fault: str
    moment: str
    case: Case
    prompt: str
    stream: bool = True

    @property
    def name(self) -> str:
        """For the report's readers."""
        how = "" if self.stream else " (whole)"
        return f"{self.fault} at {self.moment}, {self.case.name}{how}"


@dataclass(slots=True)
class FaultOutcome:
    """The outcome; `wrong` lists what should not have happened."""

    name: str
    struck: bool
    moved: bool
    seconds: float
    wrong: list[str] = field(default_factory=list)


class Trap:
    """Waits for a moment of a migration on the way to one server, and strikes once."""

    def __init__(self, moment: str, strike: Callable[[], Awaitable[Act]]) -> None:
        self.struck = False
        self._moment = moment
        self._strike = strike
        self._reserves = 0

    async def watch(self, seen: Seen) -> Act:
        """Decide about a message."""
        if seen.kind == "reserve":
            self._reserves += 1
        late = self._reserves > 1
        moment = f"last {seen.kind}" if late and seen.kind in ("reserve", "blocks") else seen.kind
        if self.struck or moment != self._moment:
            return Act.PASS
        return await self.strike()

    async def strike(self) -> Act:
        """Do it now."""
        self.struck = True
        return await self._strike()


class FaultRun:
    """Runs fault cases on a stack whose servers each have a proxy before their control port."""

    def __init__(self, stack: Stack, proxies: Mapping[str, ChaosProxy]) -> None:
        self._stack = stack
        self._proxies = proxies
        self._references: dict[tuple[str, str, bool], Recording] = {}
        self._hogs: list[asyncio.Task[None]] = []
        self._drained: list[str] = []

    async def run(self, case: FaultCase) -> FaultOutcome:
        """Run one case: the stream must be as if undisturbed, and nothing may be left over."""
        expected = await self._reference(case)
        request_id = f"fault-{secrets.token_hex(6)}"
        began_s = time.monotonic()
        asking = asyncio.create_task(self._ask(case, request_id))
        trap = await self._disturb(case, request_id, asking)
        outcome = FaultOutcome(case.name, struck=False, moved=False, seconds=0.0)
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                got = await asking
        except TimeoutError:
            outcome.wrong.append(f"no end within {_TIMEOUT_S:g} s")
        except asyncio.CancelledError:
            if case.fault != "disconnect":
                raise
        else:
            outcome.wrong += differences(expected, got)
        for proxy in self._proxies.values():
            proxy.watch = let_pass
        await self._set_right()
        outcome.struck = trap is not None and trap.struck
        outcome.seconds = time.monotonic() - began_s
        outcome.moved = await self._was_moved(request_id)
        outcome.wrong += await self._left_over()
        await self._revive()
        return outcome

    async def _reference(self, case: FaultCase) -> Recording:
        key = (case.case.name, case.prompt, case.stream)
        if key not in self._references:
            self._references[key] = await self._ask(case, f"reference-{secrets.token_hex(6)}")
            assert not self._references[key].error, self._references[key].error
        return self._references[key]

    async def _ask(self, case: FaultCase, request_id: str) -> Recording:
        fleet = self._stack.fleet
        body = case.case.whole_body(case.prompt, stream=case.stream, salt=secrets.token_hex(4))
        url = f"{fleet.url}{case.case.path}"
        return await record(fleet.session, url, body, request_id, lambda _: None)

    async def _disturb(
        self, case: FaultCase, request_id: str, asking: "asyncio.Task[Recording]"
    ) -> Trap | None:
        """Set the trap at the destination's proxy and order the migration."""
        source = await self._place_of(request_id, asking, stream=case.stream)
        if source is None:
            return None
        names = [server.name for server in self._stack.servers]
        destination = names[(names.index(source) + 1) % len(names)]
        trap = Trap(case.moment, self._striker(case.fault, source, destination, asking))
        self._proxies[destination].watch = trap.watch
        status, told = await self._stack.fleet.post(
            "/llumnix/migrate", {"request_id": request_id, "destination": destination}
        )
        assert status == 200 or asking.done(), told
        if case.moment == MOMENTS[-1] and await self._goes_on_at(destination, request_id, asking):
            await trap.strike()
        return trap

    async def _goes_on_at(
        self, destination: str, request_id: str, asking: "asyncio.Task[Recording]"
    ) -> bool:
        """Wait until a moved request has a few tokens of its new place; False: it ended before."""
        had: int | None = None
        while not asking.done():
            for row in await self._stack.fleet.get("/llumnix/requests"):
                if row["request_id"] == request_id and row["instance_id"] == destination:
                    had = row["tokens"] if had is None else had
                    if row["tokens"] >= had + _NEW_TOKENS:
                        return True
            await asyncio.sleep(0.01)
        return False

    async def _place_of(
        self, request_id: str, asking: "asyncio.Task[Recording]", *, stream: bool
    ) -> str | None:
        """Find the answering server, once it has sent a few words (or could have)."""
        began_s = time.monotonic()
        while not asking.done():
            speaks = time.monotonic() - began_s > _WORDS_S and not stream
            for row in await self._stack.fleet.get("/llumnix/requests"):
                here = row["request_id"] == request_id and row["instance_id"]
                if here and (speaks or row["tokens"] >= CUT_LETTERS):
                    return str(row["instance_id"])
            await asyncio.sleep(0.02)
        return None

    def _striker(
        self, fault: str, source: str, destination: str, asking: "asyncio.Task[Recording]"
    ) -> Callable[[], Awaitable[Act]]:
        async def strike() -> Act:
            match fault:
                case "kill source":
                    await self._server(source).kill()
                case "kill destination":
                    await self._server(destination).kill()
                case "disconnect":
                    asking.cancel()
                case "finish":
                    with contextlib.suppress(TimeoutError, asyncio.CancelledError):
                        async with asyncio.timeout(_HELD_S):
                            await asyncio.shield(asking)
                case "preempt":
                    await self._preempt(source)
                case "fill memory":
                    await self._fill(destination)
                case "drain":
                    await self._drain(destination, on=True)
                    self._drained.append(destination)
                case "cut":
                    return Act.CUT
                case "drop":
                    return Act.DROP
                case _:
                    raise AssertionError(fault)
            return Act.PASS

        return strike

    async def _preempt(self, name: str) -> None:
        """Make vLLM throw all running requests back into its queue."""
        url = f"{self._server(name).url}/reset_prefix_cache?reset_running_requests=true"
        async with self._stack.fleet.session.post(url) as answer:
            answer.raise_for_status()

    async def _fill(self, name: str) -> None:
        """Occupy nearly all KV blocks of a server, bypassing the frontend."""
        url = f"{self._server(name).url}/v1/completions"
        begun = [asyncio.Event() for _ in range(_HOGS)]
        self._hogs += [
            asyncio.create_task(self._hog(url, number, begun[number])) for number in range(_HOGS)
        ]
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_HELD_S):
                await asyncio.gather(*(each.wait() for each in begun))

    async def _hog(self, url: str, number: int, begun: asyncio.Event) -> None:
        body = {
            "model": MODEL_NAME,
            "prompt": [40 + (number + place) % 60 for place in range(_HOG_TOKENS)],
            "max_tokens": _HOG_STEPS,
            "ignore_eos": True,
            "stream": True,
            "cache_salt": secrets.token_hex(4),
        }
        async with self._stack.fleet.session.post(url, json=body) as answer:
            answer.raise_for_status()
            async for _ in answer.content:
                begun.set()

    async def _drain(self, name: str, *, on: bool) -> None:
        status, told = await self._stack.fleet.post(
            "/llumnix/drain", {"instance_id": name, "on": on}
        )
        assert status == 200, told

    async def _set_right(self) -> None:
        """Undo what a strike has changed for longer than a moment."""
        for hog in self._hogs:
            hog.cancel()
        ended = await asyncio.gather(*self._hogs, return_exceptions=True)
        self._hogs = []
        for error in ended:
            if isinstance(error, Exception):
                raise error
        while self._drained:
            await self._drain(self._drained.pop(), on=False)

    def _server(self, name: str) -> VllmServer:
        return next(server for server in self._stack.servers if server.name == name)

    async def _was_moved(self, request_id: str) -> bool:
        events = (await self._stack.fleet.get("/llumnix/events"))["events"]
        return any(
            event["kind"] == "migration_committed" and event.get("request_id") == request_id
            for event in events
        )

    async def _left_over(self) -> list[str]:
        """List what is still held on living servers: KV blocks, staging memory, migrations."""
        held = await self._stack.leaked()
        return [f"{name} still holds {share:g}" for name, share in held.items()]

    async def _revive(self) -> None:
        dead = [server for server in self._stack.servers if not server.alive]
        await asyncio.gather(*(server.start() for server in dead))
        await self._stack.fleet.up(len(self._stack.servers))


def summary(outcomes: list[FaultOutcome]) -> dict[str, Any]:
    """Return the figures of a run."""
    struck = [outcome for outcome in outcomes if outcome.struck]
    wrong = [outcome for outcome in outcomes if outcome.wrong]
    return {
        "cases": len(outcomes),
        "struck": len(struck),
        "moved_all_the_same": sum(outcome.moved for outcome in struck),
        "wrong": len(wrong),
        "wrong_examples": [f"{one.name}: {'; '.join(one.wrong)}" for one in wrong[:20]],
        "not_struck": sorted(one.name for one in outcomes if not one.struck),
        "longest_s": round(max((one.seconds for one in outcomes), default=0.0), 1),
    }
