"""Layouts: a digest is equal for equal layouts alone."""

from dataclasses import fields, replace
from typing import Any

from migration.layout import Layout

LAYOUT = Layout("vllm", "m:1", "bf16", 16, 4096)


def test_every_field_shows_in_the_digest() -> None:
    others = []
    for one in fields(Layout):
        value = getattr(LAYOUT, one.name)
        change: dict[str, Any] = {one.name: "x" if isinstance(value, str) else value + 1}
        others.append(replace(LAYOUT, **change))
    digests = {other.digest() for other in others}

    assert len(digests) == len(fields(Layout))
    assert LAYOUT.digest() not in digests
    assert all(LAYOUT.mismatch(other) for other in others)
    assert replace(LAYOUT).digest() == LAYOUT.digest()
