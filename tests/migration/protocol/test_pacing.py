"""Pacing: full blocks while decoding, and an end as soon as the rest takes next to no time."""

import pytest

from migration.protocol.pacing import Bandwidth, Copy, Finish, StepTime, blocks_for, next_stage


def stage(**changes: object) -> Copy | Finish:
    """Decide a stage: 100 of 103 tokens' blocks are full, 8 tokens and 80 bytes a block."""
    bandwidth = Bandwidth()
    rate = changes.pop("bytes_per_s", None)
    if rate is not None:
        bandwidth.observe(int(str(rate)), 1.0)
    values: dict[str, object] = {
        "stage": 0,
        "max_stages": 4,
        "copied_blocks": 0,
        "kv_tokens": 103,
        "block_tokens": 8,
        "block_bytes": 80,
        "step_s": 0.05,
    }
    return next_stage(bandwidth=bandwidth, **{**values, **changes})  # type: ignore[arg-type]


def test_the_first_stage_copies_all_full_blocks() -> None:
    """The partial block stays: it still changes."""
    assert stage() == Copy(0, 12)


def test_later_stages_copy_what_grew() -> None:
    """Only blocks that became full since are copied."""
    assert stage(stage=1, copied_blocks=9) == Copy(9, 3)


def test_it_ends_when_no_full_block_is_left() -> None:
    """Another live stage would have nothing to copy."""
    assert stage(stage=1, copied_blocks=12) == Finish(13)
    assert stage(kv_tokens=7) == Finish(1)


def test_it_ends_when_the_rest_takes_a_small_part_of_a_decode_step() -> None:
    """What is left, the partial block included, is weighed by measured bandwidth."""
    rest_bytes = 4 * 80
    assert stage(stage=1, copied_blocks=9, bytes_per_s=rest_bytes * 210) == Finish(13)
    assert stage(stage=1, copied_blocks=9, bytes_per_s=rest_bytes * 190) == Copy(9, 3)


def test_a_rest_of_a_whole_step_is_worth_another_live_stage() -> None:
    """It would be a pause of a whole step; a live stage leaves only what one step grows."""
    assert stage(stage=0, copied_blocks=0, bytes_per_s=13 * 80 * 25) == Copy(0, 12)


def test_it_ends_at_the_stage_limit() -> None:
    """However slow the link, the number of live stages is bounded."""
    assert stage(stage=4, copied_blocks=9, bytes_per_s=1) == Finish(13)


def test_nothing_is_below_an_unknown_step() -> None:
    """While the step time is unknown, copying live goes on."""
    assert stage(step_s=StepTime().value_s(), bytes_per_s=10**9) == Copy(0, 12)


def test_bandwidth_follows_what_it_sees() -> None:
    """The average moves towards new samples and ignores empty ones."""
    bandwidth = Bandwidth()
    assert bandwidth.seconds_for(100) is None
    bandwidth.observe(100, 1.0)
    bandwidth.observe(0, 1.0)
    assert bandwidth.seconds_for(100) == pytest.approx(1.0)
    bandwidth.observe(100, 2.0)
    after = bandwidth.seconds_for(100)
    assert after is not None
    assert 1.0 < after < 2.0


def test_pauses_are_no_steps() -> None:
    """An idle engine does not look like a slow one."""
    step = StepTime()
    for now_s in (0.0, 0.05, 0.10, 100.0, 100.05):
        step.stepped(now_s)
    assert step.value_s() == pytest.approx(0.05)


def test_partial_blocks_count_as_blocks() -> None:
    """Blocks are counted up."""
    assert [blocks_for(tokens, 8) for tokens in (0, 1, 8, 9)] == [0, 1, 1, 2]
