"""docs/paper.md: prose around tables and pictures."""

import numpy as np

from paper_parts import prose, tables
from paper_parts.claims import AGAINST_LOAD_AWARE, DOWNTIMES_MS, UP_TO
from paper_parts.downtime import LENGTHS
from paper_parts.layout import number, times
from paper_parts.plan import CONFINED, LLUMNIX, LOAD_AWARE, ORDER, OURS, ROUND_ROBIN
from paper_parts.results import Results
from paper_parts.verdicts import all_verdicts, at_rate, largest, mean, ratio, tally


def document(results: Results, downtimes: tables.Downtimes, requests: int, suffix: str) -> str:
    """Write the page."""
    parts = [
        prose.TITLE,
        summary(results, downtimes),
        prose.SETTINGS.format(requests=f"{requests:,}", seeds=len(results.seeds)),
        prose.SERVING.format(suffix=suffix),
        tables.points(results),
        prose.MOST,
        tables.most(results),
        prose.SLOWER,
        tables.slower(results),
        prose.ABLATION,
        tables.ablation(results),
        prose.LOSSES.format(suffix=suffix, cut=tables.mean_cut(results)),
        tables.losses(results),
        prose.FRAGMENTATION,
        tables.fragmentation(results),
        prose.DOWNTIME.format(suffix=suffix),
        tables.downtimes(downtimes),
        prose.PRIORITIES.format(suffix=suffix),
        tables.urgencies(results),
        tables.ordinary(results),
        prose.ORDER_ALONE,
        tables.variant(results, ORDER),
        prose.CONFINED,
        tables.variant(results, CONFINED),
        prose.WHY.format(**facts(results, downtimes)),
        prose.EVERYTHING,
        *tables.everything(results),
    ]
    return "\n\n".join(part.strip() for part in parts) + "\n"


def summary(results: Results, downtimes: tables.Downtimes) -> str:
    """Summarise what agrees."""
    found = tally(all_verdicts(results))
    live = [float(np.mean(downtimes["live"][str(length)])) for length in LENGTHS]
    paper = DOWNTIMES_MS["live"]
    best = {
        one.figure.replace(" ", "_"): times(largest(results, one)[1].ours)
        for one in UP_TO
        if one.against == LOAD_AWARE
    }
    longest = str(LENGTHS[-1])
    times_live = {
        name: number(float(np.mean(downtimes[mode][longest])) / live[-1])
        for name, mode in (("blocking", "blocking copy"), ("recompute", "recompute"))
    }
    waits = {
        f"{name}_{where}": number(mean(results, place, policy, "ttft p99"))
        for name, policy in (("late", OURS), ("llumnix", LLUMNIX))
        for where, place in (("over", ("M-M", 10.5)), ("under", ("S-L", 4.6)))
    }
    return prose.SUMMARY.format(
        **best,
        **times_live,
        **waits,
        **{name.replace("not certain", "unsure"): value for name, value in found.items()},
        seeds=len(results.seeds),
        live=f"{number(min(live))} to {number(max(live))}",
        live_paper=f"{min(paper)} to {max(paper)}",
    )


def facts(results: Results, downtimes: tables.Downtimes) -> dict[str, str]:
    """Return the figures that the explanations rest on."""

    def share(rate: float, policy: str) -> str:
        found = ratio(results, ("M-M", rate), "fragmented", policy, LOAD_AWARE)
        return "-" if found is None else f"{found.value * 100:.0f} %"

    p99 = {claim.trace: claim for claim in AGAINST_LOAD_AWARE if claim.figure == "ttft p99"}
    slower = at_rate(results, p99["M-M"], p99["M-M"].rate, part="slower").ours
    live = [float(np.mean(downtimes["live"][str(length)])) for length in LENGTHS]
    over = max(ours - paper for ours, paper in zip(live, DOWNTIMES_MS["live"], strict=True))
    below, knee = ("M-M", 7.8), ("M-M", 9.8)
    return {
        "mm": tables.reach(results, p99["M-M"]),
        "ll": tables.reach(results, p99["L-L"]),
        "mm_slower": times(slower),
        "rr_below": f"TTFT P99 {number(mean(results, below, LLUMNIX, 'ttft p99'))} s on M-M",
        "rr_knee": times(ratio(results, knee, "ttft p99", ROUND_ROBIN)),
        "fragmented": share(9.8, LLUMNIX),
        "fragmented_late": share(9.8, OURS),
        "fragmented_below": share(7.8, LLUMNIX),
        "downtime_off": number(over),
        "e2e": number(mean(results, below, LLUMNIX, "e2e p99")),
    }
