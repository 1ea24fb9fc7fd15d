"""The emulated link: everything out of an instance shares it, in fleet time."""

import pytest

from migration.config import MigrationConfig
from migration.layout import Layout
from migration.links.shaping import Shaper

LAYOUT = Layout("fake", "fake", "u8", block_tokens=16, block_bytes=1024)


class Clock:
    now_s = 50.0

    def __call__(self) -> float:
        return self.now_s


def test_frames_queue_up_on_the_link() -> None:
    """Each takes its tokens' bytes at the link's speed in fleet time, after those before it."""
    clock = Clock()
    config = MigrationConfig(link_bytes_per_s=1000.0, link_bytes_per_token=10)
    shaper = Shaper(config, clock, speed=5.0)

    assert shaper.book(100) == pytest.approx(50.2)
    assert shaper.book(50) == pytest.approx(50.3)
    clock.now_s = 60.0
    assert shaper.book(50) == pytest.approx(60.1)


def test_an_unshaped_link_takes_no_time() -> None:
    """Without a speed nothing waits, and frames are as large as allowed."""
    shaper = Shaper(MigrationConfig(chunk_bytes=1 << 20), Clock(), speed=1.0)

    assert shaper.book(1 << 30) == 50.0
    assert shaper.frame_blocks(LAYOUT) == 1024


def test_no_frame_keeps_the_link_busy_for_long() -> None:
    """The destination must hear something before it loses patience."""
    config = MigrationConfig(link_bytes_per_s=16_000.0, link_bytes_per_token=10)

    assert Shaper(config, Clock(), speed=1.0).frame_blocks(LAYOUT) == 25
    assert Shaper(config, Clock(), speed=0.001).frame_blocks(LAYOUT) == 1
