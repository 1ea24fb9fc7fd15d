"""The outcome of each request of a run."""

import json
import re
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from llumnix.loadgen.completion import Completion, error_text, parse_completion
from llumnix.loadgen.exchange import Exchange
from llumnix.loadgen.reply import Reply, parse_reply
from policies.types import FloatColumn
from simulator.workload.request import TraceRequest

SHED_STATUSES = (429, 503)
"""HTTP statuses of a server that is, or is about to be, overloaded."""
_TOO_LONG = re.compile(r"max_model_len|context|length|too long|longer|exceed|max_tokens", re.I)


class Status(StrEnum):
    """How a request ended. `CUT`: its stream broke off after the first token."""

    FINISHED = "finished"
    REJECTED = "rejected"
    FAILED = "failed"
    CUT = "cut"


@dataclass(frozen=True, slots=True)
class RequestRecord:
    """The record of one request. Times are fleet seconds after the start of the run.

    `sent_s` is when it was sent; it was due at `request.arrival_s`, and latencies count from then,
    so that a slow generator cannot hide a slow fleet. `token_times_s` has one time per token
    received (tokens of one read share theirs). `token_ids` is None if the server sent no ids.
    `http_status` is 0 if there was no response.
    """

    request: TraceRequest
    request_id: str
    status: Status
    sent_s: float
    token_times_s: FloatColumn
    token_ids: tuple[int, ...] | None
    text: str
    tokens: int
    http_status: int
    error: str = ""
    finish_reason: str = ""

    @property
    def slip_s(self) -> float:
        """How late the generator itself was, in fleet seconds."""
        return self.sent_s - self.request.arrival_s

    @property
    def ttft_s(self) -> float | None:
        """From the scheduled arrival to the first token; None without one."""
        return self._since_arrival_s(0)

    @property
    def e2e_s(self) -> float | None:
        """From the scheduled arrival to the last token received; None without one."""
        return self._since_arrival_s(-1)

    @property
    def tpot_s(self) -> float | None:
        """Mean time per output token after the first; None with fewer than two tokens."""
        if len(self.token_times_s) < 2:
            return None
        span_s = float(self.token_times_s[-1] - self.token_times_s[0])
        return span_s / (len(self.token_times_s) - 1)

    @property
    def ended_s(self) -> float:
        """The time of the last event known of the request."""
        return float(self.token_times_s[-1]) if len(self.token_times_s) else self.sent_s

    @property
    def shed(self) -> bool:
        """Whether it was rejected for load, not for its own length."""
        return self.status is Status.REJECTED and self.http_status in SHED_STATUSES

    def _since_arrival_s(self, token: int) -> float | None:
        if not len(self.token_times_s):
            return None
        return float(self.token_times_s[token]) - self.request.arrival_s


@dataclass(frozen=True, slots=True)
class Sent:
    """A request that was sent and its response, not parsed yet."""

    request: TraceRequest
    request_id: str
    sent_s: float
    exchange: Exchange


def make_record(sent: Sent, started_s: float, speed: float) -> RequestRecord:
    """Return the record of an exchange; `started_s` is the run's start on the monotonic clock."""
    reply = parse_reply(sent.exchange)
    completion = parse_completion(reply.body) if reply and reply.status == 200 else Completion()
    status, error = _judge(sent.exchange, reply, completion)
    times_s = np.empty(0)
    if reply is not None and completion.event_ends:
        times_s = (reply.times_of(completion.token_ends()) - started_s) * speed
    return RequestRecord(
        request=sent.request,
        request_id=sent.request_id,
        status=status,
        sent_s=sent.sent_s,
        token_times_s=times_s,
        token_ids=None if completion.token_ids is None else tuple(completion.token_ids),
        text=completion.text,
        tokens=completion.tokens,
        http_status=reply.status if reply else 0,
        error=error,
        finish_reason=completion.finish_reason,
    )


def _judge(exchange: Exchange, reply: Reply | None, completion: Completion) -> tuple[Status, str]:
    if reply is None:
        return Status.FAILED, exchange.error or "the server closed without a response"
    if reply.status != 200:
        return _judge_refusal(reply)
    broken = Status.CUT if completion.event_ends else Status.FAILED
    if completion.error:
        return broken, completion.error
    if not completion.done or not completion.finish_reason:
        return broken, exchange.error or "the stream broke off"
    if completion.finish_reason == "abort":
        return broken, f"the server aborted the stream ({completion.stop_reason or 'no reason'})"
    return Status.FINISHED, ""


def _judge_refusal(reply: Reply) -> tuple[Status, str]:
    try:
        error = error_text(json.loads(reply.body))
    except ValueError:
        error = reply.body[:200].decode(errors="replace")
    if reply.status in SHED_STATUSES or reply.status == 413:
        return Status.REJECTED, error
    # A 400 for its length is the only one a request may get; any other is a fault to be seen.
    if reply.status == 400 and _TOO_LONG.search(error):
        return Status.REJECTED, error
    return Status.FAILED, f"HTTP {reply.status}: {error}"
