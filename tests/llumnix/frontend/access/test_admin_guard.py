"""Who may use the admin API, decided from a request's headers alone."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict

from llumnix.frontend.access.admin_guard import AdminGuard

TOKEN = "a-token-of-the-operator"
JSON = {"Content-Type": "application/json"}


def status(guard: AdminGuard, method: str = "GET", **headers: str) -> int:
    named = CIMultiDict({name.replace("_", "-"): value for name, value in headers.items()})
    refusal = guard.refusal(method, named)
    return 200 if refusal is None else refusal.status


def test_the_token_opens_and_nothing_else_does() -> None:
    guard = AdminGuard(TOKEN)
    assert status(guard, Authorization=f"Bearer {TOKEN}") == 200
    assert status(guard, Authorization=f"bearer  {TOKEN}") == 200
    assert status(guard) == 401
    for wrong in (TOKEN, f"Basic {TOKEN}", f"Bearer {TOKEN}x", "Bearer", "Bearer \udcff", ""):
        assert status(guard, Authorization=wrong) == 401


@given(st.text(max_size=40))
def test_no_other_token_opens(given_token: str) -> None:
    opened = status(AdminGuard(TOKEN), Authorization=f"Bearer {given_token}") == 200
    assert opened == (given_token.strip() == TOKEN)


def test_its_repr_hides_the_token() -> None:
    assert TOKEN not in repr(AdminGuard(TOKEN))


@pytest.mark.parametrize("token", ["", TOKEN])
def test_a_web_page_is_refused_even_with_the_token(token: str) -> None:
    own = {"Host": "127.0.0.1:9011", **({"Authorization": f"Bearer {token}"} if token else {})}
    guard = AdminGuard(token)
    assert status(guard, **own) == 200
    assert status(guard, **own, Origin="http://127.0.0.1:9011") == 200
    assert status(guard, **own, Origin="https://elsewhere.example") == 403
    assert status(guard, **own, Origin="null") == 403
    assert status(guard, **own, Sec_Fetch_Site="cross-site") == 403
    assert status(guard, **own, Sec_Fetch_Site="same-site") == 403
    assert status(guard, **own, Sec_Fetch_Site="same-origin") == 200


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("localhost:9011", 200),
        ("127.0.0.1", 200),
        ("127.8.9.1:80", 200),
        ("[::1]:9011", 200),
        ("frontend.localhost", 200),
        ("rebound.example:9011", 403),
        ("localhost.example", 403),
        ("10.0.0.7:9011", 403),
        ("[::1", 403),
        ("", 403),
    ],
)
def test_without_a_token_only_names_of_this_machine_are_answered(host: str, expected: int) -> None:
    assert status(AdminGuard(""), Host=host) == expected
    with_token = {"Host": host, "Authorization": f"Bearer {TOKEN}"}
    assert status(AdminGuard(TOKEN), **with_token) == 200


def test_orders_must_be_declared_as_json() -> None:
    guard = AdminGuard("")
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""):
        assert status(guard, "POST", Host="localhost", Content_Type=kind) == 415
    assert status(guard, "POST", Host="localhost", Content_Type="application/JSON; a=b") == 200
    assert status(guard, "DELETE", Host="localhost") == 200
    assert status(guard, "DELETE", Host="localhost", Origin="https://elsewhere.example") == 403
