"""The plugin's settings: what is wrong is said by name."""

from pathlib import Path
from typing import Any

import pytest

from migration.vllm.settings import (
    SECRET_VARIABLE,
    PluginSettings,
    SettingsError,
    read_secret,
    read_settings,
)


def test_all_have_defaults() -> None:
    assert read_settings({}) == PluginSettings()


def test_nested_settings_are_the_llumlets() -> None:
    found = read_settings({"copy_share": 0.2, "migration": {"max_stages": 3}})
    assert (found.copy_share, found.migration.max_stages) == (0.2, 3)


def test_waits_outlast_a_stall_of_vllm_whatever_else_is_set() -> None:
    """Five seconds is how long vLLM's own queue may stand still."""
    found = read_settings({"migration": {"max_stages": 3}})
    waits = (found.hold_s, found.migration.stage_timeout_s, found.migration.detach_timeout_s)
    assert min(waits) > 5
    assert read_settings({"migration": {"stage_timeout_s": 1}}).migration.stage_timeout_s == 1


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        ({"copy_shar": 1}, "unknown setting copy_shar; known: "),
        ({"migration": {"stages": 1}}, "unknown setting migration.stages"),
        ({"migration": {"chunk_bytes": 0}}, "chunk_bytes must be positive"),
        ({"migration": 7}, "kv_connector_extra_config"),
        ({"copy_share": 0}, "copy_share"),
        ({"copy_share": 1.5}, "copy_share"),
        ({"copy_share": "much"}, "kv_connector_extra_config"),
        ({"staging_bytes": 0}, "staging_bytes"),
        ({"hold_s": 0}, "hold_s"),
        ({"control_port": 70000}, "control_port"),
        ({"advertise_port": -1}, "advertise_port"),
    ],
)
def test_what_is_wrong_is_said(extra: dict[str, Any], words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        read_settings(extra)


def test_the_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(SECRET_VARIABLE, raising=False)
    with pytest.raises(SettingsError, match=SECRET_VARIABLE):
        read_secret(PluginSettings())
    monkeypatch.setenv(SECRET_VARIABLE, "from the environment")
    assert read_secret(PluginSettings()) == b"from the environment"
    path = tmp_path / "secret"
    path.write_text("from a file\n")
    assert read_secret(PluginSettings(secret_file=str(path))) == b"from a file"
    path.write_text(" \n")
    with pytest.raises(SettingsError, match="no secret"):
        read_secret(PluginSettings(secret_file=str(path)))
    with pytest.raises(SettingsError, match="cannot read secret_file"):
        read_secret(PluginSettings(secret_file=str(tmp_path / "none")))
