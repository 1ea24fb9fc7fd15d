"""The tables of docs/paper.md."""

from collections.abc import Mapping, Sequence

import numpy as np

from llumnix.planning.estimate import estimate
from paper_parts.claims import (
    AGAINST_LOAD_AWARE,
    DOWNTIMES_MS,
    FRAGMENTED,
    NORMAL_LOSS,
    PRIORITIES,
    UP_TO,
    Claim,
    Ratio,
)
from paper_parts.downtime import LENGTHS
from paper_parts.layout import NOTHING, TIMES, named, number, percent, short, table, times
from paper_parts.plan import (
    BASE,
    LLUMNIX,
    LOAD_AWARE,
    OURS,
    POLICIES,
    PRIORITY_CVS,
    PRIORITY_RATES,
    STILL,
    TRACES,
    Trace,
)
from paper_parts.results import Results
from paper_parts.verdicts import at_rate, largest, matched_rate, mean, middle, urgent

Downtimes = Mapping[str, Mapping[str, Sequence[float]]]
_COLUMNS = {
    "ttft mean": ("TTFT mean, s", 1.0),
    "ttft p99": ("TTFT P99, s", 1.0),
    "tpot mean": ("TPOT mean, ms", 1e3),
    "tpot p99": ("TPOT P99, ms", 1e3),
    "e2e mean": ("E2E mean, s", 1.0),
    "e2e p99": ("E2E P99, s", 1.0),
    "loss mean": ("preemption loss, s", 1.0),
    "preempted": ("preempted, %", 100.0),
    "fragmented": ("fragmented, %", 100.0),
    "migrations": ("moves per 100 requests", 100.0),
}


def served(results: Results) -> list[Trace]:
    """List the traces that have results."""
    return [trace for trace in TRACES if results.has(trace.name)]


def points(results: Results) -> str:
    """Show the paper's single points beside ours: at the same rate, and at the same load."""
    heads = (
        "figure, trace",
        "the paper",
        "at its rate",
        "at matched load",
        "late binding there",
        "direction",
        "size",
    )
    return table(heads, [_point(results, claim) for claim in AGAINST_LOAD_AWARE])


def _point(results: Results, claim: Claim) -> list[str]:
    if not results.has(claim.trace):
        return [named(claim.figure), claim.trace, *[NOTHING] * 5]
    rate = matched_rate(results, claim)
    there, same = (at_rate(results, claim, each) for each in (rate, claim.rate))
    late = at_rate(results, claim, rate, OURS)
    shown = f"{number(claim.over)} → {number(claim.under)} s, " if claim.unit else ""
    return [
        f"{named(claim.figure)}, {claim.trace}",
        f"{claim.rate:g}/s: {shown}**{number(claim.ratio)}{TIMES}**",
        f"{_from_to(results, claim, claim.rate)}, **{times(same.ours)}**",
        f"{rate:g}/s: {_from_to(results, claim, rate)}, **{times(there.ours)}**",
        times(late.ours),
        there.direction,
        there.size,
    ]


def _from_to(results: Results, claim: Claim, rate: float, part: str = "serving") -> str:
    before, after = (
        number(middle(results, (claim.trace, rate), policy, claim.figure, part))
        for policy in (LOAD_AWARE, LLUMNIX)
    )
    return f"{before} → {after} s"


def most(results: Results) -> str:
    """Show the paper's "up to" beside our largest."""
    rows = []
    for one in UP_TO:
        where, verdict = largest(results, one)
        paper = f"{one.paper:g}{TIMES}{'' if not one.remembered else ' (second-hand)'}"
        rerun = f"{one.rerun:g}{TIMES}" if one.rerun else NOTHING
        ours = f"**{times(verdict.ours)}** ({where})"
        name = f"{named(one.figure)}, against {one.against}"
        rows.append([name, paper, rerun, ours, verdict.direction, verdict.size])
    heads = ("figure", "the paper", "authors' rerun", "simulated (where)", "direction", "size")
    return table(heads, rows)


def losses(results: Results) -> str:
    """Return preemption loss by trace and rate, and by how much Llumnix lowers it."""
    rows = [
        [
            f"{trace.name}, {rate:g}/s",
            *(_mean(results, (trace.name, rate), policy, "loss mean") for policy in POLICIES),
            _cut(results, (trace.name, rate)),
        ]
        for trace in served(results)
        for rate in trace.rates
    ]
    return table(("loss, s", *POLICIES, "Llumnix against load-aware"), rows)


def mean_cut(results: Results) -> str:
    """Return by how much Llumnix lowers the loss of all traces together, at the paper's rates."""
    before, after = (
        sum(mean(results, (one.name, one.cited), policy, "loss mean") for one in served(results))
        for policy in (LOAD_AWARE, LLUMNIX)
    )
    return f"{(after / before - 1) * 100:+.0f} %" if before > 0 else NOTHING


def reach(results: Results, claim: Claim) -> str:
    """Return how far apart single workloads are in a claim at matched load."""
    place = (claim.trace, matched_rate(results, claim))
    over, under = (results.values(place, policy, claim.figure) for policy in (LOAD_AWARE, LLUMNIX))
    found = sorted(one / other for one, other in zip(over, under, strict=True))
    return f"{number(found[0])} to {number(found[-1])}"


def _cut(results: Results, place: tuple[str, float]) -> str:
    before, after = (mean(results, place, policy, "loss mean") for policy in (LOAD_AWARE, LLUMNIX))
    return f"{(after / before - 1) * 100:+.0f} %" if before > 0 else NOTHING


def fragmentation(results: Results) -> str:
    """Return the share of fragmented memory by trace and rate."""
    rows = [
        [
            f"{trace.name}, {rate:g}/s",
            *(_mean(results, (trace.name, rate), name, "fragmented", 100) for name in POLICIES),
        ]
        for trace in served(results)
        for rate in trace.rates
    ]
    known = {name: number(share * 100) for name, share in FRAGMENTED.items()}
    paper = ["the paper (second-hand)", *(known.get(name, NOTHING) for name in POLICIES)]
    return table(("fragmented, %", *POLICIES), [*rows, paper])


def _mean(
    results: Results, place: tuple[str, float], policy: str, what: str, scale: float = 1.0
) -> str:
    found = estimate(results.values(place, policy, what))
    half = "" if found.half_width is None else f" ± {number(found.half_width * scale)}"
    return f"{number(found.mean * scale)}{half}"


def downtimes(found: Downtimes) -> str:
    """Show downtimes by length beside figure 10's."""
    rows = []
    for mode, values in DOWNTIMES_MS.items():
        rows.append([f"{mode}: the paper", *map(str, values)])
        for name, by_length in found.items():
            if name.split(",")[0] == mode:
                means = [number(float(np.mean(by_length[str(one)]))) for one in LENGTHS]
                rows.append([f"**{name}: simulated**", *(f"**{one}**" for one in means)])
    heads = map(short, LENGTHS)
    return table(("downtime, ms, by tokens of context", *heads), rows)


def urgencies(results: Results) -> str:
    """Show how much faster urgent requests are with priorities, beside figure 13's range."""
    cvs = [cv for cv in PRIORITY_CVS if results.has_cv(cv)]
    rows = []
    for claim in PRIORITIES:
        for rate in PRIORITY_RATES:
            verdicts = [urgent(results, claim, (rate, cv)) for cv in cvs]
            rows.append(
                [
                    f"{named(claim.figure)}, {rate:g}/s",
                    f"{claim.least:g} to {claim.most:g}{TIMES}",
                    *(times(one.ours) for one in verdicts),
                    _each({one.direction for one in verdicts}),
                    _each({one.size for one in verdicts}),
                ]
            )
    heads = ("urgent requests", "the paper", *(f"CV {cv:g}" for cv in cvs), "direction", "size")
    return table(heads, rows)


def variant(results: Results, policy: str) -> str:
    """Return what urgent requests gain under a variant of the rules, and what normal ones lose."""
    cvs = [cv for cv in PRIORITY_CVS if results.has_cv(cv)]
    figures = [("high", claim.figure) for claim in PRIORITIES]
    rows = []
    for group, figure in (*figures, ("normal", "e2e mean")):
        for rate in PRIORITY_RATES:
            ours = [
                Ratio.of(
                    results.urgency((rate, cv), BASE, f"{group} {figure}"),
                    results.urgency((rate, cv), policy, f"{group} {figure}"),
                )
                for cv in cvs
            ]
            name = named(figure) + (" of the normal" if group == "normal" else "")
            rows.append([f"{name}, {rate:g}/s", *map(times, ours)])
    return table((f"urgent requests, {policy}", *(f"CV {cv:g}" for cv in cvs)), rows)


def _each(verdicts: set[str]) -> str:
    return " / ".join(sorted(verdicts, reverse=True))


def ordinary(results: Results) -> str:
    """Return how much longer normal requests take with priorities."""
    cvs = [cv for cv in PRIORITY_CVS if results.has_cv(cv)]
    rows = []
    for figure, paper in NORMAL_LOSS.items():
        for rate in PRIORITY_RATES:
            ours = [
                Ratio.of(
                    results.urgency((rate, cv), LLUMNIX, f"normal {figure}"),
                    results.urgency((rate, cv), BASE, f"normal {figure}"),
                )
                for cv in cvs
            ]
            name = f"{named(figure)}, {rate:g}/s"
            rows.append([name, f"up to +{paper * 100:g} %", *map(percent, ours)])
    return table(("normal requests", "the paper", *(f"CV {cv:g}" for cv in cvs)), rows)


def slower(results: Results) -> str:
    """Show the paper's single points beside ours at its own rates, with slower steps."""
    rows = []
    for claim in AGAINST_LOAD_AWARE:
        if not results.has(claim.trace, "slower"):
            continue
        verdict = at_rate(results, claim, claim.rate, part="slower")
        shown = f"{number(claim.over)} → {number(claim.under)} s, " if claim.unit else ""
        rows.append(
            [
                f"{named(claim.figure)}, {claim.trace}, {claim.rate:g}/s",
                f"{shown}**{number(claim.ratio)}{TIMES}**",
                f"{_from_to(results, claim, claim.rate, 'slower')}, **{times(verdict.ours)}**",
                verdict.direction,
                verdict.size,
            ]
        )
    heads = ("figure", "the paper", "simulated, steps 10 ms longer", "direction", "size")
    return table(heads, rows)


def ablation(results: Results) -> str:
    """Separate the effect of freeness dispatch from that of migration, at our knee."""
    rows = []
    for trace in served(results):
        place = (trace.name, trace.middle)
        for figure in ("ttft mean", "tpot p99", "loss mean"):
            values = [
                mean(results, place, policy, figure, part)
                for policy, part in (
                    (LOAD_AWARE, "serving"),
                    (STILL, "ablation"),
                    (LLUMNIX, "serving"),
                )
            ]
            name = named(figure) if figure != "loss mean" else "preemption loss"
            rows.append([f"{name}, {trace.name}, {trace.middle:g}/s", *map(number, values)])
    return table(("mean of the seeds, s", LOAD_AWARE, STILL, LLUMNIX), rows)


def everything(results: Results) -> list[str]:
    """Return every figure of serving, a folded table per trace."""
    heads = ("rate, policy", *(head for head, _ in _COLUMNS.values()))
    parts = []
    for trace in served(results):
        rows = [
            [
                f"{rate:g}/s {policy}",
                *(
                    _mean(results, (trace.name, rate), policy, what, scale)
                    for what, (_, scale) in _COLUMNS.items()
                ),
            ]
            for rate in trace.rates
            for policy in POLICIES
        ]
        summary = f"<summary>{trace.name}</summary>"
        parts.append(f"<details>{summary}\n\n{table(heads, rows)}\n\n</details>")
    return parts
