"""What each path is, however it is spelled."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llumnix.frontend.paths.spelling import Spelling
from llumnix.frontend.paths.table import TABLE, PathKind, Paths

CONTROL = sorted(path for path, rule in TABLE.items() if rule.kind is PathKind.REFUSED)


@pytest.mark.parametrize(
    ("method", "path", "kind"),
    [
        ("POST", "/v1/chat/completions", PathKind.COMPLETION),
        ("POST", "/v1/responses", PathKind.GENERATION),
        ("POST", "/v1/messages", PathKind.GENERATION),
        ("POST", "/v1/embeddings", PathKind.ENGINE),
        ("POST", "/v2/rerank", PathKind.ENGINE),
        ("POST", "/v1/audio/transcriptions", PathKind.ENGINE),
        ("POST", "/tokenize", PathKind.MODEL),
        ("GET", "/v1/responses/resp_1", PathKind.RESPONSE),
        ("POST", "/v1/responses/resp_1/cancel", PathKind.RESPONSE),
        ("GET", "/version", PathKind.ANYWHERE),
        ("GET", "/v1/chat/completions", PathKind.ANYWHERE),
        ("OPTIONS", "/v1/embeddings", PathKind.ANYWHERE),
        ("POST", "/v1/something/new", PathKind.MODEL),
        ("POST", "/something/new", PathKind.REFUSED),
        ("POST", "/v1/load_lora_adapter", PathKind.REFUSED),
        ("GET", "/", PathKind.REFUSED),
    ],
)
def test_what_a_path_is(method: str, path: str, kind: PathKind) -> None:
    assert Paths().look_up(method, path).kind is kind


@pytest.mark.parametrize(
    "spelled",
    [
        "/v1/embeddings/",
        "//v1/embeddings",
        "/v1//embeddings",
        "/v1/v1/embeddings",
        "/v1/embedding%73",
    ],
)
def test_a_path_in_other_spellings_is_the_same(spelled: str) -> None:
    found = Paths().look_up("POST", spelled)

    assert found.kind is PathKind.ENGINE
    assert found.known


def test_a_mounting_prefix_is_taken_off() -> None:
    paths = Paths(base_path="/llm/")

    assert paths.look_up("POST", "/llm/v1/embeddings").path == "/v1/embeddings"
    assert paths.look_up("POST", "/v1/embeddings").path == "/v1/embeddings"
    assert paths.look_up("POST", "/llmv1/embeddings").kind is PathKind.REFUSED


def test_an_unknown_path_is_forwarded_as_it_is_spelled() -> None:
    assert Paths().look_up("GET", "/v1/files//a%2Fb/").path == "/v1/files//a%2Fb/"


@pytest.mark.parametrize("path", CONTROL)
@pytest.mark.parametrize("method", ["GET", "POST", "DELETE", "OPTIONS"])
def test_what_controls_a_server_is_closed_until_it_is_opened(method: str, path: str) -> None:
    path = path.replace("*", "x")

    assert Paths().look_up(method, path).kind is PathKind.REFUSED
    assert Paths([path]).look_up(method, path).kind is not PathKind.REFUSED


def test_a_pattern_opens_what_is_below_it_only() -> None:
    paths = Paths(["/mine/*"])

    assert paths.look_up("POST", "/mine/a").kind is PathKind.MODEL
    assert paths.look_up("POST", "/mined").kind is PathKind.REFUSED


def _quoted(path: str, at: set[int]) -> str:
    return "".join(f"%{ord(c):02x}" if i in at and c != "/" else c for i, c in enumerate(path))


@given(
    st.sampled_from(CONTROL),
    st.sets(st.integers(0, 40)),
    st.sampled_from(["", "/", "//", "/v1/..", "/.", "/%2e%2e", "/v1/%2e%2e/.", "/v1/v1"]),
    st.sampled_from(["", "/", "//", "/.", "/..", "%2f", "/%2e"]),
)
def test_no_spelling_of_a_control_path_is_open(
    path: str, quoted: set[int], before: str, after: str
) -> None:
    """Whatever a server reads as a path that controls it, is not forwarded as that path."""
    spelled = before + _quoted(path.replace("*", "x"), quoted) + after
    found = Paths().look_up("POST", spelled)
    read = Spelling.of(found.path).plain

    assert found.kind is PathKind.REFUSED or (read not in CONTROL and read)
