"""Endpoints: a key of ours replaces the client's, and is never shown."""

import json
import logging
import traceback

import pytest
from multidict import CIMultiDict

from llumnix.instances.endpoints.address import Address
from llumnix.instances.endpoints.endpoint import Endpoint, Secret
from llumnix.instances.endpoints.tls import TlsSettings, client_context
from llumnix.instances.instance import Instance

ADDRESS = Address.parse("http://gpu1:8000")


def test_our_key_replaces_every_one_of_the_clients() -> None:
    headers = CIMultiDict([("authorization", "Bearer a"), ("Authorization", "b"), ("X-A", "1")])
    headers.add("X-A", "2")
    sent = CIMultiDict(Endpoint(ADDRESS, Secret("ours")).headers(headers))
    assert sent.getall("Authorization") == ["Bearer ours"]
    assert sent.getall("X-A") == ["1", "2"]
    assert headers["authorization"] == "Bearer a"


def test_without_a_key_of_ours_the_clients_is_forwarded() -> None:
    headers = CIMultiDict({"Authorization": "Bearer theirs"})
    assert Endpoint(ADDRESS).headers(headers) == headers


def test_a_key_is_shown_nowhere(caplog: pytest.LogCaptureFixture) -> None:
    """Neither by itself nor as part of what holds it."""
    endpoint = Endpoint(ADDRESS, Secret("hunter2"))
    instance = Instance.behind(endpoint)
    with caplog.at_level(logging.DEBUG):
        logging.getLogger("x").warning("%s %r %s", endpoint, instance, endpoint.key)
    try:
        raise ValueError(endpoint)
    except ValueError:
        shown = traceback.format_exc()
    assert "hunter2" not in caplog.text + shown + f"{instance!r}{endpoint.key}{{}}"
    with pytest.raises(TypeError):
        json.dumps(endpoint.key)


def test_a_context_is_made_once_per_settings() -> None:
    a, b = Endpoint.at("https://gpu1"), Endpoint.at("https://gpu2")
    assert a.tls is not None
    assert a.tls is b.tls
    assert client_context(TlsSettings(verify=False)) is not a.tls
    assert Endpoint.at("http://gpu1").tls is None


def test_whoever_sends_a_server_something_reaches_it_alike() -> None:
    """Key, TLS settings and the name on its certificate go together."""
    named = Endpoint(ADDRESS, Secret("a"), client_context(), "gpu3.internal")
    reach = named.reach({"X-A": "1"})
    assert reach["headers"] == {"X-A": "1", "Authorization": "Bearer a"}
    assert reach["ssl"] is named.tls
    assert reach["server_hostname"] == "gpu3.internal"
    plain = Endpoint(ADDRESS).reach({})
    assert (plain["ssl"], plain["server_hostname"]) == (True, None)
