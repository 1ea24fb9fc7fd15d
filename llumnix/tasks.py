"""Tasks that run for as long as the fleet does."""

import asyncio
import logging
from collections.abc import Coroutine

log = logging.getLogger(__name__)


def spawn(work: Coroutine[None, None, None], name: str) -> asyncio.Task[None]:
    """Start a loop that should never end by itself; an error that ends it is logged."""
    task = asyncio.create_task(work, name=name)
    task.add_done_callback(_crashed)
    return task


def _crashed(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and task.exception() is not None:
        log.critical("task_crashed name=%s", task.get_name(), exc_info=task.exception())
