"""The demo on real servers, as far as it goes without any."""

from pathlib import Path

import pytest

from llumnix.cli import main
from llumnix.loadgen import OutputChecker, PromptSource
from llumnix.testbed.demo import _CONTEXT, Rehearsal, VllmFleet, at_load, cut_down
from llumnix.testbed.trial import PolicyChoice
from llumnix.workloads import load_workload
from simulator.workload.transforms import mean_rate_rps


def test_a_workload_cut_down_fits_the_model_and_keeps_its_order_of_lengths() -> None:
    drawn = load_workload("azure-conv-2023", 300)
    cut = cut_down(drawn)

    assert all(one.prompt_tokens + one.output_tokens < _CONTEXT for one in cut)
    assert [one.arrival_s for one in cut] == [one.arrival_s for one in drawn]
    pairs = sorted(zip(drawn, cut, strict=True), key=lambda pair: pair[0].prompt_tokens)
    lengths = [after.prompt_tokens for _, after in pairs]
    assert lengths == sorted(lengths)
    assert len(set(lengths)) > 50


def test_the_rate_is_a_share_of_what_the_servers_did() -> None:
    checker = OutputChecker(PromptSource(), lambda prompt, _most: prompt)
    requests = at_load(load_workload("azure-conv-2023", 100), Rehearsal(4.0, checker), 0.5)

    assert mean_rate_rps(requests) == pytest.approx(2.0)


def test_a_policy_gets_the_servers_that_run() -> None:
    fleet = VllmFleet(("http://a", "http://b"), Path("secret"), ("fleet.poll_interval_s=1",))
    arguments = fleet.serve_arguments(PolicyChoice("freeness", migration=True))

    assert "--migration" in arguments
    assert [one for one in arguments if one.startswith("--instance=")] == [
        "--instance=http://a",
        "--instance=http://b",
    ]
    assert arguments[-2:] == ["--set", "fleet.poll_interval_s=1"]


def test_a_speed_is_for_emulated_instances(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "--engine=vllm", "--speed=2"]) == 2
    assert "--speed" in capsys.readouterr().err
