"""Addresses: every spelling of one server is one address, and what is none is said."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llumnix.instances.endpoints.address import Address, BadAddress


@pytest.mark.parametrize(
    ("text", "url", "name"),
    [
        ("http://gpu1:8000", "http://gpu1:8000", "gpu1:8000"),
        ("http://gpu1:8000/", "http://gpu1:8000", "gpu1:8000"),
        (" http://GPU1:8000/v1/ ", "http://gpu1:8000", "gpu1:8000"),
        ("http://gpu1:8000/v1/chat/completions", "http://gpu1:8000", "gpu1:8000"),
        ("HTTP://gpu1:80", "http://gpu1", "gpu1"),
        ("https://gpu1:443/v1", "https://gpu1", "gpu1:443"),
        ("http://[::1]:8000", "http://[::1]:8000", "[::1]:8000"),
        ("http://[0:0::1]/", "http://[0:0::1]", "[0:0::1]"),
        ("https://hub/team-a/llama/v1", "https://hub/team-a/llama", "hub:443/team-a/llama"),
        ("http://hub/v1beta", "http://hub/v1beta", "hub/v1beta"),
        ("http://bücher:81", "http://xn--bcher-kva:81", "xn--bcher-kva:81"),
    ],
)
def test_a_spelling(text: str, url: str, name: str) -> None:
    address = Address.parse(text)
    assert (address.url, address.name) == (url, name)


@pytest.mark.parametrize(
    ("text", "advice"),
    [
        ("gpu1:8000", "http://gpu1:8000"),
        ("", "http://gpu1:8000"),
        ("ftp://gpu1", "http:// or https://"),
        ("http://", "must name a host"),
        ("http://gpu1:0", "from 1 to 65535"),
        ("http://gpu1:99999", "from 1 to 65535"),
        ("http://gpu1:port", "from 1 to 65535"),
        ("http://gpu1/?key=1", "must end with its path"),
        ("http://gpu1/a b", "must not contain spaces"),
        ("http://gpu1\n:8000", "must not contain spaces"),
        ("http://[::1", "malformed"),
    ],
)
def test_what_is_no_address_is_said_with_advice(text: str, advice: str) -> None:
    with pytest.raises(BadAddress, match=r"^[^\n]*$") as refused:
        Address.parse(text)
    assert advice in str(refused.value)


def test_a_password_is_refused_and_not_repeated() -> None:
    with pytest.raises(BadAddress, match="--instance-api-key-file") as refused:
        Address.parse("https://me:hunter2@gpu1:8000")
    assert "hunter2" not in str(refused.value)


@given(
    scheme=st.sampled_from(["http", "https"]),
    host=st.from_regex(r"[a-z][a-z0-9]{0,8}(\.[a-z]{2,5})?", fullmatch=True),
    port=st.integers(1, 65535),
    path=st.from_regex(r"(/[a-z0-9-]{1,5}){0,3}", fullmatch=True),
    ending=st.sampled_from(["", "/", "/v1", "/v1/", "/v1/models", "/v1/completions/"]),
)
def test_spellings_of_one_server_are_one_address(
    scheme: str, host: str, port: int, path: str, ending: str
) -> None:
    """However it ends and is cased; and what was read is read as itself."""
    plain = Address.parse(f"{scheme}://{host}:{port}{path}")
    other = Address.parse(f"{scheme.upper()}://{host.upper()}:{port}{path}{ending}")
    assert plain == other
    assert Address.parse(plain.url) == plain


@given(
    st.lists(
        st.builds(
            "{}://h:{}{}".format,
            st.sampled_from(["http", "https"]),
            st.sampled_from([80, 443, 8000]),
            st.sampled_from(["", "/a", "/b"]),
        ),
        min_size=2,
        max_size=2,
        unique=True,
    )
)
def test_names_tell_servers_of_one_host_apart(urls: list[str]) -> None:
    """By port and by path: two ids are equal only for the two schemes of one port."""
    first, second = map(Address.parse, urls)
    assert first != second
    same_place = (first.port, first.path) == (second.port, second.path)
    assert first.name != second.name or same_place
