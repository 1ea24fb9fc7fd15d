"""For all tests: what takes longest begins first, and no example of a property is timed."""

import pytest
from hypothesis import settings

# An example takes longer than Hypothesis allows wherever the machine is busy with something else.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the tests marked `long` first, so that no worker is left alone with one at the end.

    With `--dist loadfile`, xdist keeps to this order only if told `--no-loadscope-reorder`. A file
    of one long test is best: what is in the same file waits behind it.
    """
    items.sort(key=lambda item: item.get_closest_marker("long") is None)
