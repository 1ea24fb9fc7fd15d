"""`llumnix calibrate` writes a preset that is taken wherever one is named, and tells its errors."""

import json
from pathlib import Path

import numpy as np
import pytest

from llumnix.cli import main
from llumnix.emulator.config import EmulatorConfig
from simulator.calibration.rerun import rerun
from simulator.costs.model import LinearCosts
from simulator.costs.presets import preset
from simulator.fleet.options import SimulatorConfig
from tests.shared_traces import shared_trace
from tests.simulator.calibration.test_calibration import ENGINE, FAST, lines, served


@pytest.fixture(name="requests", scope="module")
def _requests(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("measured") / "server.jsonl"
    path.write_text("\n".join(lines(served(FAST, 8.0, requests=150))))
    return path


def test_the_preset_can_be_used(
    requests: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It has the server's costs, and an emulated engine runs at them."""
    out = tmp_path / "mine.json"
    argv = ["calibrate", str(requests), "--out", str(out), "--capacity-tokens", "100000"]
    assert main(argv) == 0
    report = capsys.readouterr()
    assert report.out == ""
    assert "token budget 2048 per step" in report.err
    assert report.err.count("held out, block") == 5
    found = preset(str(out))
    assert (found.name, found.capacity_tokens) == ("server", 100_000)
    assert isinstance(found.costs, LinearCosts)
    assert found.costs.decode_base_ns == pytest.approx(FAST.decode_base_ns, rel=0.03)
    assert EmulatorConfig(preset=str(out), max_model_len=2048).sizes().preset == found


def test_stdout_is_the_preset_alone(requests: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It can be redirected; the fit's errors go with it. Running twice gives the same bytes."""
    argv = ["calibrate", str(requests), "--folds", "2", "--name", "mine", "--token-budget", "2048"]
    assert main(argv) == 0
    out = capsys.readouterr().out
    document = json.loads(out)
    assert document["name"] == "mine"
    assert len(document["calibration"]["held_out"]) == 2
    assert abs(document["calibration"]["in_sample"]["e2e"]) < 0.02
    assert main(argv) == 0
    assert capsys.readouterr().out == out


def test_a_server_that_schedules_ahead_is_simulated_so(tmp_path: Path) -> None:
    """The preset says so, and the errors are those of such a simulation: TTFT is right too."""
    plain = served(FAST, 8.0)
    measured = rerun(plain, FAST, ENGINE.limits(plain, 2048), ahead=True)
    path, out = tmp_path / "server.jsonl", tmp_path / "mine.json"
    path.write_text("\n".join(lines(measured)))
    assert main(["calibrate", str(path), "--out", str(out)]) == 0
    assert preset(str(out)).schedules_ahead
    assert SimulatorConfig(preset=str(out)).shape(1).schedules_ahead
    assert not SimulatorConfig(preset=str(out), schedules_ahead=False).shape(1).schedules_ahead
    assert abs(json.loads(out.read_text())["calibration"]["in_sample"]["ttft"]) < 0.05


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["none.jsonl"], "cannot read none.jsonl"),
        (["{requests}", "--folds", "1"], "1 folds of 150 requests"),
        (["{requests}", "--token-budget", "0"], "--token-budget must be at least 1, not 0"),
    ],
)
def test_what_cannot_be_done_is_said(
    requests: Path, argv: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """On stderr, with exit code 2."""
    assert main(["calibrate", *(word.format(requests=requests) for word in argv)]) == 2
    assert message in capsys.readouterr().err


def test_a_fleet_of_one_serves_what_was_measured_as_it_was(tmp_path: Path) -> None:
    """`simulate --preset` needs no more: batch, budget and scheduling are those of the server."""
    plain = served(FAST, 8.0)
    measured = rerun(plain, FAST, ENGINE.limits(plain, 2048), ahead=True)
    path, out, trace = (tmp_path / name for name in ("server.jsonl", "mine.json", "trace.jsonl"))
    path.write_text("\n".join(lines(measured)))
    assert main(["calibrate", str(path), "--out", str(out)]) == 0
    columns = (measured.arrived_s, measured.prompt_tokens, measured.output_tokens)
    names = ("arrival_s", "prompt_tokens", "output_tokens")
    rows = [dict(zip(names, row, strict=True)) for row in zip(*map(list, columns), strict=True)]
    trace.write_text("\n".join(json.dumps(row, default=int) for row in rows))
    found = tmp_path / "found.json"
    given = [str(trace), f"--preset={out}", "--instances=1", "--policy=round-robin"]
    assert main(["simulate", *given, f"--json={found}"]) == 0
    result = json.loads(found.read_text())
    assert result["e2e_s"]["mean"] == pytest.approx(float(measured.e2e_s.mean()), rel=0.02)
    assert result["ttft_s"]["p50"] == pytest.approx(float(np.median(measured.ttft_s)), rel=0.05)


def test_a_real_server_is_foretold(tmp_path: Path) -> None:
    """Timestamps of a real vLLM: held-out E2E and TPOT within 5 %, and 10 % of TTFT over all."""
    name = "vllm_measured_RTXPRO6000_Llama-3.1-8B.requests.jsonl"
    path = str(shared_trace(f"vllm_measured/{name}"))
    out = tmp_path / "real.json"
    assert main(["calibrate", path, "--out", str(out)]) == 0
    found = json.loads(out.read_text())["calibration"]
    for fold in found["held_out"]:
        assert abs(fold["e2e"]) < 0.05
        assert abs(fold["tpot"]) < 0.05
    assert abs(found["in_sample"]["ttft"]) < 0.1
