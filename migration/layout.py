"""The layout descriptor: what two instances must agree on before KV bytes may cross."""

from dataclasses import dataclass, fields


@dataclass(frozen=True, slots=True)
class Layout:
    """How KV blocks look on an instance. Two llumlets migrate only if every field is equal."""

    engine: str
    model: str
    dtype: str
    block_tokens: int
    block_bytes: int
    tp_rank: int = 0
    tp_size: int = 1
    attention_backend: str = ""

    def mismatch(self, other: "Layout") -> str | None:
        """Name the first field in which the layouts differ, or None when they agree."""
        for item in fields(self):
            mine, theirs = getattr(self, item.name), getattr(other, item.name)
            if mine != theirs:
                return f"{item.name}: {mine!r} here, {theirs!r} there"
        return None
