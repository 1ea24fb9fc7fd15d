"""Deterministic draws: numbers that look random and follow from a seed and a counter."""

_MASK = (1 << 64) - 1


def chance(seed: int, turn: int, choices: int) -> int:
    """Draw one of `choices` numbers from 0, evenly, the same for equal arguments (splitmix64)."""
    state = (seed * 0xD1342543DE82EF95 + (turn + 1) * 0x9E3779B97F4A7C15) & _MASK
    state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & _MASK
    # The high bits are the best mixed; scaling them is even enough for a fleet of any size.
    return ((state ^ (state >> 31)) * choices) >> 64
