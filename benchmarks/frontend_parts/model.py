"""The model of docs/scale.md: CPU is so much per request and so much per token. Is it true?"""

import statistics
from dataclasses import dataclass

from frontend_parts.rounds import CHECK, PACED, Results
from frontend_parts.summary import Row


@dataclass(frozen=True, slots=True)
class Checked:
    """A load that the model did not come from: CPU cores that it says and that were measured."""

    per_request_us: float
    per_token_us: float
    requests_per_s: float
    tokens_per_s: float
    predicted_cores: float
    measured_cores: float


def check(results: Results, rows: dict[str, Row], name: str) -> Checked | None:
    """Predict what a target takes for the `CHECK` load from its costs under the others."""
    token, seen = rows[name]["token_cpu_us"], results.measured[name][CHECK]
    paced = results.measured[name][PACED]
    if token is None or not seen or not paced:
        return None
    per_request_us = statistics.median(
        (1e6 * each.total_cpu_s - token.median * each.load.tokens) / each.load.requests
        for each in paced
    )
    requests_per_s = statistics.median(each.load.requests / each.load.wall_s for each in seen)
    tokens_per_s = statistics.median(each.load.tokens / each.load.wall_s for each in seen)
    return Checked(
        per_request_us,
        token.median,
        requests_per_s,
        tokens_per_s,
        (requests_per_s * per_request_us + tokens_per_s * token.median) / 1e6,
        statistics.median(each.total_cpu_s / each.load.wall_s for each in seen),
    )
