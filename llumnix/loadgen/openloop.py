"""Open-loop load: each request is sent at its scheduled time, whatever became of the others."""

import asyncio
import json
import resource
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field

from llumnix.loadgen.exchange import Endpoint, post
from llumnix.loadgen.prompts import PromptSource
from llumnix.loadgen.records import RequestRecord, Sent, make_record
from simulator.workload.request import TraceRequest

# Responses are parsed after the run, at no cost to it, until they fill this many bytes.
KEPT_ANSWERS_BYTES = 512 * 2**20
# Time for the loop to settle before the first request is due (wall).
LEAD_S = 0.05

Progress = Callable[[int, int, int], None]
"""Called with the number of requests done, in all, and in flight."""


@dataclass(frozen=True, slots=True)
class LoadOptions:
    """How to send a workload.

    `speed` is the number of fleet seconds per wall second. `timeout_s` (wall) bounds each request
    from its sending to the end of its stream; `max_open` (0: no bound) bounds the requests open at
    once: one beyond it waits, and its wait counts as slip of the generator. Up to
    `kept_answers_bytes` of responses are kept raw, and parsed only after the run.
    """

    model: str
    speed: float = 1.0
    prompts: PromptSource = field(default_factory=PromptSource)
    return_token_ids: bool = False
    timeout_s: float = 600.0
    max_open: int = 0
    headers: Mapping[str, str] = field(default_factory=dict)
    kept_answers_bytes: int = KEPT_ANSWERS_BYTES

    def __post_init__(self) -> None:
        if self.speed <= 0 or self.timeout_s <= 0 or self.max_open < 0:
            raise ValueError("speed and timeout_s must be above 0, max_open 0 or more")


async def run_load(
    requests: Sequence[TraceRequest],
    endpoint: Endpoint,
    options: LoadOptions,
    progress: Progress | None = None,
) -> list[RequestRecord]:
    """Send a workload and return every request's record, in the workload's order."""
    _allow_many_files()
    run = _Run(len(requests), endpoint, options, progress)
    async with asyncio.TaskGroup() as tasks:
        for request in sorted(requests, key=lambda request: request.arrival_s):
            body = _body(request, options)  # made before it is due: making it takes a while
            await asyncio.sleep(max(0.0, run.due_in_s(request)))
            tasks.create_task(run.send(request, body))
    return run.records()


class _Run:
    """The state of one run: its clock and the responses so far."""

    def __init__(
        self, total: int, endpoint: Endpoint, options: LoadOptions, progress: Progress | None
    ) -> None:
        self.total = total
        self.endpoint = endpoint
        self.options = options
        self.progress = progress
        self.started_s = time.monotonic() + LEAD_S
        # Ids of an earlier run may still be known to the server.
        self.name = f"replay-{secrets.token_hex(4)}"
        self.gate = asyncio.Semaphore(options.max_open) if options.max_open else None
        self.in_flight = 0
        self.kept_bytes = 0
        self.ended: list[Sent | RequestRecord] = []

    def due_in_s(self, request: TraceRequest) -> float:
        """Return the wall seconds until a request is due."""
        due_s = self.started_s + request.arrival_s / self.options.speed
        return due_s - time.monotonic()

    async def send(self, request: TraceRequest, body: bytes) -> None:
        request_id = f"{self.name}-{request.index}"
        headers = {
            **self.options.headers,
            "X-Request-Id": request_id,
            "X-Llumnix-Class": request.class_name,
        }
        async with AsyncExitStack() as held:
            if self.gate is not None:
                await held.enter_async_context(self.gate)
            self._changed(+1)
            sent_s = (time.monotonic() - self.started_s) * self.options.speed
            exchange = await post(
                self.endpoint, "/v1/completions", headers, body, self.options.timeout_s
            )
        self._keep(Sent(request, request_id, sent_s, exchange))
        self._changed(-1)

    def records(self) -> list[RequestRecord]:
        """Return all records, in the order of the requests' indexes."""
        records = [self._record(ended) for ended in self.ended]
        return sorted(records, key=lambda record: record.request.index)

    def _keep(self, sent: Sent) -> None:
        self.kept_bytes += len(sent.exchange.raw)
        room = self.kept_bytes <= self.options.kept_answers_bytes
        self.ended.append(sent if room else self._record(sent))

    def _record(self, ended: Sent | RequestRecord) -> RequestRecord:
        if isinstance(ended, RequestRecord):
            return ended
        return make_record(ended, self.started_s, self.options.speed)

    def _changed(self, by: int) -> None:
        self.in_flight += by
        if self.progress is not None:
            self.progress(len(self.ended), self.total, self.in_flight)


def _body(request: TraceRequest, options: LoadOptions) -> bytes:
    body: dict[str, object] = {
        "model": options.model,
        "prompt": options.prompts.token_ids(request),
        "max_tokens": request.output_tokens,
        "temperature": 0.0,
        "ignore_eos": True,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    if options.return_token_ids:
        body["return_token_ids"] = True
    if request.tenant:
        body["user"] = request.tenant
    return json.dumps(body, separators=(",", ":")).encode()


def _allow_many_files() -> None:
    """Raise the soft limit of open files to the hard one: each open request needs a file."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
