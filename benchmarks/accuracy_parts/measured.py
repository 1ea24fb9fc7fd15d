"""Part of simulator_accuracy.py: a real vLLM's own timestamps, half for calibration, half
predicted.

Costs, token budget and scheduling mode are fitted to the requests of one half of the arrivals;
those of the other half only count as load beside them. Then all are served again in simulation,
given only arrivals and lengths, and the other half's times are compared with the server's. The
simulation schedules ahead where the server seems to, as `llumnix simulate` does with a preset of
`llumnix calibrate`; beside it stands one that goes step by step.
"""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from harness import Bar
from simulator.calibration.fit import Mask, fit
from simulator.calibration.measured import Measured, read_measured
from simulator.calibration.rerun import rerun
from simulator.calibration.validate import EngineSize, largest_batch

BOUNDS: Mapping[str, float] = {"E2E mean": 0.03, "TPOT mean": 0.03, "TTFT p50": 0.15}


def figures_of(measured: Measured, of: Mask) -> dict[str, float]:
    """The compared latencies, in seconds, of some of the requests."""
    ttft_s, tpot_s, e2e_s = (getattr(measured, name)[of] for name in ("ttft_s", "tpot_s", "e2e_s"))
    return {
        "E2E mean": float(e2e_s.mean()),
        "E2E p99": float(np.quantile(e2e_s, 0.99)),
        "TPOT mean": float(tpot_s.mean()),
        "TTFT mean": float(ttft_s.mean()),
        "TTFT p50": float(np.median(ttft_s)),
        "TTFT p99": float(np.quantile(ttft_s, 0.99)),
    }


def foretold(measured: Measured, known: Mask) -> dict[str, Any]:
    """Calibrate on the known requests and predict the others; return both beside the measured."""
    found = fit(measured, use=known)
    engine = EngineSize(largest_batch(measured))
    limits = engine.limits(measured, found.token_budget)
    was = figures_of(measured, ~known)
    said, said_by_steps = (
        figures_of(rerun(measured, found.costs, limits, ahead=ahead), ~known)
        for ahead in (found.ahead, False)
    )
    rows = {
        name: {
            "measured": was[name],
            "predicted": said[name],
            "error": said[name] / was[name] - 1,
            "error_step_by_step": said_by_steps[name] / was[name] - 1,
        }
        for name in was
    }
    return {
        "costs": asdict(found.costs),
        "token_budget": found.token_budget,
        "schedules_ahead": found.ahead,
        "rows": rows,
    }


def measure(path: Path) -> tuple[list[Bar], dict[str, Any]]:
    """Both ways round; the bars are about the second half, predicted from the first."""
    measured = read_measured(path)
    first = np.arange(len(measured)) < len(measured) // 2
    forward, backward = foretold(measured, first), foretold(measured, ~first)
    bars = []
    for name, bound in BOUNDS.items():
        error = forward["rows"][name]["error"]
        text = f"measured vLLM, second half: {name}"
        bars.append(Bar(text, round(error, 4), f"within {bound:.0%}", abs(error) <= bound))
    figures = {
        "file": path.name,
        "requests": len(measured),
        "second half from first": forward,
        "first half from second": backward,
    }
    return bars, figures
