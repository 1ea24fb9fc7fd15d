"""Sweeps on a Ray cluster: the very rows that processes give, or a word on what is missing."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from llumnix.cli import main

SMALL = ["azure-conv-2023", "--requests=40", "--instances=2"]
GRID = ["--vary=policy=freeness,round-robin", "--vary=rate=2,4"]
SLO = ["--capacity", "--slo-tpot-s=0.06", "--slo-ttft-s=1.0"]

needs_ray = pytest.mark.skipif(
    importlib.util.find_spec("ray") is None,
    reason="Ray is not installed (pip install llumnix-scheduler[ray]): nothing ran on a cluster",
)


def sweep(folder: Path, name: str, *arguments: str) -> bytes:
    """Run a sweep in a process of its own, which takes its cluster with it; gives all it wrote."""
    (folder / name).mkdir()
    made = subprocess.run(
        [sys.executable, "-m", "llumnix", "sweep", *SMALL, *arguments, "--json=-", "--csv=rows"],
        cwd=folder / name,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[3]), "RAY_ADDRESS": "local"},
        capture_output=True,
        timeout=110,
    )
    assert made.returncode == 0, made.stderr.decode()
    return made.stdout + (folder / name / "rows").read_bytes()


@needs_ray
@pytest.mark.parametrize("kind", [GRID, SLO], ids=["grid", "capacity"])
def test_a_cluster_gives_what_processes_give(tmp_path: Path, kind: list[str]) -> None:
    """To the last byte, JSON and CSV."""
    assert sweep(tmp_path, "here", "--jobs=1", *kind) == sweep(tmp_path, "there", *kind, "--ray")


@needs_ray
def test_what_a_task_raises_is_what_the_command_says(tmp_path: Path) -> None:
    """Not a traceback from a node; and a node with other code is refused."""
    script = (
        "from llumnix.planning import ray_pool\n"
        "from llumnix.errors import ConfigError\n"
        "pool = ray_pool.RayPool('local')\n"
        "def no():\n"
        "    raise ConfigError('it is wrong')\n"
        "print(repr(pool.submit(no).exception()))\n"
        "ray_pool.code_digest = lambda: 'other'\n"
        "print(repr(pool.submit(int).exception()))\n"
    )
    made = subprocess.run(
        [sys.executable, "-c", script],
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[3])},
        capture_output=True,
        timeout=110,
        text=True,
    )
    wrong, refused = made.stdout.splitlines()
    assert wrong == "ConfigError('it is wrong')"
    assert "another version of llumnix-scheduler" in refused


def test_without_ray_it_is_said_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before anything runs."""
    monkeypatch.setitem(sys.modules, "ray", None)
    assert main(["sweep", *SMALL, "--requests=1", "--ray"]) == 2
    assert "pip install llumnix-scheduler[ray]" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "arguments", "words"),
    [
        ("sweep", ["--ray", "--jobs=2"], "--jobs applies to this machine only"),
        ("compare", ["--ray", "--jobs=2"], "--jobs applies to this machine only"),
        ("sweep", ["--ray=somewhere"], "'somewhere' is not HOST:PORT"),
        ("sweep", ["--ray=ray://127.0.0.1:1"], "no Ray cluster responds at ray://127.0.0.1:1"),
        ("compare", ["--ray=somewhere"], "'somewhere' is not HOST:PORT"),
        ("tune", ["--ray=somewhere"], "'somewhere' is not HOST:PORT"),
    ],
)
def test_what_cannot_be_run_is_said(
    command: str, arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([command, *SMALL, "--requests=1", *arguments]) == 2
    assert words in capsys.readouterr().err
