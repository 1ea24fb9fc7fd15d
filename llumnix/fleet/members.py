"""Let instances join and leave: each has a task that keeps it connected, and leaves empty."""

import asyncio
import dataclasses
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence

from llumnix.errors import ConfigError
from llumnix.fleet.migrations.mover import Mover
from llumnix.fleet.requests import RequestTable
from llumnix.instances.config import FleetConfig, InstanceSpec
from llumnix.instances.credentials import endpoint_of
from llumnix.instances.endpoints.address import Address, BadAddress
from llumnix.instances.endpoints.endpoint import Endpoint
from llumnix.instances.instance import Instance
from llumnix.instances.keeper import Keeper
from llumnix.instances.membership import HAND, Membership, change
from llumnix.instances.sources.file import file_source
from llumnix.instances.sources.registry import make_source
from llumnix.instances.sources.source import Source
from llumnix.instances.sources.watch import SourceWatch
from llumnix.instances.table import InstanceTable
from llumnix.tasks import spawn

log = logging.getLogger(__name__)

_LOOK_S = 0.1
# A request that was sent just before shows only in the instance's next report.
_EMPTY_LOOKS = 3
_UNDO_TIMEOUT_S = 2.0
_FILES_EVERY_S = 15.0


CONFIGURATION = "configuration"
"""The source of the members that flags and YAML list."""


class Members:
    """Turns what sources list into instances that are kept, or drained and then forgotten.

    A member that stays listed is never touched. One that leaves takes no new requests, those it has
    move away, and it is forgotten once it is empty, or after `leave_timeout_s` wall seconds: what
    could not move by then still flows to its end. `note` writes an event; `left` is told of each
    instance that is forgotten.
    """

    def __init__(
        self,
        config: FleetConfig,
        instances: InstanceTable,
        requests: RequestTable,
        mover: Mover,
        note: Callable[[str, str], None],
        left: Callable[[Instance], None],
    ) -> None:
        self._config = config
        self._instances = instances
        self._requests = requests
        self._mover = mover
        self._note = note
        self._left = left
        self._membership = Membership()
        self._specs: dict[str, tuple[InstanceSpec, ...]] = {}
        self._changing = asyncio.Lock()
        self._rereading: asyncio.Task[None] | None = None
        self._sources = SourceWatch(self.set, self.drop, note)
        self._keeper: Keeper | None = None
        self._keeping: dict[Instance, asyncio.Task[None]] = {}
        self._leaving: dict[Instance, asyncio.Task[None]] = {}

    def start(self, keeper: Keeper) -> None:
        """Use this keeper from now on; must come first."""
        self._keeper = keeper
        self._rereading = spawn(self._follow_files(), "keys and certificates")

    async def set(
        self, instances: Sequence[InstanceSpec | str], source: str = CONFIGURATION
    ) -> None:
        """Make these servers the members that a source lists; those it listed before leave.

        Files are read again; members that are as before are not touched. The configuration may name
        further sources, which are followed from then on. Raises ConfigError, and then nothing has
        changed.
        """
        specs = [_spec(each) if isinstance(each, str) else each for each in instances]
        sources = self._sources_of(specs) if source == CONFIGURATION else None
        servers = tuple(each for each in specs if not each.source)
        async with self._changing:
            endpoints = await self._endpoints(servers, self._config)
            began = source in self._specs
            self._specs[source] = servers
            for url in self._membership.list(source, endpoints):
                log.warning("instance_listed_twice url=%s source=%s", url, source)
            await self._apply(quiet=not began)
        if sources is not None:
            await self._sources.follow(sources)

    async def reload(self, config: FleetConfig) -> None:
        """Take instances, keys and TLS settings from another configuration. Raises like `set`.

        Its other settings are those of the fleet for as long as it runs.
        """
        names = [item.name for item in dataclasses.fields(FleetConfig)]
        changes = {name: getattr(config, name) for name in names if name.startswith("instance")}
        before, self._config = self._config, dataclasses.replace(self._config, **changes)
        try:
            await self.set(self._config.instances)
            await self.read_files()
        except BaseException:
            self._config = before
            raise

    async def read_files(self) -> None:
        """Read the keys and certificates of all members again. Raises like `set`."""
        async with self._changing:
            read = {
                source: await self._endpoints(specs, self._config)
                for source, specs in self._specs.items()
            }
            for source, endpoints in read.items():
                self._membership.list(source, endpoints)
            await self._apply()

    async def _follow_files(self) -> None:
        """Read files again and again: secrets are replaced where they are mounted."""
        said = ""
        while True:
            await asyncio.sleep(_FILES_EVERY_S)
            try:
                await self.read_files()
                failure = ""
            except ConfigError as error:
                failure = str(error)
            if failure and failure != said:
                log.warning("files_not_read reason=%s", failure)
            said = failure

    async def _endpoints(
        self, specs: Sequence[InstanceSpec], config: FleetConfig
    ) -> list[Endpoint]:
        # In a thread: TLS settings that are new take tens of milliseconds to load.
        return await asyncio.to_thread(lambda: [endpoint_of(each, config) for each in specs])

    async def drop(self, source: str) -> None:
        """Let the members leave that only this source listed."""
        async with self._changing:
            self._specs.pop(source, None)
            self._membership.drop(source)
            await self._apply()

    async def add(self, url: str) -> Instance:
        """Add a server by hand; return its instance, which may not be up yet.

        Raises ConfigError for what is no server's URL, or if the fleet's key or certificates cannot
        be read.
        """
        spec = _spec(url)
        if spec.source:
            raise ConfigError(f"{url} names a source; only the configuration may have one")
        async with self._changing:
            (endpoint,) = await self._endpoints([spec], self._config)
            self._specs[HAND] = (*self._by_hand_but(endpoint.url), spec)
            self._membership.add(endpoint)
            await self._apply()
        return next(each for each in self._instances if each.url == endpoint.url)

    async def remove(self, instance: Instance, *, now: bool = False) -> None:
        """Remove a member by hand; with `now` at once: what it has not answered goes on."""
        async with self._changing:
            self._specs[HAND] = self._by_hand_but(instance.url)
            self._membership.remove(instance.url)
            await self._apply()
            if now and instance in self._keeping:
                await self._forget(instance, "removed at once", cut=True)

    def _by_hand_but(self, url: str) -> tuple[InstanceSpec, ...]:
        listed = self._specs.get(HAND, ())
        return tuple(each for each in listed if Address.parse(each.url).url != url)

    def sources(self) -> Mapping[str, str]:
        """Return the sources that are followed, by name, and why each fails ("" if it works)."""
        return self._sources.failures()

    async def close(self) -> None:
        """End all tasks."""
        await self._sources.close()
        tasks = [*self._leaving.values(), *self._keeping.values()]
        tasks += [self._rereading] if self._rereading is not None else []
        self._leaving.clear()
        self._keeping.clear()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _sources_of(self, specs: Sequence[InstanceSpec]) -> list[Source]:
        interval_s = self._config.sources_interval_s
        try:
            sources = [make_source(each, interval_s) for each in specs if each.source]
        except BadAddress as error:
            raise ConfigError(str(error)) from error
        path = self._config.instances_file
        return [*sources, file_source(path, interval_s)] if path else sources

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
            if instance in self._leaving:  # not gone while another was told to stay
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
        deadline = time.monotonic() + self._config.leave_timeout_s
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
        return moving or bool(self._requests.count_at(instance.id))


def _spec(url: str) -> InstanceSpec:
    try:
        return InstanceSpec(url)
    except BadAddress as error:
        raise ConfigError(str(error)) from error


async def _attempt(telling: Awaitable[None]) -> None:
    """Tell an instance something that it need not hear: it may be gone."""
    try:
        async with asyncio.timeout(_UNDO_TIMEOUT_S):
            await telling
    except (OSError, TimeoutError) as error:
        log.info("instance_not_told error=%r", error)
