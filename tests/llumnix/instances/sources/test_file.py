"""A file of servers, followed while it changes."""

import asyncio
from pathlib import Path

from llumnix.instances.sources.file import file_source
from tests.llumnix.instances.sources.following import following


async def test_a_file_is_followed(tmp_path: Path) -> None:
    path = tmp_path / "instances"
    write = path.write_text
    write("http://a:1\n")
    async with following(file_source(str(path), 0.01)) as told:
        assert await told.urls() == ["http://a:1"]
        write("http://a:1\nhttp://b:2\n")
        assert await told.urls() == ["http://a:1", "http://b:2"]
        write("# another comment\nhttp://b:2\nhttp://a:1\n")
        assert await told.urls() == ["http://b:2", "http://a:1"]


async def test_a_broken_file_says_so_and_works_again_once_it_is_mended(tmp_path: Path) -> None:
    path = tmp_path / "instances"
    async with following(file_source(str(path), 0.01)) as told:
        assert "No such file" in await told.failure()
        for content in (b"", b"gpu1", b"\xff\xfe\x00"):
            path.write_bytes(content)
            while "No such file" in (failure := await told.failure()):
                pass
            assert failure
        path.write_bytes(b"http://a:1")
        assert await told.urls_at_last() == ["http://a:1"]


async def test_a_link_that_is_swapped_counts(tmp_path: Path) -> None:
    """As Kubernetes updates a mounted ConfigMap: the file's own name never changes."""
    for name, content in (("one", "http://a:1"), ("two", "http://b:2")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "instances").write_text(content)
    data = tmp_path / "..data"
    data.symlink_to("one")
    (tmp_path / "instances").symlink_to("..data/instances")
    async with following(file_source(str(tmp_path / "instances"), 0.01)) as told:
        assert await told.urls() == ["http://a:1"]
        new = tmp_path / "..new"
        new.symlink_to("two")
        new.rename(data)
        assert await told.urls() == ["http://b:2"]


async def test_half_a_list_is_never_taken(tmp_path: Path) -> None:
    """A writer that is slow leaves a shorter URL behind for a moment, which is one as well."""
    path = tmp_path / "instances"
    path.write_text("http://gpu:80")

    async def keep_writing() -> None:
        for text in ("http://gpu:800", "http://gpu:8000"):
            await asyncio.sleep(0.02)
            path.write_text(text)

    async with following(file_source(str(path), 0.2)) as told:
        writing = asyncio.create_task(keep_writing())
        assert await told.failure() == "it keeps changing"
        await writing
        assert await told.urls() == ["http://gpu:8000"]
