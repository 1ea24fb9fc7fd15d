"""The command line as a whole."""

import argparse
import subprocess
import sys

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


def test_an_unknown_command_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["simulat"])
    assert "invalid choice: 'simulat'" in capsys.readouterr().err
