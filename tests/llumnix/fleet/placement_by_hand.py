"""Who may get a request, looked at one by one: slow, plain, and what the fleet must agree with."""

from collections.abc import Iterable

from llumnix.fleet.faults.health import FleetHealth
from llumnix.fleet.placement import PlacementRequest
from llumnix.instances.instance import Instance, InstanceState
from policies.types import InstanceId


def candidates(
    ask: PlacementRequest, instances: Iterable[Instance], health: FleetHealth
) -> tuple[list[Instance], dict[InstanceId, str]]:
    """Return the instances to choose from, and why the others are not among them.

    Those of groups that do not fit are among them: the scheduler leaves these out. Where no
    instance that is fit serves the model, those that had better be left alone are taken.
    """
    everyone = list(instances)
    rows: list[Instance] = []
    unfit: dict[InstanceId, str] = {}
    spare: dict[InstanceId, str] = {}
    left_out: dict[InstanceId, str] = {}
    kept_off, kept_free = health.keeps_off(ask.request.request_id)
    now_s = health.now_s()
    for each in everyone:
        probed = each.state is InstanceState.SUSPECT and each.fitness.to_be_probed(now_s)
        if each.state is not InstanceState.UP and not probed:
            left_out[each.id] = str(each.state)
        elif each.id in ask.barred:
            left_out[each.id] = "it refused this request"
        elif not ask.fits(each):
            left_out[each.id] = "it cannot resume a stream that has begun"
        elif each.id in kept_off:
            left_out[each.id] = "the request may crash it, and others are new there"
        elif each.id in ask.avoided:
            spare[each.id] = "it failed this request"
        elif each.id in kept_free:
            unfit[each.id] = "a request that may crash it is to be tried there"
        elif why := each.fitness.objection(now_s):
            unfit[each.id] = why
        else:
            rows.append(each)
    if kept_off and not rows:
        health.reserve(min(kept_off))
    for worse in (unfit, spare):
        if any(each.group.serves(ask.model) for each in rows):
            left_out.update(worse)
        else:
            rows += [each for each in everyone if each.id in worse]
    return rows, left_out
