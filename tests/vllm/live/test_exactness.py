"""What clients see of requests that are moved between real servers is what they see of others."""

from pathlib import Path

import pytest

from llumnix.testbed import Environment
from testbed.plan import Setting, measure, settings

CORE = ("plain", "pressed")
LEAST_MOVES = 60


def _params() -> list[object]:
    return [
        pytest.param(each, id=each.name, marks=[pytest.mark.core] if each.name in CORE else [])
        for each in settings(quick=True)
    ]


@pytest.mark.parametrize("setting", _params())
async def test_no_client_can_tell(
    setting: Setting, environment: Environment, model: Path, tmp_path: Path
) -> None:
    """Every kind of request moves with its KV, and is answered as if it had not."""
    measured = await measure(setting, environment, model, tmp_path)
    print(measured.as_json())

    verdict = measured.verdict
    assert verdict.control_unlike == []
    assert verdict.unlike == []
    assert measured.leaked == {}
    assert measured.mismatches == 0
    kinds = verdict.stayed.keys() | verdict.moved.keys()
    never = sorted(kinds - verdict.moved.keys())
    # On a busy machine an answer can be over before its move; that must stay the exception.
    assert len(never) <= len(kinds) // 10, never
    if setting.name == "plain":
        assert verdict.moves >= LEAST_MOVES
        assert verdict.stops_straddled >= 1
        assert max(verdict.chained) > 1
    if setting.name == "pressed":
        assert measured.preemptions >= 1
