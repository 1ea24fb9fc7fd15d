"""A stream's ledger: it loses nothing, and counts what it holds."""

from hypothesis import given
from hypothesis import strategies as st

from llumnix.frontend.splicing.ledger import Ledger, Pace
from tests.llumnix.frontend.splicing.chunks import Writer


@given(st.lists(st.binary(min_size=1, max_size=40_000), max_size=12))
def test_bytes_come_back_as_they_went_in(blocks: list[bytes]) -> None:
    ledger = Ledger()
    for block in blocks:
        ledger.add(block)

    assert ledger.raw() == b"".join(blocks)
    assert bool(ledger) == bool(blocks)


def test_tokens_are_counted_across_compressed_blocks() -> None:
    """Long streams are kept compressed, and still know how many tokens they hold."""
    ledger, writer = Ledger(), Writer()
    for i in range(0, 3000, 2):
        ledger.add(writer.tokens(i, i + 2))

    assert ledger.tokens() == 3000


def test_mean_interval_leaves_moves_out() -> None:
    """A gap is no decode step: five tokens 10 ms apart around a gap of 1 s are 10 ms apart."""
    pace = Pace(first_at=0.0, last_at=0.03)

    assert pace.mean_interval_s(4) == 0.01
    pace.add_gap(1.0)
    pace.last_at = 1.04
    assert abs(pace.mean_interval_s(6) - 0.01) < 1e-9
    assert pace.mean_interval_s(1) == 0.0
