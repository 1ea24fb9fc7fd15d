"""What an engine's process tells the API server's `/metrics`."""

import tempfile
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from migration.vllm.announce import Announcement, announce, path_for, withdraw

LABELS = {"instance_id": "a", "control_host": "127.0.0.1", "control_port": "41234"}


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


def page(engine_id: str) -> str:
    registry = CollectorRegistry()
    registry.register(Announcement(engine_id))
    return generate_latest(registry).decode()


def test_what_is_announced_is_shown() -> None:
    announce("e", LABELS, {"salvaged": 2}, {"staging_slots": 1})
    shown = page("e")
    assert (
        'llumnix_llumlet_info{control_host="127.0.0.1",control_port="41234",instance_id="a"} 1.0'
    ) in shown
    assert 'llumnix_plugin_events_total{what="salvaged"} 2.0' in shown
    assert 'llumnix_plugin_now{what="staging_slots"} 1.0' in shown


def test_the_newest_counts() -> None:
    announce("e", LABELS, {"salvaged": 2}, {})
    announce("e", LABELS, {"salvaged": 3}, {})
    assert 'what="salvaged"} 3.0' in page("e")
    assert len(list(path_for("e").parent.iterdir())) == 1


def test_an_engine_that_is_not_up_or_no_more_shows_nothing() -> None:
    assert "llumnix" not in page("e")
    announce("e", LABELS, {}, {})
    withdraw("e")
    withdraw("e")
    assert "llumnix" not in page("e")


def test_half_a_file_shows_nothing() -> None:
    path_for("e").write_text('{"labels": ')
    assert "llumnix" not in page("e")


def test_the_folder_is_this_users_alone() -> None:
    assert path_for("e").parent.stat().st_mode & 0o777 == 0o700
