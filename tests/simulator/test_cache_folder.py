"""Caches in places where there is no home, and nowhere to write."""

import os
import tempfile
from pathlib import Path

import pytest

from simulator.cache_folder import cache_folder


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The shared temporary directory of this test."""
    folder = tmp_path / "tmp"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    return folder


def test_the_home_is_used_where_it_can_be_written(
    temporary: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "llumnix"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "elsewhere"))
    assert cache_folder() == tmp_path / "elsewhere" / "llumnix"


def test_without_a_home_it_is_a_private_folder(
    temporary: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("HOME", str(tmp_path / "file" / "below"))
    folder = cache_folder()

    assert folder == temporary / f"llumnix-{os.geteuid()}"
    assert folder.stat().st_mode & 0o777 == 0o700
    assert cache_folder() == folder


def test_a_user_without_a_name_has_no_home(
    temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nobody() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", nobody)
    assert cache_folder() == temporary / f"llumnix-{os.geteuid()}"


def test_a_folder_that_others_can_write_is_not_trusted(
    temporary: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would be code that another user of the machine has put there."""
    monkeypatch.setattr(Path, "home", lambda: Path("/proc/none"))
    shared = temporary / f"llumnix-{os.geteuid()}"
    shared.mkdir()
    shared.chmod(0o777)
    assert cache_folder() is None

    shared.rmdir()
    shared.symlink_to(tmp_path)
    assert cache_folder() is None


def test_nowhere_to_write_is_no_error(
    temporary: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Path, "home", lambda: Path("/proc/none"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
    assert cache_folder() is None
