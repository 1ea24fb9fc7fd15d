"""Membership: what sources list becomes the members, and what was removed by hand stays out."""

from hypothesis import given
from hypothesis import strategies as st

from llumnix.instances.endpoints.address import Address
from llumnix.instances.endpoints.endpoint import Endpoint, Secret
from llumnix.instances.membership import Membership, change

URLS = [f"http://gpu{number}" for number in range(4)]


def at(url: str, key: str = "") -> Endpoint:
    return Endpoint(Address.parse(url), Secret(key))


ENDPOINTS = st.lists(st.builds(at, st.sampled_from(URLS), st.sampled_from(["", "k"])))


@given(ENDPOINTS, ENDPOINTS)
def test_a_change_turns_the_present_into_the_wanted(
    before: list[Endpoint], after: list[Endpoint]
) -> None:
    """And touches nothing that is as it should be."""
    present = {each.url: each for each in before}
    wanted = {each.url: each for each in after}
    due = change(present, wanted)

    got = {url: each for url, each in present.items() if url not in due.removed}
    got |= {each.url: each for each in (*due.updated, *due.added)}
    assert got == wanted
    for each in due.updated:
        assert each.url in present
        assert present[each.url] != each
    assert not {each.url for each in due.added} & present.keys()


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("list"), st.sampled_from("ab"), st.lists(st.sampled_from(URLS))),
        st.tuples(st.just("add"), st.just(""), st.sampled_from(URLS)),
        st.tuples(st.just("remove"), st.just(""), st.sampled_from(URLS)),
    )
)


@given(STEPS)
def test_members_are_what_is_listed_less_what_was_removed_since(steps: list[tuple]) -> None:  # type: ignore[type-arg]
    """Against the same rule, said over the whole history."""
    membership = Membership()
    listed: dict[str, set[str]] = {"a": set(), "b": set(), "hand": set()}
    out: set[str] = set()
    for kind, source, what in steps:
        if kind == "list":
            membership.list(source, map(at, what))
            listed[source] = set(what)
            out &= set().union(*listed.values())
        elif kind == "add":
            membership.add(at(what))
            listed["hand"].add(what)
            out.discard(what)
        else:
            membership.remove(what)
            listed["hand"].discard(what)
            out = {each for each in out if any(each in urls for urls in listed.values())} | {what}
    assert membership.wanted().keys() == set().union(*listed.values()) - out


def test_what_a_source_lists_twice_is_one_member_and_is_said() -> None:
    membership = Membership()

    assert membership.list("file", [at(URLS[0]), at(URLS[1]), at(URLS[0] + "/v1/")]) == (URLS[0],)
    assert list(membership.wanted()) == URLS[:2]


def test_a_removed_member_may_be_listed_anew_once_it_was_not() -> None:
    """As when a server is taken out for repair, its file follows, and it is put back later."""
    membership = Membership()
    membership.list("file", map(at, URLS[:2]))
    membership.remove(URLS[0])
    membership.list("file", map(at, URLS[:2]))
    assert list(membership.wanted()) == [URLS[1]]
    membership.list("file", [at(URLS[1])])
    membership.list("file", map(at, URLS[:2]))
    assert set(membership.wanted()) == set(URLS[:2])


def test_a_source_that_is_dropped_takes_its_members_along() -> None:
    membership = Membership()
    membership.list("file", map(at, URLS[:2]))
    membership.list("dns", map(at, URLS[1:3]))
    membership.drop("file")
    assert list(membership.wanted()) == URLS[1:3]
