"""How a local command finds the frontend and its token, and who else does not."""

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from llumnix.admin.client import DEFAULT_URL
from llumnix.admin.connect import Door, find_door
from llumnix.admin.credentials import (
    Published,
    all_published,
    given_token,
    new_token,
    publish,
    runtime_directory,
    withdraw,
)
from llumnix.errors import ConfigError

TOKEN = "0123456789abcdef-token"
ONE = Published("http://127.0.0.1:9011", "http://127.0.0.1:8000", TOKEN, os.getpid())
OTHER = replace(ONE, admin_url="http://127.0.0.1:9012", url="http://127.0.0.1:8001", token="t2")


def door(
    url: str | None = None,
    published: Sequence[Published] = (),
    token_file: str = "",
    **environment: str,
) -> Door:
    return find_door(url, token_file, environment, published)


def test_what_is_published_is_found_and_is_for_its_user_only(tmp_path: Path) -> None:
    home = tmp_path / "llumnix"
    path = publish(ONE, home)
    assert all_published(home) == [ONE]
    assert path.stat().st_mode & 0o777 == 0o600
    assert home.stat().st_mode & 0o777 == 0o700
    assert TOKEN not in repr(ONE)


def test_a_directory_that_others_may_write_is_not_trusted(tmp_path: Path) -> None:
    """Else a local user could plant an address, and have the token sent there."""
    home = tmp_path / "llumnix"
    home.mkdir(mode=0o700)
    publish(ONE, home)
    home.chmod(0o777)
    assert all_published(home) == []
    with pytest.raises(PermissionError):
        publish(ONE, home)
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "llumnix")
    assert all_published(link) == []


def test_frontends_that_have_died_are_not_offered(tmp_path: Path) -> None:
    home = tmp_path / "llumnix"
    gone = os.fork()
    if gone == 0:
        os._exit(0)
    os.waitpid(gone, 0)
    publish(replace(ONE, pid=gone), home)
    assert all_published(home) == []
    (home / "frontend-1.json").write_text("{")
    assert all_published(home) == []


def test_only_its_own_file_is_withdrawn(tmp_path: Path) -> None:
    """Another frontend may have taken the port, and the file, since."""
    path = publish(ONE, tmp_path / "llumnix")
    withdraw(path, os.getpid() + 1)
    assert path.exists()
    withdraw(path, os.getpid())
    assert not path.exists()


def test_the_usual_frontend_is_found_without_being_named() -> None:
    assert door() == Door(DEFAULT_URL, "")
    assert door(published=[ONE, OTHER]) == Door(ONE.admin_url, TOKEN)
    assert door(published=[OTHER]) == Door(OTHER.admin_url, "t2")
    third = replace(OTHER, admin_url="http://127.0.0.1:9013")
    with pytest.raises(ConfigError, match="--url"):
        door(published=[OTHER, third])


def test_the_clients_url_leads_to_the_admin_port() -> None:
    """As people have typed it so far."""
    assert door("localhost:8001", [ONE, OTHER]) == Door(OTHER.admin_url, "t2")
    assert door("http://localhost:8000/", [ONE]) == Door(ONE.admin_url, TOKEN)


def test_a_published_token_never_leaves_this_machine() -> None:
    elsewhere = "http://frontend.example:9011"
    assert door(elsewhere, [ONE]) == Door(elsewhere, "")
    assert door("http://127.0.0.1:9999", [ONE]).token == ""
    assert door("http://127.0.0.1:nonsense", [ONE]).token == ""


def test_a_given_token_comes_first(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("from-the-file-0123456789\n")
    given = "from-the-environment"
    assert door(published=[ONE], LLUMNIX_ADMIN_TOKEN=given).token == given
    both = door("h:1", token_file=str(file), LLUMNIX_ADMIN_TOKEN=given)
    assert both.token == "from-the-file-0123456789"
    assert door(LLUMNIX_ADMIN_URL="http://h:2") == Door("http://h:2", "")


def test_tokens_that_could_be_guessed_or_read_wrongly_are_refused(tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.touch()
    binary = tmp_path / "binary"
    binary.write_bytes(b"\xff" * 40)
    for file in (empty, binary, tmp_path / "absent"):
        with pytest.raises(ConfigError, match=file.name):
            given_token(str(file), {})
    with pytest.raises(ConfigError, match="LLUMNIX_ADMIN_TOKEN"):
        given_token("", {"LLUMNIX_ADMIN_TOKEN": "short"})
    assert given_token("", {"LLUMNIX_ADMIN_TOKEN": "  "}) == ""
    assert len(new_token()) >= 43
    assert new_token() != new_token()


def test_the_runtime_directory_can_be_used_by_any_uid(tmp_path: Path) -> None:
    assert runtime_directory({"XDG_RUNTIME_DIR": str(tmp_path)}) == tmp_path / "llumnix"
    missing = {"XDG_RUNTIME_DIR": str(tmp_path / "absent")}
    assert runtime_directory(missing).name == f"llumnix-{os.getuid()}"
