"""The layout descriptor: what two instances must agree on before KV bytes may cross."""

import hashlib
from dataclasses import astuple, dataclass, fields


@dataclass(frozen=True, slots=True)
class Layout:
    """The layout of KV blocks on an instance. Two llumlets migrate only if every field is equal."""

    engine: str
    model: str
    dtype: str
    block_tokens: int
    block_bytes: int
    tp_rank: int = 0
    tp_size: int = 1
    attention_backend: str = ""

    def digest(self) -> str:
        """Return a short name for this layout: equal only for equal layouts."""
        return hashlib.sha256(repr(astuple(self)).encode()).hexdigest()[:16]

    def mismatch(self, other: "Layout") -> str | None:
        """Return the first field in which the layouts differ, or None when they agree."""
        for item in fields(self):
            mine, theirs = getattr(self, item.name), getattr(other, item.name)
            if mine != theirs:
                return f"{item.name}: {mine!r} here, {theirs!r} there"
        return None
