"""The command line as a whole."""

import argparse
import ast
import subprocess
import sys
from pathlib import Path

import pytest

from llumnix.cli import COMMANDS, main, parser


def commands_of(built: argparse.ArgumentParser) -> list[str]:
    (found,) = (a for a in built._actions if isinstance(a, argparse._SubParsersAction))
    return list(found.choices)


def test_every_command_is_where_it_is_said_to_be() -> None:
    """The whole command line has the commands listed, in that order; each module has its own."""
    assert commands_of(parser()) == list(COMMANDS)
    for name, module in COMMANDS.items():
        own = [other for other, place in COMMANDS.items() if place == module]
        assert commands_of(parser(name)) == own


def test_one_command_does_not_import_the_others() -> None:
    """A simulation starts without what only a server needs."""
    ask = (
        "import sys; from llumnix.cli import main; main(['config']);"
        "print('llumnix.frontend.server' in sys.modules, 'matplotlib' in sys.modules)"
    )
    told = subprocess.run([sys.executable, "-c", ask], capture_output=True, check=True, timeout=60)
    assert told.stdout.decode().splitlines()[-1] == "False False"


# A fleet starts, answers a scrape and stops; then what has been imported is told.
SERVING = """
import asyncio, sys, urllib.request
from llumnix.commands import serve
from llumnix.config import load_config
from llumnix.service import Service

async def serve_once():
    config = load_config(None, ["frontend.port=0"])
    async with Service(config.fleet, config.scheduler, config.frontend, secret=b"s") as service:
        url = service.url + "/metrics"
        page = await asyncio.to_thread(lambda: urllib.request.urlopen(url, timeout=10).read())
        assert b"llumnix_build_info" in page

asyncio.run(serve_once())
print(sorted({name.partition(".")[0] for name in sys.modules}))
"""


def test_a_frontend_imports_nothing_that_it_does_not_need() -> None:
    """What draws, plans, compiles or computes is none of its business (decisions/0002, 0006)."""
    told = subprocess.run(
        [sys.executable, "-c", SERVING], capture_output=True, text=True, check=True, timeout=60
    )
    imported = set(ast.literal_eval(told.stdout.splitlines()[-1]))
    extras = {"grafana_foundation_sdk", "numba", "pyarrow", "ray", "torch", "vllm"}

    assert {"aiohttp", "llumnix"} <= imported
    assert imported & {"matplotlib", "pandas", *extras} == set()


@pytest.mark.parametrize(
    "command", [["demo", "--requests=5"], ["simulate", "--requests=5", "--report=r.html"]]
)
def test_without_matplotlib_a_report_is_refused_before_the_run(
    command: list[str], tmp_path: Path
) -> None:
    """It is an extra: who finds out only after four minutes has lost them."""
    script = f"""
import sys
sys.modules["matplotlib"] = None  # what an import finds that is not installed
from llumnix.cli import main
sys.exit(main({command}))
"""
    told = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, cwd=tmp_path
    )

    assert told.returncode == 2
    assert "pip install 'llumnix-scheduler[plots]'" in told.stderr
    assert told.stdout == ""
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_command_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["simulat"])
    assert "invalid choice: 'simulat'" in capsys.readouterr().err
