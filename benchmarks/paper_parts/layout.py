"""How figures are formatted: numbers, ratios, names, tables in Markdown."""

import math
from collections.abc import Sequence

from paper_parts.claims import Ratio

TIMES = "\N{MULTIPLICATION SIGN}"
NOTHING = "-"
_NAMES = {"ttft": "TTFT", "tpot": "TPOT", "e2e": "E2E", "p99": "P99", "mean": "mean"}


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Lay out a table; the first column is text, the others are figures."""
    rule = ["---", *["--:"] * (len(heads) - 1)]
    return "\n".join(f"| {' | '.join(line)} |" for line in (heads, rule, *rows))


def number(value: float) -> str:
    """Write three significant digits, without an exponent; anything below 0.001 is 0."""
    if abs(value) < 0.001:
        return "0"
    digits = max(0, 2 - math.floor(math.log10(abs(value))))
    return f"{value:,.{digits}f}"


def times(ratio: Ratio | None) -> str:
    """Write a ratio with its interval, where there is one."""
    if ratio is None:
        return NOTHING
    if math.isinf(ratio.high):
        return f"{number(ratio.value)}{TIMES}"
    return f"{number(ratio.value)}{TIMES} ({number(ratio.low)} to {number(ratio.high)})"


def percent(ratio: Ratio | None) -> str:
    """Write a ratio as its increase, in per cent."""
    if ratio is None:
        return NOTHING
    text = f"{(ratio.value - 1) * 100:+.1f} %"
    if math.isinf(ratio.high):
        return text
    return f"{text} ({(ratio.low - 1) * 100:+.1f} to {(ratio.high - 1) * 100:+.1f})"


def named(figure: str) -> str:
    """Write a figure's name as the page does."""
    return " ".join(_NAMES[word] for word in figure.split())


def short(tokens: int) -> str:
    """Write a number of tokens as 256 or 2k."""
    return f"{tokens // 1024}k" if tokens >= 1024 else str(tokens)
