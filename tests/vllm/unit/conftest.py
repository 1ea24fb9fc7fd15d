"""These tests run in an environment with vLLM, whose own warnings are none of theirs."""

import importlib.util
import warnings

import pytest

collect_ignore_glob = [] if importlib.util.find_spec("vllm") else ["test_*.py"]

if not collect_ignore_glob:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        importlib.import_module("tests.vllm.toys.toy_engine")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "vllm/unit" in item.path.as_posix():
            item.add_marker(pytest.mark.filterwarnings("default"))
