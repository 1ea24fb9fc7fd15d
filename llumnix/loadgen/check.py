"""Compare every output with the expected one, token by token."""

from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context

from llumnix.loadgen.prompts import PromptSource
from llumnix.loadgen.records import RequestRecord, Status
from simulator.workload.request import TraceRequest

ExpectedOutput = Callable[[Sequence[int], int], Sequence[int]]
"""From prompt ids and max_tokens to the output ids that a request must produce."""
Decode = Callable[[Sequence[int]], str]

# This many matching tokens in a row show that a stream jumped; one may match by chance.
RESYNC_TOKENS = 4


@dataclass(frozen=True, slots=True)
class OutputCheck:
    """Faults found in the streams of a run, in tokens; `texts_wrong` counts streams.

    `checked` streams were compared. `unchecked` ones have no token ids and a text that does not
    match: something is wrong, but the number of wrong tokens is unknown.
    """

    checked: int = 0
    unchecked: int = 0
    tokens_lost: int = 0
    tokens_doubled: int = 0
    tokens_wrong: int = 0
    texts_wrong: int = 0
    faulty_requests: tuple[int, ...] = ()

    @property
    def exact(self) -> bool:
        """Whether nothing is lost, doubled, wrong or unchecked."""
        return not (self.unchecked or self.faulty_requests)


@dataclass(frozen=True, slots=True)
class TokenFaults:
    """How a received stream differs from the expected one."""

    lost: int = 0
    doubled: int = 0
    wrong: int = 0


def compare_tokens(expected: Sequence[int], received: Sequence[int]) -> TokenFaults:
    """Align the received tokens with the expected ones and count the differences.

    The received stream is followed through the expected one. Where they differ, either the stream
    jumped, if the next few tokens match elsewhere (the nearest such place counts), or this token is
    wrong and takes the place of the expected one. Expected tokens without a received one are lost;
    received ones whose place is already taken are doubled; a token past the end is wrong.
    """
    if tuple(expected) == tuple(received):
        return TokenFaults()
    covered = [False] * len(expected)
    doubled = wrong = place = 0
    for index, token in enumerate(received):
        if place >= len(expected) or token != expected[place]:
            jump = _resync(expected, place, received[index : index + RESYNC_TOKENS])
            if jump is None:
                wrong += 1
                if place < len(expected):
                    covered[place] = True
                    place += 1
                continue
            place = jump
        doubled += covered[place]
        covered[place] = True
        place += 1
    return TokenFaults(lost=covered.count(False), doubled=doubled, wrong=wrong)


def _resync(expected: Sequence[int], place: int, ahead: Sequence[int]) -> int | None:
    places = [
        start
        for start in range(len(expected) - len(ahead) + 1)
        if expected[start] == ahead[0] and list(expected[start : start + len(ahead)]) == list(ahead)
    ]
    return min(places, key=lambda start: abs(start - place), default=None)


class OutputChecker:
    """Computes the expected output of each request once, and compares runs with it.

    `expected` runs in `processes` worker processes (then it must be a module-level function), or in
    this one with 0. Check after a run, not during it.
    """

    def __init__(
        self,
        prompts: PromptSource,
        expected: ExpectedOutput,
        decode: Decode | None = None,
        processes: int = 0,
    ) -> None:
        self.prompts = prompts
        self.expected = expected
        self.decode = decode
        self.processes = processes
        self._known: dict[TraceRequest, Sequence[int]] = {}

    def check(self, records: Sequence[RequestRecord]) -> OutputCheck:
        """Compare every stream that began. One that broke off is compared as far as it came."""
        began = [record for record in records if record.status in (Status.FINISHED, Status.CUT)]
        self._learn([record.request for record in began])
        lost = doubled = wrong = texts_wrong = unchecked = 0
        faulty = []
        for record in began:
            expected = self._known[record.request]
            text_wrong = not self._text_fits(record, expected)
            if record.token_ids is None:
                unchecked += text_wrong or self.decode is None
                faults = TokenFaults()
            else:
                if record.status is Status.CUT:
                    expected = _reached(expected, record.token_ids)
                faults = compare_tokens(expected, record.token_ids)
                texts_wrong += text_wrong
            if faults != TokenFaults() or text_wrong:
                faulty.append(record.request.index)
            lost += faults.lost
            doubled += faults.doubled
            wrong += faults.wrong
        return OutputCheck(
            checked=len(began) - unchecked,
            unchecked=unchecked,
            tokens_lost=lost,
            tokens_doubled=doubled,
            tokens_wrong=wrong,
            texts_wrong=texts_wrong,
            faulty_requests=tuple(faulty),
        )

    def _text_fits(self, record: RequestRecord, expected: Sequence[int]) -> bool:
        if self.decode is None:
            return True
        text = self.decode(expected)
        return text.startswith(record.text) if record.status is Status.CUT else text == record.text

    def _learn(self, requests: Sequence[TraceRequest]) -> None:
        new = [request for request in requests if request not in self._known]
        jobs = [(self.expected, self.prompts, request) for request in new]
        if self.processes and len(jobs) > 1:
            # Not forked: a copy of a process with threads or an event loop may hang.
            with ProcessPoolExecutor(self.processes, mp_context=get_context("spawn")) as pool:
                outputs = list(pool.map(_expect, jobs, chunksize=16))
        else:
            outputs = [_expect(job) for job in jobs]
        self._known.update(zip(new, outputs, strict=True))


def check_outputs(
    records: Sequence[RequestRecord],
    expected: ExpectedOutput,
    prompts: PromptSource,
    decode: Decode | None = None,
    processes: int = 0,
) -> OutputCheck:
    """Check one run; see OutputChecker."""
    return OutputChecker(prompts, expected, decode, processes).check(records)


def _expect(job: tuple[ExpectedOutput, PromptSource, TraceRequest]) -> Sequence[int]:
    expected, prompts, request = job
    return expected(prompts.token_ids(request), request.output_tokens)


def _reached(expected: Sequence[int], received: Sequence[int]) -> Sequence[int]:
    """Return the part of the expected tokens that a broken-off stream had reached."""
    tail = list(received[-RESYNC_TOKENS:])
    for end in range(len(expected), len(tail) - 1, -1):
        if tail and list(expected[end - len(tail) : end]) == tail:
            return expected[:end]
    return expected[: len(received)]
