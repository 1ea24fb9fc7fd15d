"""What is refused at start-up, and in which words."""

from types import SimpleNamespace
from typing import Any

import pytest
import vllm
from vllm.v1.core.sched.scheduler import Scheduler

from migration.vllm import compat
from migration.vllm.compat import IncompatibleVllm, Touched

ALL = (*compat.ENGINE_SIDE, *compat.RUNNER_V1, *compat.RUNNER_V2)


def test_this_vllm_has_every_name_that_is_touched() -> None:
    compat.check_version(vllm.__version__, allow_untested=False)
    compat.check_names(ALL, vllm.__version__)


@pytest.mark.parametrize("version", ["0.29.1", "0.33.0", "1.0", "0.300.0", "dev", "0.31.0rc1"])
def test_an_unknown_version_is_refused_unless_asked_for(version: str) -> None:
    with pytest.raises(IncompatibleVllm, match=f"vLLM {version} is not one .*allow_untested"):
        compat.check_version(version, allow_untested=False)
    compat.check_version(version, allow_untested=True)


@pytest.mark.parametrize("version", ["0.30.0", "0.32.0", "0.32.1.dev3+cpu"])
def test_a_known_version_is_not(version: str) -> None:
    compat.check_version(version, allow_untested=False)


@pytest.mark.parametrize(
    ("touched", "words"),
    [
        (Touched("vllm.v1.gone", "Name"), "No module named"),
        (Touched("vllm.v1.request", "Request.gone"), "has no attribute 'gone'"),
        (Touched("vllm.v1.request", "Request.__init__", ("no such word",)), "no such word"),
    ],
)
def test_a_missing_name_is_refused_by_name(touched: Touched, words: str) -> None:
    with pytest.raises(IncompatibleVllm, match=words) as caught:
        compat.check_names((touched,), "0.32.0")
    assert touched.name in str(caught.value)
    assert "remove --kv-transfer-config" in str(caught.value)


def test_a_scheduler_that_works_otherwise_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    def update_from_output(self: object) -> None:
        """Not the one we know."""

    monkeypatch.setattr(Scheduler, "update_from_output", update_from_output)
    with pytest.raises(IncompatibleVllm, match=r"stop_reason=request\.stop_reason"):
        compat.check_names(compat.ENGINE_SIDE, "0.32.0")


class FullAttentionSpec: ...


class SlidingWindowSpec: ...


def configuration(**changes: Any) -> Any:
    parallel = {
        "pipeline_parallel_size": 1,
        "data_parallel_size": 1,
        "decode_context_parallel_size": 1,
        "prefill_context_parallel_size": 1,
    }
    parallel |= {name: value for name, value in changes.items() if name in parallel}
    return SimpleNamespace(
        parallel_config=SimpleNamespace(**parallel),
        speculative_config=changes.get("speculative_config"),
        kv_transfer_config=SimpleNamespace(kv_role=changes.get("kv_role", "kv_both")),
    )


def caches(*specs: object) -> Any:
    return SimpleNamespace(kv_cache_groups=[SimpleNamespace(kv_cache_spec=spec) for spec in specs])


def test_a_plain_configuration_is_taken() -> None:
    compat.check_configuration(configuration(), caches(FullAttentionSpec()))
    compat.check_configuration(configuration(), None)


@pytest.mark.parametrize(
    ("changes", "specs", "words"),
    [
        ({"pipeline_parallel_size": 2}, [FullAttentionSpec()], "pipeline parallelism"),
        ({"data_parallel_size": 2}, [FullAttentionSpec()], "one server per replica"),
        ({"decode_context_parallel_size": 2}, [FullAttentionSpec()], "context parallelism"),
        ({"prefill_context_parallel_size": 2}, [FullAttentionSpec()], "context parallelism"),
        ({"speculative_config": object()}, [FullAttentionSpec()], "speculative decoding"),
        ({"kv_role": "kv_producer"}, [FullAttentionSpec()], "kv_role"),
        ({}, [FullAttentionSpec(), FullAttentionSpec()], "more than one KV cache group"),
        ({}, [SlidingWindowSpec()], "do not keep every token"),
    ],
)
def test_what_cannot_be_moved_rightly_is_refused(
    changes: dict[str, Any], specs: list[object], words: str
) -> None:
    with pytest.raises(IncompatibleVllm, match=words):
        compat.check_configuration(configuration(**changes), caches(*specs))
