"""Lists of servers as people write them."""

import contextlib
import json

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from llumnix.instances.config import InstanceSpec
from llumnix.instances.sources.listing import read_listing
from llumnix.instances.sources.source import SourceFailed


@pytest.mark.parametrize(
    "text",
    [
        "http://a:1\nhttp://b:2\n",
        "# two servers\r\n\r\n  http://a:1   # the first\r\nhttp://b:2",
        "- http://a:1\n- url: http://b:2\n",
        "instances:\n  - http://a:1\n  - http://b:2\n",
        '["http://a:1", {"url": "http://b:2"}]',
    ],
)
def test_two_servers_however_written(text: str) -> None:
    assert [each.url for each in read_listing(text)] == ["http://a:1", "http://b:2"]


def test_an_entry_may_have_keys_of_its_own() -> None:
    (spec,) = read_listing("- url: https://a\n  api_key_file: /k\n  verify: false\n")
    assert spec == InstanceSpec("https://a", api_key_file="/k", verify=False)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "write []"),
        ("# nothing yet\n", "write []"),
        ("gpu1:8000", "http://gpu1:8000"),
        ("http://a:1\nhttp://b:99999", "1 to 65535"),
        ("- a: [", "not valid YAML"),
        ("instances: 5\nother:\n", "must be a list"),
        ("- 5", "a URL or a mapping"),
        ("- {url: http://a, key: x}", "unknown key 'key'"),
        ("- {url: http://a, verify: maybe}", "verify must not be"),
        ("- k8s://x/y", "sources belong into the configuration"),
    ],
)
def test_what_is_no_list_is_said(text: str, said: str) -> None:
    with pytest.raises(SourceFailed) as refused:
        read_listing(text)
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


def test_an_empty_list_that_says_so_is_one() -> None:
    assert read_listing("[]\n") == ()


@given(st.text(max_size=60))
def test_any_text_is_a_list_or_is_refused(text: str) -> None:
    """Nothing else is raised, whatever is in the file."""
    with contextlib.suppress(SourceFailed):
        read_listing(text)


URLS = st.lists(st.from_regex(r"http://[a-z]{1,5}:[1-9][0-9]{2}", fullmatch=True), min_size=1)


@given(URLS)
def test_all_ways_to_write_a_list_say_the_same(urls: list[str]) -> None:
    plain = read_listing("\n".join(urls))
    assert read_listing(yaml.safe_dump(urls)) == plain
    assert read_listing(json.dumps([{"url": each} for each in urls])) == plain
