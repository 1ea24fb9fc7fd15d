"""What follows from one failure after another, without any server."""

import pytest
from multidict import CIMultiDict, CIMultiDictProxy

from llumnix.frontend.http.outcome import (
    Failure,
    FailureKind,
    UpstreamAnswer,
    refused_for_now,
    retry_after_s,
)
from llumnix.frontend.moves.attempts import Attempts
from llumnix.frontend.request.refusal import Refusal
from llumnix.instances.condition.shortage import is_ours
from llumnix.instances.instance import Instance
from policies.types import InstanceId

A, B = InstanceId("a"), InstanceId("b")
BOTH = (A, B)


def failure(kind: FailureKind, status: int = 0) -> Failure:
    return Failure(kind, "why", status)


def busy(seconds: int, status: int = 503) -> Failure:
    headers = CIMultiDictProxy(CIMultiDict({"Retry-After": str(seconds), "X-Engine": "e"}))
    answer = UpstreamAnswer(status, headers, b"full", Instance.at("http://a:1"))
    return Failure(FailureKind.BUSY, "full", status, float(seconds), answer)


@pytest.mark.parametrize("order", [(7, 30), (30, 7)])
def test_when_all_are_busy_the_longest_pause_is_passed_on(order: tuple[int, int]) -> None:
    attempts = Attempts(8)
    assert attempts.failed(A, busy(order[0]), BOTH, begun=False) is None
    end = attempts.failed(B, busy(order[1]), BOTH, begun=False)

    assert isinstance(end, UpstreamAnswer)
    assert (end.status, end.headers["Retry-After"], end.body) == (503, "30", b"full")
    assert end.headers["X-Engine"] == "e"
    assert attempts.back_off_s() == 0.0


def test_a_stream_that_has_begun_waits_for_a_busy_instance() -> None:
    attempts = Attempts(8)

    assert attempts.failed(A, busy(7), (A,), begun=True) is None


def test_errors_of_all_end_it_but_a_broken_connection_does_not() -> None:
    attempts = Attempts(8)
    assert attempts.failed(A, failure(FailureKind.BROKEN), BOTH, begun=False) is None
    assert attempts.failed(B, failure(FailureKind.ANSWERED, 500), BOTH, begun=False) is None
    end = attempts.failed(A, failure(FailureKind.ANSWERED, 500), BOTH, begun=False)

    assert isinstance(end, Refusal)
    assert end.status == 502


def test_two_silences_are_a_timeout() -> None:
    attempts = Attempts(8)
    assert attempts.failed(A, failure(FailureKind.STALLED), BOTH, begun=False) is None
    end = attempts.failed(B, failure(FailureKind.STALLED), BOTH, begun=False)

    assert isinstance(end, Refusal)
    assert end.status == 504


def test_what_we_lack_ourselves_blames_no_instance() -> None:
    attempts = Attempts(2)
    assert attempts.failed(A, failure(FailureKind.STARVED), BOTH, begun=False) is None
    end = attempts.failed(A, failure(FailureKind.STARVED), BOTH, begun=False)

    assert not attempts.avoided
    assert isinstance(end, Refusal)
    assert (end.status, end.retry_after_s) == (503, 1.0)


def test_progress_forgives() -> None:
    attempts = Attempts(2)
    for _ in range(9):
        assert attempts.failed(A, failure(FailureKind.BROKEN), BOTH, begun=True) is None
        attempts.progressed()

    assert not attempts.avoided


@pytest.mark.parametrize(
    ("status", "kind", "busy_now"),
    [
        (429, "application/json", True),
        (503, "text/html", True),
        (502, "text/html", True),
        (504, "", True),
        (502, "application/json", False),
        (500, "text/html", False),
        (400, "application/json", False),
    ],
)
def test_which_errors_mean_not_now(status: int, kind: str, busy_now: bool) -> None:
    assert refused_for_now(status, kind) is busy_now


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("7", 7.0),
        (" 120 ", 120.0),
        (None, 0.0),
        ("", 0.0),
        ("soon", 0.0),
        ("-5", 0.0),
        ("1.5", 0.0),
        ("Thu, 01 Jan 1970 00:02:00 GMT", 60.0),
        ("Thu, 01 Jan 1970 00:00:30 GMT", 0.0),
        ("9" * 400, 999_999_999.0),
    ],
)
def test_retry_after_is_seconds_or_a_date(value: str | None, seconds: float) -> None:
    assert retry_after_s(value, now_s=60.0) == seconds


def test_our_own_shortage_is_known_through_wrappers() -> None:
    outer = ConnectionError("no connection")
    outer.__cause__ = OSError(24, "Too many open files")

    assert is_ours(outer)
    assert not is_ours(ConnectionRefusedError(111, "refused"))
    assert not is_ours(None)
