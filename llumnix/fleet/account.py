"""What is told of a request once it is over: the figures of its line in the log."""

from dataclasses import dataclass, field

from policies.types import InstanceId


@dataclass(slots=True, eq=False)
class Account:
    """A request's way through the fleet, filled in as it goes; times are fleet seconds.

    `client_id` is the id that its client gave it, from which ours differs if another request has
    it. `instances` are those it was sent to, in order; `moves` counts how often another one carried
    it on. `cause` says why it failed, never in its client's words; `cut`: we ended it, since we end
    ourselves. A time is None until it is known.
    """

    request_id: str = ""
    client_id: str = ""
    tenant: str = ""
    class_name: str = ""
    model: str = ""
    prompt_tokens: int = 0
    instances: list[InstanceId] = field(default_factory=list)
    moves: int = 0
    output_tokens: int = 0
    queue_wait_s: float | None = None
    ttft_s: float | None = None
    tpot_s: float | None = None
    cut: bool = False
    outcome: str = ""
    cause: str = ""

    def sent_to(self, instance_id: InstanceId) -> None:
        """Note where the request was sent; staying where it is counts once."""
        if not self.instances or self.instances[-1] != instance_id:
            self.instances.append(instance_id)
