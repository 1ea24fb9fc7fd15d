"""A scripted engine that dies: of a request that crashes it, or when told to."""

import asyncio

from aiohttp import web

from tests.llumnix.frontend.stub import Script, StubInstance

POISON = "poison"


class MortalInstance(StubInstance):
    """Dies of any request that contains POISON: every connection is reset, none is taken any more.

    It dies before the poison's first token, or once it has played `first` to it.
    """

    first: Script | None = None

    def __init__(self, name: str, *, plugged: bool = True) -> None:
        super().__init__(name, plugged=plugged)
        self.dead = False

    def die(self) -> None:
        """Die at once."""
        self.dead = True
        assert self._runner is not None
        assert self._runner.server is not None
        for site in self._runner.sites:
            assert isinstance(site, web.TCPSite)
            assert site._server is not None
            site._server.close()
        for connection in self._runner.server.connections:
            if connection.transport is not None:
                connection.transport.abort()

    async def _complete(self, http: web.Request) -> web.StreamResponse:
        poisonous = POISON.encode() in await http.read()
        if poisonous and self.first is not None:
            self.scripts.appendleft(self.first)
        elif poisonous:
            await asyncio.sleep(0.01)  # it is in the batch with others
            self.die()
            await asyncio.Event().wait()
        response = await super()._complete(http)
        if poisonous:
            self.die()
        return response
