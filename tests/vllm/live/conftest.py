"""Live tests start real servers: only where they are asked for, and slower than other tests."""

from pathlib import Path

import pytest

from llumnix.testbed import Environment, ensure_environment, write_model
from tests.vllm.live.chosen import CORE_ONLY, VERSION, VERSION_VARIABLE

TIMEOUT_S = 600.0


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "vllm/live" not in item.path.as_posix():
            continue
        item.add_marker(pytest.mark.timeout(TIMEOUT_S))
        if not VERSION:
            item.add_marker(pytest.mark.skip(reason=f"{VERSION_VARIABLE} names no version"))
        elif CORE_ONLY and not item.get_closest_marker("core"):
            item.add_marker(pytest.mark.skip(reason="tested with another version"))


@pytest.fixture(scope="session")
def environment() -> Environment:
    return ensure_environment(VERSION)


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model"))
