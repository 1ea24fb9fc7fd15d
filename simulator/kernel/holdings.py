"""What a request still holds at an instance while it may already be elsewhere."""

from dataclasses import dataclass

from simulator.kernel.state import FITS_TOKENS, FOUND, KEPT, KV, LAST_KEPT, OWN, SHARES, State

_COLUMNS = (FOUND, OWN, KEPT, LAST_KEPT)


@dataclass(frozen=True, slots=True)
class Holding:
    """The columns that describe a request's blocks, as they were; `shared` where any are."""

    kv_tokens: int
    fits_tokens: int
    shared: tuple[int, ...]

    @classmethod
    def of(cls, s: State, r: int) -> "Holding":
        """Read what a request holds."""
        shared = _COLUMNS if s.fleet[SHARES] else ()
        return cls(
            int(s.req[KV][r]),
            int(s.req[FITS_TOKENS][r]),
            tuple(int(s.req[column][r]) for column in shared),
        )

    def put(self, s: State, r: int) -> None:
        """Restore it to the columns."""
        s.req[KV][r], s.req[FITS_TOKENS][r] = self.kv_tokens, self.fits_tokens
        for column, value in zip(_COLUMNS, self.shared, strict=False):
            s.req[column][r] = value


@dataclass(frozen=True, slots=True)
class Reservation:
    """Blocks reserved for a request on its way here: how many, and the last of their ring."""

    blocks: int = 0
    last: int = -1
