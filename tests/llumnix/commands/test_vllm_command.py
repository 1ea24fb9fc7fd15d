"""`llumnix vllm`: the command line it turns into, and what it refuses."""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from llumnix.commands import vllm as vllm_command
from llumnix.commands.vllm import FLAG, serve_command
from llumnix.errors import ConfigError


def config_of(command: list[str]) -> dict[str, Any]:
    flags = [one for one in command if one.startswith(f"{FLAG}=")]
    assert len(flags) == 1
    parsed: dict[str, Any] = json.loads(flags[0].removeprefix(f"{FLAG}="))
    return parsed


@pytest.fixture
def _vllm_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package named vllm, and a secret."""
    (tmp_path / "vllm").mkdir()
    (tmp_path / "vllm" / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("LLUMNIX_SECRET", "s")


@pytest.mark.usefixtures("_vllm_here")
def test_it_becomes_vllm_serve_with_the_plugin(monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[list[str]] = []
    monkeypatch.setattr("os.execv", lambda _path, command: ran.append(command))
    parser = argparse.ArgumentParser(prog="llumnix")
    vllm_command.add_arguments(parser.add_subparsers())
    typed = ["vllm", "--instance-id", "gpu1", "--", "my/model", "--port", "8001", "-tp=2"]
    args = parser.parse_args(typed)
    args.run(args)

    (command,) = ran
    where = command.index("serve")
    assert command[where + 1 : -1] == ["my/model", "--port", "8001", "-tp=2"]
    config = config_of(command)
    assert config["kv_connector"] == "LlumnixConnector"
    assert config["kv_role"] == "kv_both"
    assert config["kv_load_failure_policy"] == "recompute"
    assert config["kv_connector_extra_config"] == {"instance_id": "gpu1"}


@pytest.mark.usefixtures("_vllm_here")
@pytest.mark.parametrize("written", [["=", ""], [None]], ids=["joined", "apart"])
@pytest.mark.parametrize("flag", [FLAG, FLAG.replace("kv-transfer-c", "kv_transfer_c")])
def test_a_given_configuration_is_kept(flag: str, written: list[str | None]) -> None:
    given = '{"kv_buffer_size": 7, "kv_connector_extra_config": {"copy_share": 0.2, "hold_s": 9}}'
    typed = [flag, given] if written == [None] else [f"{flag}={given}"]
    config = config_of(serve_command(["m", *typed, "--port=1"], {"hold_s": 3.0}))

    assert config["kv_buffer_size"] == 7
    assert config["kv_connector_extra_config"] == {"copy_share": 0.2, "hold_s": 3.0}


@pytest.mark.usefixtures("_vllm_here")
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "which model"),
        (["m", FLAG, '{"kv_connector": "NixlConnector"}'], "NixlConnector"),
        (["m", FLAG, '{"kv_role": "kv_producer"}'], "kv_both"),
        (["m", FLAG, "{"], "not valid JSON"),
        (["m", FLAG, "[]"], "JSON object"),
        (["m", FLAG], "not valid JSON"),
        (["m", f"{FLAG}.kv_role=kv_both"], "one JSON object"),
        (["m", f"{FLAG}={{}}", f"{FLAG}={{}}"], "2 times"),
        (["m", FLAG, '{"kv_connector_extra_config": {"copyshare": 1}}'], "copyshare"),
        (["m", FLAG, '{"kv_connector_extra_config": []}'], "JSON object"),
    ],
)
def test_what_cannot_work_is_refused_before_vllm_starts(arguments: list[str], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        serve_command(arguments, {})


@pytest.mark.usefixtures("_vllm_here")
def test_a_secret_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LLUMNIX_SECRET")

    with pytest.raises(ConfigError, match="LLUMNIX_SECRET"):
        serve_command(["m"], {})


def test_vllm_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLUMNIX_SECRET", "s")
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)

    with pytest.raises(ConfigError, match=sys.executable):
        serve_command(["m"], {})
