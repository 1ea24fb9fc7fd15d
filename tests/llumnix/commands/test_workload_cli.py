"""`llumnix workload`: profile, generate and inspect, as typed."""

import argparse
import gzip
import json
from pathlib import Path

import pytest

from llumnix import workloads
from llumnix.commands import workload
from llumnix.data_files import data_names, data_path
from llumnix.errors import ConfigError
from simulator.workload.profile import from_json
from simulator.workload.readers import read_trace
from simulator.workload.transforms import mean_rate_rps

AZURE = "TIMESTAMP,ContextTokens,GeneratedTokens\n" + "".join(
    f"2023-11-16 18:15:{second:02}.5000000,{100 + second},{10 + second}\n" for second in range(60)
)


def typed(*words: str) -> int:
    parser = argparse.ArgumentParser(prog="llumnix")
    workload.add_arguments(parser.add_subparsers())
    args = parser.parse_args(["workload", *words])
    return int(args.run(args))


@pytest.fixture
def trace_path(tmp_path: Path) -> Path:
    path = tmp_path / "chat.csv.gz"
    path.write_bytes(gzip.compress(AZURE.encode()))
    return path


def test_a_trace_becomes_a_profile_becomes_a_trace(
    trace_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert typed("profile", str(trace_path), "--source", "me", "--licence", "MIT") == 0
    text = capsys.readouterr().out
    profile = from_json(text, "stdout")
    assert (profile.origin.name, profile.origin.licence) == ("chat", "MIT")
    assert profile.curve.total == 60
    profile_path = tmp_path / "chat.json"
    profile_path.write_text(text)
    words = [str(profile_path), "--requests", "90", "--rate", "4", "--seed", "2"]
    assert typed("generate", *words) == 0
    generated_path = tmp_path / "generated.jsonl"
    generated_path.write_text(capsys.readouterr().out)
    generated = read_trace(generated_path)
    assert len(generated) == 90
    assert mean_rate_rps(generated) == pytest.approx(4.0, rel=1e-3)
    assert all(100 <= request.prompt_tokens <= 159 for request in generated)


def test_equal_arguments_give_equal_bytes(capsys: pytest.CaptureFixture[str]) -> None:
    outputs = []
    for seed in ("5", "5", "6"):
        typed("generate", "azure-code-2023", "--requests", "50", "--seed", seed)
        outputs.append(capsys.readouterr().out)
    assert outputs[0] == outputs[1] != outputs[2]


def test_a_duration_may_be_generated_with_classes(capsys: pytest.CaptureFixture[str]) -> None:
    typed("generate", "azure-conv-2023", "--duration-s", "60", "--high-share", "0.5")
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert rows[-1]["arrival_s"] < 60.0
    assert {row.get("class", "normal") for row in rows} == {"high", "normal"}


@pytest.mark.parametrize("name", ["azure-conv-2023", "azure-code-2023"])
def test_inspecting_a_profile_says_what_it_is_like_and_whom_to_thank(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert typed("inspect", name) == 0
    shown = capsys.readouterr().out
    for word in (name, "CC-BY-4.0", "Patel", "requests/s", "prompt tokens", "CV of the gaps"):
        assert word in shown


def test_a_generator_can_be_inspected(capsys: pytest.CaptureFixture[str]) -> None:
    assert typed("inspect", "power-law:S-L,cv=4", "--requests", "500", "--high-share", "0.2") == 0
    assert "class high" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "story"),
    [
        (["inspect", "azure-conf-2023"], "azure-code-2023, azure-conv-2023"),
        (["inspect", "power-law:Q-Q"], "S, M, L"),
        (["generate", "azure-conv-2023", "--requests", "0"], "1 or more"),
        (["generate", "azure-conv-2023", "--rate", "-1"], "above 0"),
        (["generate", "power-law:M-M", "--duration-s", "5"], "not a profile"),
        (["generate", "azure-conv-2023", "--requests", "5", "--duration-s", "5"], "not both"),
        (["generate", "azure-conv-2023", "--high-share", "7"], "between 0 and 1"),
        (["generate", "azure-conv-2023", "--seed", "-1"], "seed"),
        (["profile", "/no/such/trace.csv"], "/no/such/trace.csv"),
    ],
)
def test_errors_say_what_to_do(words: list[str], story: str) -> None:
    with pytest.raises(ConfigError, match=story):
        typed(*words)


def test_a_trace_must_have_as_many_requests_as_asked_for(trace_path: Path) -> None:
    with pytest.raises(ConfigError, match="workload profile"):
        workloads.load_workload(trace_path, requests=61)


def test_workloads_are_found_by_path_before_name(
    trace_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert len(workloads.load_workload(str(trace_path))) == 60
    assert len(workloads.load_workload("azure-conv-2023", requests=10)) == 10
    monkeypatch.chdir(trace_path.parent)
    assert workloads.find_workload(trace_path.name) == Path(trace_path.name)


def test_shipped_files_are_found_and_absent_ones_said_to_be() -> None:
    assert data_names("traces", ".json") == ["azure-code-2023", "azure-conv-2023"]
    assert data_path("traces", "azure-conv-2023.json").is_file()
    with pytest.raises(FileNotFoundError, match=r"other\.json"):
        data_path("traces", "other.json")
    assert data_names("nothing", ".json") == []


def test_an_installed_wheel_is_looked_in_first(tmp_path: Path) -> None:
    """`llumnix/data/traces` is where a wheel puts the profiles."""
    package = tmp_path / "llumnix"
    (package / "data" / "traces").mkdir(parents=True)
    (package / "data" / "traces" / "azure-conv-2023.json").write_text("{}")
    found = data_path("traces", "azure-conv-2023.json", package)
    assert found.is_relative_to(tmp_path)
