"""Long stories of many requests moving in at once, by chance but the same every time."""

import random
from collections import Counter

import pytest

from tests.vllm.unit.test_moving_in_machine import PROMPTS, Move, MovingIn

N_EVENTS = 250
WEIGHTS = {
    "steps": 30,
    "frame": 20,
    "begin": 4,
    "early": 6,
    "final": 2,
    "finish": 4,
    "request": 4,
    "recompute": 1,
    "leave": 2,
    "leave_within": 2,
    "drop": 1,
    "send_back": 1,
    "wait": 1,
}


def tell(seed: int) -> Counter[str]:
    chance, story = random.Random(seed), MovingIn()
    story.start(
        pipelined=chance.random() < 0.5,
        caching=chance.random() < 0.7,
        n_blocks=chance.choice([12, 16, 24, 40]),
    )
    for _ in range(N_EVENTS):
        (what,) = chance.choices(list(WEIGHTS), list(WEIGHTS.values()))
        happen(what, story, chance)
        story.streams_are_right()
    story.teardown()
    side = story.engine.side
    return side.counts + Counter(received=len(story.engine.received))


def happen(what: str, story: MovingIn, chance: random.Random) -> None:
    open_moves = [move for move in story.all if not move.over]
    recent: Move | None = chance.choice(story.all[-4:]) if story.all else None
    live = [name for name, stream in story.engine.streams.items() if not stream.over]
    prompt, n = chance.choice(PROMPTS), chance.randint(1, 9)
    match what:
        case "steps" if not story.engine.idle:
            story.steps(chance.randint(1, 3))
        case "begin":
            story.begin(prompt, n)
        case "frame" if open_moves:
            chance.choice([story.frame, lambda move, n: story.frame_comes(move, n)])(
                chance.choice(open_moves), chance.randint(1, 3)
            )
        case "early" | "final" if recent is not None:
            story.claim(recent, chance.randint(0, len(recent.outputs)), what == "early")
        case "finish" if open_moves:
            chance.choice([story.commit, story.rest_and_commit])(chance.choice(open_moves))
        case "request":
            story.request(prompt, n + 3, chance.random() < 0.5)
        case "recompute":
            story.recompute(prompt, n + 1, chance.randint(0, n))
        case "leave" if live:
            story.client_leaves(chance.choice(live), True)
        case "leave_within" if live and not story.engine.idle:
            story.client_leaves_within_a_step(chance.choice(live), True)
        case "drop" if open_moves:
            story.drop(chance.choice(open_moves))
        case "send_back" if live:
            story.send_back(chance.choice(live))
        case "wait":
            story.time_passes(chance.random() < 0.5)


@pytest.mark.parametrize("first_seed", range(0, 40, 10))
def test_long_stories(first_seed: int) -> None:
    counts: Counter[str] = Counter()
    for seed in range(first_seed, first_seed + 10):
        counts += tell(seed)
    assert counts["received"] > 10, counts
    assert counts["salvaged"], counts
