"""The token-by-token check: it finds what was planted, counted exactly, and nothing else."""

import dataclasses
from collections.abc import Sequence

import numpy as np
import pytest

from llumnix.loadgen import (
    Endpoint,
    LoadOptions,
    OutputChecker,
    PromptSource,
    RequestRecord,
    Status,
    check_outputs,
    compare_tokens,
    run_load,
)
from llumnix.loadgen.check import TokenFaults
from simulator.streams import stream
from simulator.workload.request import TraceRequest
from tests.llumnix.stub_server import Spoil, Stub, serving, stub_decode, stub_output

TEN = list(range(100, 110))
LONG = list(range(1000, 1040))


@pytest.mark.parametrize(
    ("story", "expected", "received", "faults"),
    [
        ("equal", TEN, TEN, TokenFaults()),
        ("nothing came", TEN, [], TokenFaults(lost=10)),
        ("the end is missing", TEN, TEN[:7], TokenFaults(lost=3)),
        ("the start is missing", TEN, TEN[2:], TokenFaults(lost=2)),
        ("a gap", TEN, TEN[:3] + TEN[5:], TokenFaults(lost=2)),
        ("two gaps", LONG, LONG[:5] + LONG[7:20] + LONG[21:], TokenFaults(lost=3)),
        ("one before the last is missing", TEN, TEN[:8] + TEN[9:], TokenFaults(lost=1)),
        ("one token twice", TEN, TEN[:4] + TEN[3:], TokenFaults(doubled=1)),
        ("a run twice", TEN, TEN[:6] + TEN[2:], TokenFaults(doubled=4)),
        ("all twice", TEN, TEN + TEN, TokenFaults(doubled=10)),
        ("replayed from the start", LONG, LONG[:9] + LONG, TokenFaults(doubled=9)),
        ("the last one twice", TEN, TEN + TEN[-1:], TokenFaults(doubled=1)),
        ("a run thrice", LONG, LONG[:9] + LONG[5:9] * 2 + LONG[9:], TokenFaults(doubled=8)),
        ("one wrong", TEN, [*TEN[:4], 7, *TEN[5:]], TokenFaults(wrong=1)),
        ("the first wrong", TEN, [7, *TEN[1:]], TokenFaults(wrong=1)),
        ("the last wrong", TEN, [*TEN[:9], 7], TokenFaults(wrong=1)),
        ("all wrong", TEN, [7] * 10, TokenFaults(wrong=10)),
        ("more than was due", TEN, [*TEN, 7, 8], TokenFaults(wrong=2)),
        ("wrong, then a gap", LONG, [*LONG[:5], 7, *LONG[8:]], TokenFaults(lost=2, wrong=1)),
        (
            "a gap, a run twice and a wrong one",
            LONG,
            [*LONG[:5], *LONG[6:20], *LONG[17:30], 7, *LONG[31:]],
            TokenFaults(lost=1, doubled=3, wrong=1),
        ),
        ("nothing was due", [], [7], TokenFaults(wrong=1)),
        ("one value throughout, the end missing", [5] * 9, [5] * 6, TokenFaults(lost=3)),
        ("one value throughout, too often", [5] * 9, [5] * 12, TokenFaults(doubled=3)),
    ],
    ids=lambda value: value.replace(" ", "_") if isinstance(value, str) else "",
)
def test_faults_are_counted_exactly(
    story: str, expected: list[int], received: list[int], faults: TokenFaults
) -> None:
    assert compare_tokens(expected, received) == faults


@pytest.mark.parametrize("seed", range(200))
def test_one_planted_fault_of_any_size_and_place_is_counted_exactly(seed: int) -> None:
    """A random output and one random fault; the plant itself says what must be found."""
    rng = stream(seed, "plant")
    expected: list[int] = rng.integers(0, 4096, int(rng.integers(30, 200))).tolist()
    start = int(rng.integers(0, len(expected) - 12))
    size = int(rng.integers(1, 7))
    cut, run = start + size, expected[start : start + size]
    planted = {
        0: (expected[:start] + expected[cut:], TokenFaults(lost=size)),
        1: (expected[:cut] + run + expected[cut:], TokenFaults(doubled=size)),
        2: (expected[:start] + [-1] * size + expected[cut:], TokenFaults(wrong=size)),
    }
    received, faults = planted[seed % 3]
    assert compare_tokens(expected, received) == faults


def test_no_difference_goes_uncounted() -> None:
    """Whatever is received, zero faults means equal, and the books balance."""
    rng = stream(1, "soup")
    for _ in range(300):
        expected = rng.integers(0, 4, 8).tolist()
        received = rng.integers(0, 4, int(rng.integers(0, 12))).tolist()
        faults = compare_tokens(expected, received)
        assert (faults == TokenFaults()) == (expected == received)
        assert min(faults.lost, faults.doubled, faults.wrong) >= 0
        assert len(received) >= len(expected) - faults.lost
        assert faults.doubled + faults.wrong >= len(received) - len(expected)


PROMPTS = PromptSource(5)
OPTIONS = LoadOptions(model="m", speed=100.0, prompts=PROMPTS, return_token_ids=True)
REQUESTS = [TraceRequest(i, i * 0.1, 5, 40) for i in range(8)]


async def replayed(stub: Stub) -> list[RequestRecord]:
    async with serving(stub):
        return await run_load(REQUESTS, Endpoint.parse(stub.url), OPTIONS)


async def test_a_right_server_is_found_right() -> None:
    check = check_outputs(await replayed(Stub()), stub_output, PROMPTS, stub_decode)
    assert check.exact
    assert check.checked == len(REQUESTS)


async def test_what_a_server_loses_doubles_and_spoils_is_counted_exactly() -> None:
    plants: dict[int, Spoil] = {
        1: lambda ids: ids[:10] + ids[13:],
        3: lambda ids: ids[:20] + ids[15:],
        4: lambda ids: [*ids[:8], 1, 2, *ids[10:]],
        6: lambda ids: ids[:-1],
    }
    check = check_outputs(await replayed(Stub(spoil=plants)), stub_output, PROMPTS)
    assert (check.tokens_lost, check.tokens_doubled, check.tokens_wrong) == (4, 5, 2)
    assert check.faulty_requests == (1, 3, 4, 6)
    assert not check.exact


async def test_a_text_unlike_its_tokens_is_found() -> None:
    records = await replayed(Stub(text_spoil={2, 5}))
    check = check_outputs(records, stub_output, PROMPTS, stub_decode)
    assert (check.texts_wrong, check.tokens_wrong) == (2, 0)
    assert check.faulty_requests == (2, 5)
    assert check_outputs(records, stub_output, PROMPTS).exact


async def test_a_broken_stream_is_held_to_what_it_brought() -> None:
    """Its missing end is a failure, not a loss; a gap before that is a loss."""
    gap: dict[int, Spoil] = {3: lambda ids: ids[:10] + ids[12:]}
    records = await replayed(Stub(cut_after={1: 0, 2: 7, 3: 20}, spoil=gap))
    check = check_outputs(records, stub_output, PROMPTS)
    assert (check.tokens_lost, check.tokens_doubled, check.tokens_wrong) == (2, 0, 0)
    assert check.faulty_requests == (3,)
    assert check.checked == len(REQUESTS) - 1  # the one without a token has nothing to compare


async def test_refused_requests_are_not_compared() -> None:
    records = await replayed(Stub(refuse={0: (429, "full"), 1: (500, "boom")}))
    assert check_outputs(records, stub_output, PROMPTS).checked == len(REQUESTS) - 2


async def test_streams_without_ids_are_compared_by_text_or_said_to_be_unchecked() -> None:
    records = await replayed(Stub(give_ids=False, text_spoil={4}))
    by_text = check_outputs(records, stub_output, PROMPTS, stub_decode)
    assert (by_text.checked, by_text.unchecked) == (len(REQUESTS) - 1, 1)
    blind = check_outputs(records, stub_output, PROMPTS)
    assert (blind.checked, blind.unchecked) == (0, len(REQUESTS))
    assert not blind.exact


def record(request: TraceRequest, token_ids: Sequence[int]) -> RequestRecord:
    return RequestRecord(
        request=request,
        request_id="r",
        status=Status.FINISHED,
        sent_s=0.0,
        token_times_s=np.zeros(len(token_ids)),
        token_ids=tuple(token_ids),
        text=stub_decode(token_ids),
        tokens=len(token_ids),
        http_status=200,
    )


def test_several_runs_of_one_workload_compute_what_is_expected_once() -> None:
    calls = []

    def counted(prompt_ids: Sequence[int], max_tokens: int) -> list[int]:
        calls.append(max_tokens)
        return stub_output(prompt_ids, max_tokens)

    checker = OutputChecker(PROMPTS, counted)
    records = [record(r, stub_output(PROMPTS.token_ids(r), r.output_tokens)) for r in REQUESTS]
    assert checker.check(records).exact
    assert checker.check(records).exact
    assert len(calls) == len(REQUESTS)


def test_worker_processes_find_the_same() -> None:
    records = [record(r, stub_output(PROMPTS.token_ids(r), r.output_tokens)) for r in REQUESTS]
    ids = records[2].token_ids
    assert ids is not None
    records[2] = dataclasses.replace(records[2], token_ids=ids[:-5])
    here = check_outputs(records, stub_output, PROMPTS, stub_decode)
    assert here.tokens_lost == 5
    assert check_outputs(records, stub_output, PROMPTS, stub_decode, processes=2) == here
