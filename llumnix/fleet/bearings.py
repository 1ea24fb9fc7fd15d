"""What can be read off the instances, whoever has the fleet: who works, which models there are."""

from llumnix.instances.instance import Instance
from llumnix.instances.table import InstanceTable

_LATELY_S = 1.5


def works(instance: Instance, flowed_at_s: float, poll_interval_s: float, now_s: float) -> bool:
    """Return whether an instance was just seen to work: a step ended, or a stream got output.

    Times are wall seconds; a stream of it last brought something at `flowed_at_s`. What servers
    without the plugin do is only known from poll to poll.
    """
    lately_s = _LATELY_S + (0.0 if instance.plugged else poll_interval_s)
    return now_s - max(flowed_at_s, instance.fitness.moved_at_s) < lately_s


def serves(instances: InstanceTable, model: str) -> bool:
    """Return whether a model may be served: an instance has it, or none is there to ask."""
    known = any(group.serves(model) for group in instances.groups())
    return known or not instances.alive()


def only_model(instances: InstanceTable) -> str | None:
    """Return the only model there is, for requests that name none; None if there are several."""
    models = {model for group in instances.groups() for model in group.models}
    return next(iter(models)) if len(models) == 1 else None
