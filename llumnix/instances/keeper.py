"""Keep an instance connected: identify it, connect, notice its loss, try again."""

import asyncio
import logging
from collections.abc import Awaitable, Callable

import aiohttp

from llumnix.instances.config import FleetConfig
from llumnix.instances.discovery import NotUnderstood, discover
from llumnix.instances.instance import Identity, Instance, InstanceLink, InstanceListener

log = logging.getLogger(__name__)

Linker = Callable[[Instance, Identity], Awaitable[InstanceLink]]
"""Opens the link to an instance that has been identified; raises OSError if it cannot."""

FAILURES = (OSError, aiohttp.ClientError, TimeoutError, NotUnderstood, ValueError)


class Keeper:
    """Keeps instances connected, each for as long as `keep` runs. Delays are wall seconds."""

    def __init__(
        self,
        config: FleetConfig,
        secret: bytes,
        session: aiohttp.ClientSession,
        linker: Linker,
        watcher: InstanceListener,
    ) -> None:
        self._config = config
        self._secret = secret
        self._session = session
        self._linker = linker
        self._watcher = watcher

    async def keep(self, instance: Instance) -> None:
        """Connect and stay connected, until cancelled."""
        wait_s = self._config.reconnect_min_s
        while True:
            try:
                async with asyncio.timeout(self._config.contact_timeout_s):
                    identity = await discover(self._session, instance.endpoint, self._secret)
                    link = await self._linker(instance, identity)
            except FAILURES as error:
                log.debug("instance_unreachable url=%s error=%r", instance.url, error)
            else:
                wait_s = self._config.reconnect_min_s
                await self._stay(instance, identity, link)
            await asyncio.sleep(wait_s)
            wait_s = min(2 * wait_s, self._config.reconnect_max_s)

    async def _stay(self, instance: Instance, identity: Identity, link: InstanceLink) -> None:
        instance.become(identity, link)
        try:
            if instance.draining:
                await link.drain(on=True)
            self._watcher.came_up(instance)
            reason = await link.lost()
        except OSError as error:
            reason = str(error)
        finally:
            instance.lose()
            await link.close()
        self._watcher.went_down(instance, reason)
