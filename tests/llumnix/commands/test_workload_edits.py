"""`llumnix workload` convert, scale, slice and merge, and skipping bad rows, as typed."""

import argparse
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from llumnix import workloads
from llumnix.cli import main
from llumnix.commands import workload
from llumnix.errors import ConfigError
from simulator.workload.profile import from_json
from simulator.workload.readers import read_trace
from simulator.workload.request import TraceRequest
from simulator.workload.transforms import from_zero, mean_rate_rps

VIDUR = "arrived_at,num_prefill_tokens,num_decode_tokens\n" + "".join(
    f"{3 + second * second / 7},{100 + second},{10 + second}\n" for second in range(40)
)
Typed = Callable[..., str]


@pytest.fixture
def typed(capsys: pytest.CaptureFixture[str]) -> Typed:
    """Carry out `llumnix workload …` and give what it wrote to stdout."""

    def carry_out(*words: object) -> str:
        parser = argparse.ArgumentParser(prog="llumnix")
        workload.add_arguments(parser.add_subparsers())
        args = parser.parse_args(["workload", *map(str, words)])
        capsys.readouterr()
        assert args.run(args) == 0
        return capsys.readouterr().out

    return carry_out


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    path = tmp_path / "chat.csv"
    path.write_text(VIDUR)
    return path


@pytest.fixture
def servegen(tmp_path: Path) -> Path:
    folder = tmp_path / "servegen"
    folder.mkdir()
    (folder / "chunk-4-trace.csv").write_text("0,0.2,2.0,Gamma,0.25,20\n")
    (folder / "chunk-4-dataset.json").write_text(
        json.dumps({"0": {"input_tokens": "{10: 0.5, 90: 0.5}", "output_tokens": "{5: 1}"}})
    )
    return folder


def read(folder: Path, text: str) -> list[TraceRequest]:
    path = folder / "read-back.jsonl"
    path.write_text(text)
    return read_trace(path)


@pytest.mark.parametrize("kind", ["trace", "azure-conv-2023", "power-law:M-M,cv=3", "servegen"])
def test_laws_of_converting_slicing_and_scaling(
    kind: str, trace: Path, servegen: Path, tmp_path: Path, typed: Typed
) -> None:
    """Of every source: converting and reading back, slicing everything and scaling by 1."""
    source = {"trace": trace, "servegen": servegen}.get(kind, kind)
    words = (source, "--requests", 30, "--seed", 2)
    converted = typed("convert", *words)
    assert typed("convert", *words) == converted
    path = tmp_path / "converted.jsonl"
    path.write_text(converted)
    requests = read_trace(path)
    assert requests == from_zero(workloads.load_workload(source, requests=30, seed=2))
    assert typed("convert", path) == converted
    assert typed("slice", *words, "--numbers", ":") == converted
    assert typed("slice", *words, "--time-s", "0:") == converted
    assert typed("scale", *words) == converted
    assert typed("scale", path, "--rate", repr(mean_rate_rps(requests))) == converted
    assert typed("merge", path) == converted


def test_a_recorded_simulation_is_the_workload_it_served(tmp_path: Path, typed: Typed) -> None:
    """With class and tenant; `llumnix simulate --out` wrote it."""
    served = tmp_path / "served.jsonl"
    rows: list[dict[str, object]] = [
        {"arrival_s": i / 4, "prompt_tokens": 20 + i, "output_tokens": 3 + i, "tenant": f"t{i % 2}"}
        for i in range(12)
    ]
    rows[5]["class"] = "high"
    served.write_text("".join(json.dumps(row) + "\n" for row in rows))
    recording = tmp_path / "rows.csv"
    assert main(["simulate", str(served), "--instances=2", f"--out={recording}"]) == 0
    assert read(tmp_path, typed("convert", recording)) == read_trace(served)


def test_rates_and_lengths_are_scaled(trace: Path, tmp_path: Path, typed: Typed) -> None:
    words = ["--rate", 2, "--prompt-factor", 3, "--output-factor", 0.5]
    scaled = read(tmp_path, typed("scale", trace, *words))
    assert mean_rate_rps(scaled) == pytest.approx(2.0, rel=1e-4)
    assert [r.prompt_tokens for r in scaled] == [3 * (100 + i) for i in range(40)]
    assert [r.output_tokens for r in scaled[:3]] == [5, 6, 6]


def test_parts_are_cut_by_time_or_number(trace: Path, tmp_path: Path, typed: Typed) -> None:
    """Seconds count from the workload's start, not from whatever its clock said."""
    part = read(tmp_path, typed("slice", trace, "--time-s", "1:4"))
    assert [r.prompt_tokens for r in part] == [103, 104, 105]
    part = read(tmp_path, typed("slice", trace, "--numbers", "38:"))
    assert [(r.index, r.prompt_tokens) for r in part] == [(0, 138), (1, 139)]
    assert part[0].arrival_s == 0.0


def test_parts_of_a_workload_merge_with_others(trace: Path, tmp_path: Path, typed: Typed) -> None:
    head = tmp_path / "head.jsonl"
    head.write_text(typed("slice", trace, "--numbers", ":5"))
    together = read(tmp_path, typed("merge", trace, head, "power-law:S-S"))
    assert len(together) == 40 + 5 + 1000
    assert together[0].prompt_tokens == together[1].prompt_tokens == 100


def test_merged_generators_draw_apart(tmp_path: Path, typed: Typed) -> None:
    """Two of a kind are two users, not one twice: each has a seed of its own."""
    together = read(tmp_path, typed("merge", "power-law:M-M", "power-law:M-M", "--seed", 7))
    assert len(together) == 2000
    assert len({r.arrival_s for r in together}) > 1990
    words = ("merge", "power-law:M-M", "power-law:M-M", "--seed")
    assert typed(*words, 7) == typed(*words, 7) != typed(*words, 8)


@pytest.mark.parametrize(
    "words",
    [
        ["convert", "FILE"],
        ["scale", "FILE", "--rate", "3"],
        ["slice", "FILE", "--numbers", "0:10"],
        ["merge", "FILE", "FILE"],
        ["profile", "FILE"],
        ["generate", "FILE"],
        ["inspect", "FILE"],
    ],
)
def test_every_verb_skips_bad_rows_on_request_and_says_so(
    words: list[str],
    trace: Path,
    tmp_path: Path,
    typed: Typed,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """What it writes is what it writes without them."""
    folder = tmp_path / "spoilt"
    folder.mkdir()
    spoilt = folder / trace.name
    lines = VIDUR.splitlines(keepends=True)
    spoilt.write_text("".join([*lines[:3], "soon,1,1\n", *lines[3:], "9,9\n"]))
    story = f"{spoilt}, line 4, column arrived_at: expected a number"
    with pytest.raises(ConfigError, match="line 4, column arrived_at: expected a number"):
        typed(*(spoilt if word == "FILE" else word for word in words))
    typed_words = ["workload", *(str(spoilt) if word == "FILE" else word for word in words)]
    assert main([*typed_words, "--skip-bad-rows"]) == 0
    output = capsys.readouterr()
    assert output.out == typed(*(trace if word == "FILE" else word for word in words))
    count = 2 * words.count("FILE")
    assert f"skipped {count} bad rows; the first: {story}" in output.err


def test_a_servegen_folder_has_a_profile(servegen: Path, typed: Typed) -> None:
    profile = from_json(typed("profile", servegen), "stdout")
    assert (profile.origin.name, profile.curve.total) == ("servegen", 120)


def test_no_bad_rows_are_said_to_be_none(trace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["workload", "convert", str(trace), "--skip-bad-rows"]) == 0
    assert capsys.readouterr().err == "llumnix workload: skipped 0 bad rows\n"


def test_a_format_may_be_named_where_the_looks_do_not_tell(
    trace: Path, tmp_path: Path, typed: Typed
) -> None:
    """A first line that is no row hides the format of JSON lines."""
    path = tmp_path / "odd.jsonl"
    path.write_text("# made by hand\n" + typed("convert", trace))
    with pytest.raises(ConfigError, match="not a trace in a known format"):
        typed("convert", path, "--skip-bad-rows")
    words = ("convert", path, "--format", "llumnix", "--skip-bad-rows")
    assert typed(*words) == typed("convert", trace)


@pytest.mark.parametrize(
    ("words", "story"),
    [
        (["slice", "azure-conv-2023", "--requests", "9", "--numbers", "5:10"], "numbers 0 to 8"),
        (["slice", "power-law:M-M", "--time-s", "99999999:"], "no request arrives from"),
        (["scale", "power-law:M-M", "--prompt-factor", "0"], "a length factor must be above 0"),
        (["scale", "power-law:M-M", "--rate", "nan"], "above 0"),
        (["convert", "/no/such/folder"], "/no/such/folder"),
        (["merge", "power-law:M-M", "power-law:Q-Q"], "S, M, L"),
    ],
)
def test_errors_say_what_to_do(words: list[str], story: str, typed: Typed) -> None:
    with pytest.raises(ConfigError, match=story):
        typed(*words)


@pytest.mark.parametrize(
    "words",
    [
        ["--time-s", "5"],
        ["--time-s", "9:3"],
        ["--time-s", "a:b"],
        ["--numbers", "1.5:3"],
        ["--numbers", "x"],
        [],
        ["--numbers", "1:3", "--time-s", "1:3"],
    ],
)
def test_parts_that_are_none_are_usage_errors(words: list[str], typed: Typed) -> None:
    with pytest.raises(SystemExit):
        typed("slice", "power-law:M-M", *words)


def test_a_folder_does_not_hide_a_shipped_profile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "azure-conv-2023").mkdir()
    monkeypatch.chdir(tmp_path)
    assert len(workloads.load_workload("azure-conv-2023", requests=10)) == 10
    (tmp_path / "other").mkdir()
    with pytest.raises(ConfigError, match="not a ServeGen folder"):
        workloads.load_workload("other")
