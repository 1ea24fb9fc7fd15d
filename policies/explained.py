"""Explanations that cost little: what a decision rested on is kept, and written out when read.

A decision among a thousand instances has a thousand scores, and few are ever read. So they stay the
columns they were computed in, beside ids that all decisions share.
"""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from policies.types import BoolColumn, FloatColumn, InstanceId, InstanceIds

_BYTES_PER_SCORE = 8
_BYTES_PER_VETO = 100
"""About what an entry of a dict takes, key and value shared."""
_BYTES_PER_ID = 120
"""About what an id takes in `InstanceIds`, with the row it is found by."""


class Scores(Mapping[InstanceId, float]):
    """The scores of a snapshot's rows, by id. The column must not change any more."""

    __slots__ = ("_column", "_ids")

    def __init__(self, ids: tuple[InstanceId, ...], column: FloatColumn) -> None:
        self._ids = ids if isinstance(ids, InstanceIds) else InstanceIds(ids)
        self._column = column

    def __getitem__(self, instance_id: InstanceId) -> float:
        return float(self._column[self._ids.rows[instance_id]])

    def __iter__(self) -> Iterator[InstanceId]:
        return iter(self._ids)

    def __len__(self) -> int:
        return len(self._ids)

    def __repr__(self) -> str:
        return repr(dict(self))

    @property
    def ids(self) -> InstanceIds:
        """The ids of the snapshot's rows, which other scores share."""
        return self._ids


class Vetoes(Mapping[InstanceId, str]):
    """Why rows of a snapshot were excluded, by id: for each rule, the rows and the reason.

    Where two rules exclude a row, the later one's reason counts.
    """

    __slots__ = ("_ids", "_rules")

    def __init__(
        self, ids: tuple[InstanceId, ...], rules: Sequence[tuple[BoolColumn, str]]
    ) -> None:
        self._ids = ids
        self._rules = tuple((np.packbits(rows), reason) for rows, reason in rules)

    def __getitem__(self, instance_id: InstanceId) -> str:
        return self._dict()[instance_id]

    def __iter__(self) -> Iterator[InstanceId]:
        return iter(self._dict())

    def __len__(self) -> int:
        return len(self._dict())

    def __repr__(self) -> str:
        return repr(self._dict())

    def _dict(self) -> dict[InstanceId, str]:
        found: dict[InstanceId, str] = {}
        for packed, reason in self._rules:
            rows = np.flatnonzero(np.unpackbits(packed, count=len(self._ids)))
            found |= {self._ids[row]: reason for row in rows.tolist()}
        return found

    @property
    def nbytes(self) -> int:
        """The memory it takes, but for what decisions share, in bytes."""
        return sum(packed.nbytes + _BYTES_PER_VETO for packed, _ in self._rules)


def nbytes(part: Mapping[InstanceId, object]) -> int:
    """Estimate the memory that scores or vetoes take, but for what decisions share, in bytes."""
    if isinstance(part, Scores):
        return _BYTES_PER_SCORE * len(part)
    return part.nbytes if isinstance(part, Vetoes) else _BYTES_PER_VETO * len(part)


def ids_nbytes(ids: InstanceIds) -> int:
    """Estimate the memory that the ids of a snapshot take, which its scores share, in bytes."""
    return _BYTES_PER_ID * len(ids)
