"""Keeping replayed tokens apart on their way to the API server's parsers.

vLLM merges outputs that wait to be read (`RequestOutputCollector`, v1/engine/output_processor.py).
Some reasoning and tool parsers read one large delta differently from many small ones, so replayed
chat outputs carry a mark (`core.STEP_MARK`) and are queued instead. Nothing else is touched.
"""

from collections import deque
from collections.abc import Callable
from typing import Any

from migration.vllm import compat
from migration.vllm.tags import STEP_MARK

_MARK = "_llumnix_patched"
_QUEUE = "_llumnix_queue"


def patch() -> None:
    """Patch the collector to queue marked outputs. Once; inert without resumed requests.

    Raises IncompatibleVllm when the collector is not the one we know.
    """
    import vllm
    from vllm.v1.engine.output_processor import RequestOutputCollector

    if getattr(RequestOutputCollector, _MARK, False):
        return
    compat.check_names(compat.API_SIDE, vllm.__version__)
    put, get, get_nowait = (
        RequestOutputCollector.put,
        RequestOutputCollector.get,
        RequestOutputCollector.get_nowait,
    )

    async def get_next(self: Any) -> Any:
        output = await get(self)
        _advance(self)
        return output

    def get_next_nowait(self: Any) -> Any:
        output = get_nowait(self)
        _advance(self)
        return output

    RequestOutputCollector.put = lambda self, output: _put_apart(self, output, put)
    RequestOutputCollector.get = get_next
    RequestOutputCollector.get_nowait = get_next_nowait
    setattr(RequestOutputCollector, _MARK, True)


def _put_apart(collector: Any, output: Any, put: Callable[[Any, Any], None]) -> None:
    """Queue an output that must not be merged with the last one; else do as vLLM does."""
    queue = getattr(collector, _QUEUE, None)
    last = queue[-1] if queue else collector.output
    apart = last is not None and (is_marked(output) or is_marked(last))
    if not queue and not apart:
        put(collector, output)
    elif apart or isinstance(output, Exception) or isinstance(last, Exception):
        if queue is None:
            queue = deque()
            setattr(collector, _QUEUE, queue)
        queue.append(output)
    else:
        last.add(output, aggregate=collector.aggregate)


def is_marked(output: Any) -> bool:
    """Whether an output was replayed token by token."""
    params = getattr(output, "kv_transfer_params", None)
    return isinstance(params, dict) and STEP_MARK in params


def _advance(collector: Any) -> None:
    """Move the next queued output to the front."""
    queue = getattr(collector, _QUEUE, None)
    if queue and collector.output is None:
        collector.output = queue.popleft()
        collector.ready.set()
