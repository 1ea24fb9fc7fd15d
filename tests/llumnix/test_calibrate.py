"""`llumnix calibrate` writes a preset that is taken wherever one is named, and tells its errors."""

import json
from pathlib import Path

import pytest

from llumnix.cli import main
from llumnix.emulator.config import EmulatorConfig
from simulator.cost_model import LinearCosts
from simulator.costs import preset
from tests.shared_traces import shared_trace
from tests.simulator.test_calibration import FAST, lines, served


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
    assert "budget 2048 tokens a step" in report.err
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
