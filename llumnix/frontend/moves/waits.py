"""One request's waits for bytes: what is known about each, when it has become long."""

from dataclasses import dataclass

from llumnix.frontend.context import ServingContext
from llumnix.frontend.http.outcome import FailureKind
from llumnix.frontend.http.upstream import Late
from llumnix.frontend.moves.attempts import Attempts
from llumnix.frontend.patience import Quiet, Verdict
from llumnix.frontend.request.request import ClientRequest
from llumnix.instances.instance import Instance
from policies.types import RequestId

_KINDS = {Verdict.MOVE: FailureKind.SILENT, Verdict.GIVE_UP: FailureKind.STALLED}


@dataclass(frozen=True, slots=True)
class Silent:
    """A leg that brings nothing: for how long, and for how long it may.

    `begun` says that the client has part of the stream, `grafts` that a vLLM without the plugin
    can go on from it.
    """

    silent_s: float
    usual_s: float
    ceiling_s: float
    begun: bool
    grafts: bool


class Waits:
    """Decides whether to go on waiting for an instance, by what others there are."""

    def __init__(
        self,
        context: ServingContext,
        request: ClientRequest,
        request_id: RequestId,
        attempts: Attempts,
    ) -> None:
        self._context = context
        self._request = request
        self._request_id = request_id
        self._attempts = attempts

    def first_byte(self, target: Instance, known_tokens: int, *, begun: bool, grafts: bool) -> Late:
        """Return how long to wait for a stream to begin; `known_tokens` of its output are known."""
        config, request = self._context.config, self._request
        usual_s = self._context.patience.first_byte_s(
            request.class_index, request.prompt_tokens + known_tokens, config.patience_s
        )
        ceiling_s = config.first_byte_timeout_s

        def decide(silent_s: float) -> FailureKind | None:
            return self.too_silent(target, Silent(silent_s, usual_s, ceiling_s, begun, grafts))

        return Late(min(usual_s, ceiling_s), decide)

    def too_silent(self, instance: Instance, silent: Silent) -> FailureKind | None:
        """Return how a wait ends that has become long, or None if it is to go on."""
        quiet = Quiet(
            silent.silent_s,
            min(silent.usual_s, silent.ceiling_s),
            silent.ceiling_s,
            flows=self._context.fleet.works(instance),
            elsewhere=self._elsewhere(instance, silent),
        )
        return _KINDS.get(self._context.patience.judge(self._request_id, quiet))

    def _elsewhere(self, instance: Instance, silent: Silent) -> bool:
        """Whether another instance can serve the request that has not failed it yet."""
        shunned = self._attempts.avoided | self._attempts.barred
        model = self._request.model or min(instance.group.models, default=None)
        return any(
            each is not instance
            and each.id not in shunned
            and each.group.serves(model)
            and (not silent.begun or each.plugged or (silent.grafts and each.vllm))
            for each in self._context.fleet.instances.up()
        )
