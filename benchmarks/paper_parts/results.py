"""The figures of many runs: kept in a file as they arrive, and looked up by their subject."""

import json
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

from paper_parts.plan import Run
from paper_parts.runs import measure


class Results:
    """Figures by run. Raises KeyError for a figure that no run gave."""

    def __init__(self, figures: dict[Run, dict[str, float]]) -> None:
        self._figures = figures
        self.seeds = sorted({run.seed for run in figures})

    def values(
        self, place: tuple[str, float], policy: str, what: str, part: str = "serving"
    ) -> list[float]:
        """A figure at a place (a trace and a rate), one value per seed, in the seeds' order."""
        return self._take(part, *place, 1.0, policy, what)

    def urgency(self, place: tuple[float, float], policy: str, what: str) -> list[float]:
        """A figure of the runs with priorities; `place` is a rate and a CV."""
        rate, cv = place
        return self._take("priorities", "S-S", rate, cv, policy, what)

    def has(self, trace: str, part: str = "serving") -> bool:
        """Whether a trace was served in a part of the plan."""
        return any((run.trace, run.part) == (trace, part) for run in self._figures)

    def has_cv(self, cv: float) -> bool:
        """Whether priorities were tried at this burstiness."""
        return any(run.cv == cv for run in self._figures if run.part == "priorities")

    def _take(
        self, part: str, trace: str, rate: float, cv: float, policy: str, what: str
    ) -> list[float]:
        found = sorted(
            (run.seed, figures[what])
            for run, figures in self._figures.items()
            if (run.part, run.trace, run.rate, run.cv, run.policy)
            == (part, trace, rate, cv, policy)
        )
        if not found:
            raise KeyError(f"no run of {part} {trace} at {rate}/s, CV {cv}, under {policy}")
        return [value for _, value in found]


def run_all(runs: Sequence[Run], jobs: int, kept: Path | None) -> Results:
    """Run what `kept` (a file of JSON lines) does not hold yet; return the figures of all.

    After Ctrl-C all that is finished is in the file, and KeyboardInterrupt is raised.
    """
    known = _read(kept) if kept is not None else {}
    figures = {run: known[run.key] for run in runs if run.key in known}
    missing = [run for run in runs if run not in figures]
    pool = ProcessPoolExecutor(max(1, min(jobs, len(missing))))
    try:
        waiting = {pool.submit(measure, run): run for run in missing}
        for future in as_completed(waiting):
            run = waiting[future]
            figures[run] = future.result()
            _keep(kept, run, figures[run])
            print(f"{len(figures)} of {len(runs)}: {run.key}", file=sys.stderr, flush=True)
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
    return Results(figures)


def _read(path: Path) -> dict[str, dict[str, float]]:
    if not path.exists():
        return {}
    rows = [json.loads(line) for line in path.read_text().splitlines() if line.endswith("}")]
    return {row["run"]: row["figures"] for row in rows}


def _keep(path: Path | None, run: Run, figures: dict[str, float]) -> None:
    if path is not None:
        with path.open("a") as file:
            file.write(json.dumps({"run": run.key, "figures": figures}) + "\n")
