"""The hash model, and that the KV cache computes the very same."""

import statistics

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llumnix.emulator.model.answer import expected_output
from llumnix.emulator.model.vocabulary import END_ID, FIRST_WORD_ID
from llumnix.emulator.requests import Sampling
from tests.llumnix.emulator.engines import HandStepped, some_prompt

prompts = st.lists(st.integers(0, 4095), min_size=1, max_size=200)


@given(prompts, st.integers(1, 40), st.integers(0, 20))
def test_a_shorter_answer_is_a_prefix_of_a_longer_one(
    prompt: list[int], length: int, more: int
) -> None:
    """Each token depends on those before it, and on nothing that follows."""
    longer = expected_output(prompt, length + more)
    assert expected_output(prompt, length) == longer[:length]
    assert len(longer) == length + more


@given(prompts, st.integers(1, 30))
def test_an_answer_goes_on_from_its_own_tokens(prompt: list[int], cut: int) -> None:
    """Prompt and outputs, given as a prompt, are answered by the outputs that follow."""
    whole = expected_output(prompt, 40)
    assert expected_output([*prompt, *whole[:cut]], 40 - cut) == whole[cut:]


def test_each_prompt_token_matters() -> None:
    """Changing any one token changes the first tokens of the answer."""
    prompt = some_prompt(120)
    answer = expected_output(prompt, 3)
    for position in range(len(prompt)):
        changed = [*prompt]
        changed[position] = (changed[position] + 1) % 4095
        assert expected_output(changed, 3) != answer


def test_answers_are_words_spread_over_the_vocabulary() -> None:
    """4,000 tokens of one answer: no end token, hardly any repetition beyond chance."""
    answer = expected_output([1], 4_000)
    assert min(answer) >= FIRST_WORD_ID
    assert END_ID not in answer
    assert len(set(answer)) == pytest.approx(3839 * (1 - (1 - 1 / 3839) ** 4_000), rel=0.05)


def test_texts_end_by_themselves_after_128_tokens_on_average() -> None:
    """With the end token not ignored, lengths are about geometric."""
    lengths = [len(expected_output([seed, 7], 5_000, ignore_eos=False)) for seed in range(400)]
    assert statistics.mean(lengths) == pytest.approx(128, rel=0.2)
    assert all(length < 5_000 for length in lengths)


def test_min_tokens_holds_the_end_back() -> None:
    """No answer is shorter than asked, its end token not counted."""
    lengths = [len(expected_output([seed], 400, False, 100)) for seed in range(100)]
    assert 100 < min(lengths) < 110


@given(
    prompt=st.lists(st.integers(0, 4095), min_size=1, max_size=300),
    length=st.integers(1, 60),
    ignore_eos=st.booleans(),
    payload=st.sampled_from([8, 24, 64]),
)
@settings(deadline=None, max_examples=60)
def test_the_kv_cache_computes_the_same_answer(
    prompt: list[int], length: int, ignore_eos: bool, payload: int
) -> None:
    """Read off stored bytes, block by block and chunk by chunk, it is what the model says."""
    engine = HandStepped(kv_payload_bytes_per_token=payload)
    request = engine.submit("a", prompt, Sampling(length, ignore_eos))
    engine.run_out()
    assert tuple(request.outputs) == expected_output(prompt, length, ignore_eos)


@given(st.lists(st.tuples(st.integers(1, 90), st.integers(1, 60)), min_size=3, max_size=8))
@settings(deadline=None, max_examples=40)
def test_preempted_requests_answer_the_same(sizes: list[tuple[int, int]]) -> None:
    """Too little memory for all: requests are preempted, computed again, and still right."""
    engine = HandStepped(capacity_tokens=160, max_model_len=160)
    requests = [
        engine.submit(str(index), some_prompt(prompt, index), Sampling(length, ignore_eos=True))
        for index, (prompt, length) in enumerate(sizes)
    ]
    engine.run_out()
    for request, (prompt, length) in zip(requests, sizes, strict=True):
        tokens = request.tokens[:prompt]
        assert tuple(request.outputs) == expected_output(tokens, length)


def test_a_crowd_is_preempted_and_still_right() -> None:
    """The law above is not held by never preempting."""
    engine = HandStepped(capacity_tokens=160, max_model_len=160)
    requests = [
        engine.submit(str(seed), some_prompt(40, seed), Sampling(60, ignore_eos=True))
        for seed in range(4)
    ]
    engine.run_out()
    assert engine.instance.engine.preemptions > 0
    for seed, request in enumerate(requests):
        assert tuple(request.outputs) == expected_output(some_prompt(40, seed), 60)
