"""The HTML report: says what was measured, marks what is no result, and loads nothing."""

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llumnix.errors import ConfigError
from llumnix.report import RunReport, write_report
from llumnix.report.data import named
from llumnix.report.headline import headline, invalid_notes
from llumnix.report.lanes import LaneScale
from llumnix.report.page import page
from llumnix.report.table import COLUMNS
from tests.llumnix.report.html_reader import Reader

HOSTILE = '<script>alert("x")</script>&\'"$x_1$'


def run(policy: str, seed: int = 0, moves: int = 0, **changes: Any) -> RunReport:
    """Make a run whose every figure of the table is different."""
    dice = np.random.default_rng(seed)
    ttft = dice.lognormal(0.0, 1.0 + seed / 5, 300)
    tpot = dice.lognormal(-3.0, 0.2, 300)
    downtime = dice.gamma(4, 3, moves)
    times = np.arange(0.0, 600.0, 2.0)
    freeness = {
        f"emu-{n}": list(zip(times, 300 * np.sin(times / 40 + n) + 100, strict=True))
        for n in range(4)
    }
    starts = dice.uniform(0, 590, moves)
    result: dict[str, Any] = {
        "policy": policy,
        "migration": moves > 0,
        "valid": True,
        "requests": 311 + seed,
        "finished": 301 + seed,
        "failed": 0,
        "rejected": 10,
        "tokens_lost": 0,
        "tokens_doubled": 0,
        "tokens_wrong": 0,
        "migrations_committed": moves,
        "migrations_aborted": 7 if moves else 0,
        "downtime_ms": quantiles(downtime),
        "decode_step_ms": {"p50": 46.0},
        "preemptions": 91 + seed,
        "instance_seconds": 2_404.5 + seed,
        "ttft_s": quantiles(ttft) | {"mean": float(ttft.mean())},
        "tpot_s": quantiles(tpot) | {"mean": float(tpot.mean())},
    }
    return RunReport(
        result | changes,
        ttft.tolist(),
        tpot.tolist(),
        downtime.tolist(),
        freeness,
        {},
        [
            (float(at), float(at) + 1.5, "emu-0", f"emu-{1 + n % 3}", f"r{n}")
            for n, at in enumerate(starts)
        ],
    )


def quantiles(values: Sequence[float] | np.ndarray[Any, Any]) -> dict[str, float | None]:
    if not len(values):
        return {"p50": None, "p99": None}
    return {"p50": float(np.quantile(values, 0.5)), "p99": float(np.quantile(values, 0.99))}


def with_result(base: RunReport, **changes: Any) -> RunReport:
    return replace(base, result={**base.result, **changes})


@pytest.fixture(scope="module")
def runs() -> list[RunReport]:
    return [run("round-robin", 3), run("load-aware", 2), run("freeness", 1, moves=150)]


@pytest.fixture(scope="module")
def html(runs: list[RunReport]) -> str:
    return page(runs, "A trace on 4 instances", {"seed": "0", "machine": "two cores"})


def test_the_page_is_well_formed_and_whole(html: str) -> None:
    """Tags nest, ids are unique, and every reference within the page has its target."""
    read = Reader(html)
    assert len(set(read.ids)) == len(read.ids)
    assert read.references <= set(read.ids)
    assert {"table", "svg", "figure", "dl"} <= read.tags


def test_the_page_loads_nothing(html: str) -> None:
    """No address, script, frame, import or font from anywhere: it opens offline, for ever."""
    read = Reader(html)
    assert read.loads == []
    assert not read.tags & {"script", "link", "iframe", "img", "object", "embed", "image"}
    assert not re.search(r"https?:|//\w|@import|@font-face|url\((?!#)", html)


def test_every_figure_of_every_run_is_in_its_row(html: str, runs: list[RunReport]) -> None:
    """Row by row, column by column, as the result has it."""
    rows = {row[0]: row[1:] for row in Reader(html).rows[2:]}
    assert list(rows) == ["round-robin", "load-aware", "freeness + migration"]
    for one, cells in zip(runs, rows.values(), strict=True):
        expected = [column.read(one) for column in COLUMNS]
        assert cells == [
            "–" if value is None else column.shown(value)  # noqa: RUF001
            for column, value in zip(COLUMNS, expected, strict=True)
        ]


def test_the_best_figures_stand_out_and_only_where_runs_differ(
    html: str, runs: list[RunReport]
) -> None:
    """The lowest P99 TTFT is emphasised; columns in which all runs are equal are not."""
    best = {text for classes, text in Reader(html).cell_classes if "best" in classes}
    p99 = [one.figure("ttft_s", "p99") or 0.0 for one in runs]
    assert f"{min(p99):,.2f}" in best
    assert f"{max(p99):,.2f}" not in best
    assert "0" not in best
    assert "10" not in best


def test_the_headline_compares_each_run_with_the_best(runs: list[RunReport]) -> None:
    """Whichever policy was best is named first, be it ours or not."""
    results = [
        with_result(one, ttft_s={"p99": p99}) for one, p99 in zip(runs, (8, 2, 4), strict=True)
    ]
    text = headline(named(results))
    assert "<b>2.00&nbsp;s</b> under <b>load-aware</b>" in text
    assert "4.00&nbsp;s (2.0 times as long) under freeness + migration" in text
    assert "8.00&nbsp;s (4.0 times as long) under round-robin" in text
    assert "<b>150</b> times a request migrated" in text
    assert "no token was lost, doubled or wrong" in text


@pytest.mark.parametrize("fault", ["failed", "tokens_lost", "tokens_doubled", "tokens_wrong"])
def test_a_single_fault_is_in_the_headline(runs: list[RunReport], fault: str) -> None:
    """What went wrong is not left to the table."""
    text = headline(named([runs[0], with_result(runs[2], **{fault: 1})]))
    assert "1 requests or tokens were lost" in text
    assert "no token was" not in text


def test_outputs_never_compared_are_not_called_right(runs: list[RunReport]) -> None:
    """Unknown is not zero."""
    text = headline(named([with_result(runs[2], tokens_wrong=None)]))
    assert "token was lost" not in text


def test_an_invalid_run_is_struck_and_never_a_result(runs: list[RunReport]) -> None:
    """However good its figures: not in the headline, not best, not in the distributions."""
    lag = "emulation fell behind its clock"
    perfect = {"mean": 0.001, "p50": 0.001, "p99": 0.001}
    broken = with_result(runs[2], valid=False, invalid_reasons=(lag,), ttft_s=perfect)
    known = named([runs[0], broken])
    assert "freeness" not in headline(known)
    assert invalid_notes(known) == [f"<b>freeness + migration</b> is not a valid result: {lag}."]
    text = page([runs[0], runs[1], broken], "t", {})
    assert "<tr class=invalid>" in text
    assert "stroke: var(--run-2)" not in text
    assert "What a move cost" not in text
    best = {cell for classes, cell in Reader(text).cell_classes if "best" in classes}
    p99 = [one.figure("ttft_s", "p99") or 0.0 for one in runs[:2]]
    assert f"{min(p99):,.2f}" in best
    assert "0.00" not in best
    assert headline(named([broken])) == "No valid run: nothing here is a result."


def judged(base: RunReport, share: float, valid: bool = True, *discarded: float) -> RunReport:
    """Add what a measured run says of its own lateness."""
    earlier = [{"speed": 6.0, "late_steps_share": each} for each in discarded]
    validity = {
        "late_steps_share": share,
        "late_steps_bound": 0.01,
        "slip_p99_s": 0.25,
        "discarded_runs": earlier,
    }
    return with_result(base, valid=valid, speed=3.8, validity=validity)


def test_each_run_shows_how_far_to_trust_it(runs: list[RunReport]) -> None:
    """Its verdict, speed, share of late steps, and the runs of it that were discarded."""
    known = [judged(runs[0], 0.0086, True, 0.241, 0.032), judged(runs[1], 0.5, False), runs[2]]
    text = page(known, "t", {})
    _, valid, invalid = (row for row in Reader(text).rows[-3:])
    assert valid[:5] == [
        "round-robin",
        "valid",
        "3.8\N{THIN SPACE}\N{MULTIPLICATION SIGN}",
        "0.86%",
        "0.25\xa0s",
    ]
    assert "24.1%" in valid[5]
    assert "3.2%" in valid[5]
    assert invalid[:4] == [
        "load-aware",
        "not valid",
        "3.8\N{THIN SPACE}\N{MULTIPLICATION SIGN}",
        "50.00%",
    ]
    assert re.findall(r'class="meter( over)?".*?width:([0-9.]+)%', text) == [
        ("", "34.4"),
        (" over", "100.0"),
    ]


def test_runs_that_were_not_measured_are_not_judged(html: str) -> None:
    """Simulated runs, and those against other servers, have no lateness to show."""
    assert "How far to trust" not in html


def test_hostile_names_are_text_everywhere() -> None:
    """Policies, instances, requests, titles, reasons and facts are never markup or mathematics."""
    bad = run(HOSTILE, moves=3, valid=False, invalid_reasons=(HOSTILE,))
    series = {HOSTILE: bad.freeness["emu-0"], "b": bad.freeness["emu-1"]}
    moves = [(1.0, 2.0, HOSTILE, "b", HOSTILE), (3.0, 4.0, "gone", "b", "r")]
    bad = replace(bad, freeness=series, migrations=moves)
    text = page([bad, run(HOSTILE, moves=3)], HOSTILE, {HOSTILE: HOSTILE})
    read = Reader(text)
    assert "script" not in read.tags
    plots = [Reader(svg).text for svg in re.findall(r"<svg.*?</svg>", text, re.DOTALL)]
    assert any(HOSTILE in labels for labels in plots)
    assert read.text.count("<script>") >= 6


def test_labels_survive_the_restyling_of_the_plots() -> None:
    """Only tags are rewritten: a label that looks like a colour, id or number stays as it is."""
    name = 'id="a" #010101 1.23456 font: 9px x'
    one = run("freeness")
    text = page([replace(one, freeness={name: one.freeness["emu-0"]})], "t", {})
    assert name in Reader(text).text


def test_plots_wear_the_pages_colours(html: str) -> None:
    """No colour of the plots' own is left that would be wrong on a dark page."""
    svgs = re.findall(r"<svg.*?</svg>", html, re.DOTALL)
    assert len(svgs) == 2 + 3 + 1
    for svg in svgs:
        assert not re.search(r"#[0-9a-f]{6}\b(?<!clip)", re.sub(r'(href|url\()="?#[^")]*', "", svg))
        assert "font-family" not in svg
        assert re.search(r'aria-label="[^"]+"', svg)


def test_every_migration_is_drawn(html: str) -> None:
    """150 moves are 150 shafts, starts and heads."""
    (drawn,) = (svg for svg in re.findall(r"<svg.*?</svg>", html, re.DOTALL) if "150 migr" in svg)
    shafts = re.search(r'<g id="[^"]*LineCollection_1">(.*?)</g>', drawn, re.DOTALL)
    assert shafts
    assert shafts[1].count("<path ") == 150


def test_lanes_share_a_scale_that_shows_both_shortage_and_idleness(runs: list[RunReport]) -> None:
    """Zero is inside the lane, more freeness is higher, and one idle instance flattens nothing."""
    idle = replace(runs[0], freeness={"a": [(0.0, -30.0), (1.0, 40.0), (2.0, 13616.0)]})
    scale = LaneScale.of([idle, *runs])
    assert scale is not None
    heights = [scale.height(steps) for steps in (-1e9, -30, 0, 40, 300, 1e9)]
    assert heights == sorted(heights)
    assert heights[0] == 0.0
    assert heights[-1] == 1.0
    assert scale.height(40) - scale.height(-30) > 0.05
    assert scale.span_s >= 598


@pytest.mark.parametrize(
    "sparse",
    [
        RunReport({"policy": "p", "valid": True}),
        RunReport({"valid": False}),
        RunReport({"policy": "p", "valid": True, "ttft_s": {"p99": 1.0}}, [1.0], [], [3.0]),
        RunReport({"policy": "p", "valid": True}, [0.5, 0.5], [0.05], [-1.0], {"a": []}),
        RunReport({"policy": "p", "valid": True}, freeness={"a": [(0.0, 0.0)]}),
    ],
)
def test_whatever_is_unknown_is_left_out_without_complaint(sparse: RunReport) -> None:
    """Runs against other servers know little; a report is made of what there is."""
    Reader(page([sparse], "t", {}))
    Reader(page([sparse, sparse], "t", {}))


def test_equal_policies_are_told_apart(runs: list[RunReport]) -> None:
    """Three seeds of one policy are three rows."""
    assert [one.name for one in named([runs[0]] * 3)] == [f"round-robin ({n})" for n in (1, 2, 3)]


def test_it_is_written_where_it_was_asked_for(tmp_path: Path, runs: list[RunReport]) -> None:
    """As UTF-8; a path that cannot be written is an error that says so."""
    write_report(tmp_path / "r.html", runs[:1], "π", {})
    assert "<h1>π</h1>" in (tmp_path / "r.html").read_text(encoding="utf-8")
    with pytest.raises(ConfigError, match="cannot write the report"):
        write_report(tmp_path / "missing" / "r.html", runs[:1], "t", {})


def test_the_same_runs_make_the_same_page(runs: list[RunReport], html: str) -> None:
    """Nothing of the time or of chance gets in."""
    assert page(runs, "A trace on 4 instances", {"seed": "0", "machine": "two cores"}) == html
