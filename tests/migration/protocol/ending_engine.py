"""A fake engine that, like vLLM, can end a request at an exact token but not pause it."""

from migration.engine import Abilities
from policies.types import RequestId
from tests.migration.fake_engine import FakeEngine
from tests.migration.fake_request import FakeRequest


class EndingEngine(FakeEngine):
    """Its streams end with the redirect as soon as their request is detached, come what may."""

    def abilities(self) -> Abilities:
        return Abilities(reattach=False)

    def departing(self, request_id: RequestId, redirect: str) -> None:
        self.redirects[request_id] = redirect

    def departed(self, request_id: RequestId) -> None:
        del self.redirects[request_id]

    def reattach(self, request_id: RequestId) -> None:
        raise AssertionError(f"{request_id} has ended: it cannot be put back")

    def release(self, request_id: RequestId, redirect: str) -> None:
        assert redirect == self.redirects[request_id]
        request = self.running.pop(request_id)
        assert request.phase == "detached", request
        self._free_blocks(request)

    def _let_stand(self, request: FakeRequest) -> None:
        self.sink.ended(self.instance_id, request.request_id, self.redirects[request.request_id])
