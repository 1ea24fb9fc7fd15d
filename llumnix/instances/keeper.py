"""Keep an instance connected: identify it, connect, notice its loss, try again."""

import asyncio
import logging
from collections.abc import Awaitable, Callable

import aiohttp

from llumnix.instances.condition.trouble import Cause, Trouble, trouble_of
from llumnix.instances.config import FleetConfig
from llumnix.instances.discovery import discover
from llumnix.instances.instance import Identity, Instance, InstanceLink, InstanceListener

log = logging.getLogger(__name__)

Linker = Callable[[Instance, Identity], Awaitable[InstanceLink]]
"""Opens the link to an instance that has been identified; raises an error if it cannot."""


class Keeper:
    """Keeps instances connected, each for as long as `keep` runs. Delays are wall seconds.

    Nothing but being cancelled ends it: whatever goes wrong is told to the watcher as a Trouble.
    """

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
        self._unexpected: set[str] = set()

    async def keep(self, instance: Instance) -> None:
        """Connect and stay connected, until cancelled."""
        wait_s = self._config.reconnect_min_s
        while True:
            try:
                was_up = await self._attempt(instance)
            except Exception as error:  # a listener's fault must not cost us the instance
                self._log_once(error)
                was_up = False
            if was_up:
                wait_s = self._config.reconnect_min_s
            await asyncio.sleep(wait_s)
            wait_s = min(2 * wait_s, self._config.reconnect_max_s)

    async def _attempt(self, instance: Instance) -> bool:
        """Connect and stay connected until that ends; return whether the server was reached."""
        reached = False
        try:
            identity, link = await self._connect(instance)
            reached = True
            trouble = await self._stay(instance, identity, link)
        except Exception as error:
            trouble = self._trouble(error)
        instance.trouble = trouble
        self._watcher.not_up(instance, trouble)
        return reached

    async def _connect(self, instance: Instance) -> tuple[Identity, InstanceLink]:
        async with asyncio.timeout(self._config.contact_timeout_s):
            identity = await discover(self._session, instance.endpoint, self._secret)
        # A link bounds its own steps, and knows better what was too slow.
        async with asyncio.timeout(2 * self._config.contact_timeout_s):
            return identity, await self._linker(instance, identity)

    async def _stay(self, instance: Instance, identity: Identity, link: InstanceLink) -> Trouble:
        """Stay connected until the instance is lost; return why it is no longer up."""
        instance.become(identity, link)
        try:
            if instance.draining:
                await link.drain(on=True)
            self._watcher.came_up(instance)
            reason = await link.lost()
        except OSError as error:
            reason = str(error)
        except Exception as error:
            reason = str(self._trouble(error).detail)
        finally:
            never_up = instance.trouble
            instance.lose()
            await link.close()
        self._watcher.went_down(instance, reason)
        return never_up or Trouble(Cause.LOST, reason)

    def _trouble(self, error: Exception) -> Trouble:
        trouble = trouble_of(error, self._config.contact_timeout_s)
        if trouble.cause is Cause.INTERNAL:
            self._log_once(error)
        return trouble

    def _log_once(self, error: Exception) -> None:
        text = f"{type(error).__name__}: {error}"
        if text not in self._unexpected:
            self._unexpected.add(text)
            log.error("supervision_error error=%s", text, exc_info=error)
