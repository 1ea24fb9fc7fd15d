"""Let instances join and leave: each has a task that keeps it connected, and leaves empty."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable

from llumnix.fleet.mover import Mover
from llumnix.fleet.requests import RequestTable
from llumnix.instances.endpoint import Endpoint
from llumnix.instances.instance import Instance
from llumnix.instances.keeper import Keeper
from llumnix.instances.membership import Membership, change
from llumnix.instances.table import InstanceTable

log = logging.getLogger(__name__)

_LOOK_S = 0.1
# A request that was sent just before shows only in the instance's next report.
_EMPTY_LOOKS = 3
_UNDO_TIMEOUT_S = 2.0


class Members:
    """Turns what sources list into instances that are kept, or drained and then forgotten.

    A member that stays listed is never touched. One that leaves takes no new requests, those it has
    move away, and it is forgotten once it is empty, or after `leave_timeout_s` wall seconds: what
    could not move by then still flows to its end. `left` is told of each that is forgotten.
    """

    def __init__(
        self,
        instances: InstanceTable,
        requests: RequestTable,
        mover: Mover,
        note: Callable[[str, str], None],
        left: Callable[[Instance], None],
        leave_timeout_s: float,
    ) -> None:
        self._instances = instances
        self._requests = requests
        self._mover = mover
        self._note = note
        self._left = left
        self._leave_timeout_s = leave_timeout_s
        self._membership = Membership()
        self._keeper: Keeper | None = None
        self._keeping: dict[Instance, asyncio.Task[None]] = {}
        self._leaving: dict[Instance, asyncio.Task[None]] = {}

    def start(self, keeper: Keeper) -> None:
        """Use this keeper from now on; must come first."""
        self._keeper = keeper

    async def list(self, source: str, endpoints: Iterable[Endpoint]) -> None:
        """Make members of what a source lists from now on; others of its members leave."""
        began = self._membership.knows(source)
        for url in self._membership.list(source, endpoints):
            log.warning("instance_listed_twice url=%s source=%s", url, source)
        await self._apply(quiet=not began)

    async def drop(self, source: str) -> None:
        """Let the members leave that only this source listed."""
        self._membership.drop(source)
        await self._apply()

    async def add(self, endpoint: Endpoint) -> Instance:
        """Add a member by hand; return its instance, which may not be up yet."""
        self._membership.add(endpoint)
        await self._apply()
        return next(each for each in self._instances if each.url == endpoint.url)

    async def remove(self, instance: Instance, *, now: bool = False) -> None:
        """Remove a member by hand; with `now` at once: what it has not answered goes on."""
        self._membership.remove(instance.url)
        await self._apply()
        if now and instance in self._keeping:
            await self._forget(instance, "removed at once", cut=True)

    async def close(self) -> None:
        """End all tasks."""
        tasks = [*self._leaving.values(), *self._keeping.values()]
        self._leaving.clear()
        self._keeping.clear()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _apply(self, *, quiet: bool = False) -> None:
        """Bring the fleet in line with the membership; `quiet` at the start, when all are new."""
        wanted = self._membership.wanted()
        due = change({each.url: each.endpoint for each in self._instances}, wanted)
        by_url = {each.url: each for each in self._instances}
        for endpoint in due.updated:
            by_url[endpoint.url].endpoint = endpoint
        for endpoint in due.added:
            self._join(endpoint)
            if not quiet:
                self._note("instance_added", f"{endpoint.url} is a member")
        for url in due.removed:
            self._leave(by_url[url])
        for instance in [each for each in self._leaving if each.url in wanted]:
            await self._stay(instance)

    def _join(self, endpoint: Endpoint) -> None:
        assert self._keeper is not None, "start must come first"
        instance = Instance.behind(endpoint)
        self._instances.add(instance)
        self._keeping[instance] = spawn(self._keeper.keep(instance), f"keep {instance.url}")

    def _leave(self, instance: Instance) -> None:
        if instance not in self._leaving:
            self._note("instance_leaving", f"{instance.id} is to leave, at {instance.url}")
            # From this moment on nothing new goes there, whenever the task begins.
            instance.set_draining(on=True)
            work = self._leave_empty(instance)
            self._leaving[instance] = spawn(work, f"leave {instance.url}")

    async def _stay(self, instance: Instance) -> None:
        """Take back an instance that was leaving."""
        self._leaving.pop(instance).cancel()
        instance.set_draining(on=False)
        await _attempt(self._mover.drain(instance, on=False))

    async def _leave_empty(self, instance: Instance) -> None:
        if instance.link is not None:
            await _attempt(self._mover.drain(instance, on=True))
        deadline = time.monotonic() + self._leave_timeout_s
        looks = 0
        while looks < _EMPTY_LOOKS and instance.alive and time.monotonic() < deadline:
            looks = 0 if self._busy(instance) else looks + 1
            await asyncio.sleep(_LOOK_S)
        emptied = looks == _EMPTY_LOOKS or not instance.alive
        await self._forget(instance, "removed" if emptied else "removed with streams still open")

    async def _forget(self, instance: Instance, reason: str, *, cut: bool = False) -> None:
        leaving = self._leaving.pop(instance, None)
        if leaving is not None and leaving is not asyncio.current_task():
            leaving.cancel()
        self._instances.remove(instance)
        link = instance.link
        if link is not None:  # it may serve others after us
            await _attempt(link.drain(on=False))
        keeping = self._keeping.pop(instance)
        keeping.cancel()
        await asyncio.gather(keeping, return_exceptions=True)
        self._note("instance_removed", f"{instance.id} is {reason}")
        self._mover.instance_gone(instance.id)
        for request in self._requests.at(instance.id) if cut else ():
            request.cut()
        self._left(instance)

    def _busy(self, instance: Instance) -> bool:
        """Whether a request is on an instance, or on its way from or to it."""
        moving = any(self._mover.book.of_instance(instance.id))
        return moving or bool(self._requests.at(instance.id))


async def _attempt(telling: Awaitable[None]) -> None:
    """Tell an instance something that it need not hear: it may be gone."""
    try:
        async with asyncio.timeout(_UNDO_TIMEOUT_S):
            await telling
    except (OSError, TimeoutError) as error:
        log.info("instance_not_told error=%r", error)


def spawn(work: Coroutine[None, None, None], name: str) -> asyncio.Task[None]:
    """Start a loop that should never end; if it does, that is logged."""
    task = asyncio.create_task(work, name=name)
    task.add_done_callback(_crashed)
    return task


def _crashed(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and task.exception() is not None:
        log.critical("task_crashed name=%s", task.get_name(), exc_info=task.exception())
