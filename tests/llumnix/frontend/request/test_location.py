"""Redirects never lead past the frontend."""

import pytest

from llumnix.frontend.request.location import relative


@pytest.mark.parametrize(
    ("location", "base", "seen"),
    [
        ("http://gpu1:8000/v1/x?q=1#f", "http://gpu1:8000", "/v1/x?q=1#f"),
        ("http://GPU1:8000", "http://gpu1:8000", "/"),
        ("//gpu1:8000/v1/x", "http://gpu1:8000", "/v1/x"),
        ("http://gpu1/v1/x", "http://gpu1:80", "/v1/x"),
        ("http://[::1]:8000/v1/x", "http://[::1]:8000", "/v1/x"),
        ("http://gpu1:8000/a/v1/x", "http://gpu1:8000/a", "/v1/x"),
        ("/a/v1/x", "http://gpu1:8000/a", "/v1/x"),
        ("/ab/v1/x", "http://gpu1:8000/a", "/ab/v1/x"),
        ("http://gpu1:8000//evil/x", "http://gpu1:8000", "/evil/x"),
        ("https://elsewhere.example/x", "http://gpu1:8000", "https://elsewhere.example/x"),
        ("http://gpu1:9/x", "http://gpu1:8000", "http://gpu1:9/x"),
        ("sibling?q", "http://gpu1:8000/a", "sibling?q"),
        ("http://gpu1:nonsense/", "http://gpu1:8000", "http://gpu1:nonsense/"),
    ],
)
def test_a_location_as_clients_see_it(location: str, base: str, seen: str) -> None:
    assert relative(location, base) == seen
