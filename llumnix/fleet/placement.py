"""Which instances a request may be sent to: what is settled before any policy chooses."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from llumnix.fleet.faults.health import FleetHealth
from llumnix.instances.instance import Instance, InstanceState
from llumnix.instances.table import InstanceTable
from policies.types import DispatchRequest, InstanceId, IntColumn


@dataclass(frozen=True, slots=True)
class PlacementRequest:
    """A request that needs an instance.

    Instances in `avoided` failed it and are chosen only if there is no other; those in `barred` are
    never chosen. `plugged_only` is set for streams that only an instance with the plugin can
    resume; with `or_vllm` a vLLM without the plugin can as well.
    """

    request: DispatchRequest
    avoided: frozenset[InstanceId] = frozenset()
    barred: frozenset[InstanceId] = frozenset()
    plugged_only: bool = False
    or_vllm: bool = False

    @property
    def model(self) -> str | None:
        """Return the model that must serve the request, if it names one."""
        return self.request.model

    def fits(self, instance: Instance) -> bool:
        """Return whether an instance is able to serve the request, all else aside."""
        able = instance.plugged or (self.or_vllm and instance.vllm)
        return able or not self.plugged_only


@dataclass(frozen=True, slots=True)
class Candidates:
    """The instances to choose from, as rows of the table (None: all), and why not the others."""

    rows: IntColumn | None = None
    left_out: Mapping[InstanceId, str] = field(default_factory=dict)


_EVERYONE = Candidates()


@dataclass(slots=True)
class _Verdicts:
    """What becomes of the instances that cannot simply be chosen from."""

    left_out: dict[InstanceId, str] = field(default_factory=dict)
    unfit: dict[InstanceId, str] = field(default_factory=dict)
    spare: dict[InstanceId, str] = field(default_factory=dict)


def candidates(ask: PlacementRequest, instances: InstanceTable, health: FleetHealth) -> Candidates:
    """Find the instances to choose from, and why the others are not among them.

    Those of groups that do not fit are among them: the scheduler leaves these out. Where no
    instance that is fit serves the model, those that had better be left alone are taken. Only
    instances that something may speak against are looked at.
    """
    kept_off, kept_free = health.keeps_off(ask.request.request_id)
    now_s = health.now_s()
    special = set(instances.odd(now_s))
    if ask.plugged_only:
        special.update(instances.without_plugin())
    if ask.avoided or ask.barred or kept_off or kept_free:
        named = (ask.avoided, ask.barred, kept_off, kept_free)
        found = (instances.get(each) for each in set[InstanceId]().union(*named))
        special.update(each for each in found if each is not None)
    if not special:
        return _EVERYONE
    ordered = sorted(special, key=instances.row)
    chosen = np.ones(len(instances), dtype=np.bool_)
    verdicts = _Verdicts()
    for each in ordered:
        chosen[instances.row(each)] = _judge(each, ask, (kept_off, kept_free), now_s, verdicts)
    rows = np.flatnonzero(chosen)
    if kept_off and not len(rows):
        health.reserve(min(kept_off))
    for worse in (verdicts.unfit, verdicts.spare):
        if worse and _any_serves(ask.model, rows, instances):
            verdicts.left_out.update(worse)
        elif worse:
            more = [instances.row(each) for each in ordered if each.id in worse]
            rows = np.concatenate([rows, np.array(more, dtype=np.int64)])
    return Candidates(rows, verdicts.left_out)


def _judge(
    each: Instance,
    ask: PlacementRequest,
    kept: tuple[set[InstanceId], set[InstanceId]],
    now_s: float,
    verdicts: _Verdicts,
) -> bool:
    """Return whether an instance is to be chosen from like any other; else note why not."""
    kept_off, kept_free = kept
    probed = each.state is InstanceState.SUSPECT and each.fitness.to_be_probed(now_s)
    if each.state is not InstanceState.UP and not probed:
        verdicts.left_out[each.id] = str(each.state)
    elif each.id in ask.barred:
        verdicts.left_out[each.id] = "it refused this request"
    elif not ask.fits(each):
        verdicts.left_out[each.id] = "it cannot resume a stream that has begun"
    elif each.id in kept_off:
        verdicts.left_out[each.id] = "the request may crash it, and others are new there"
    elif each.id in ask.avoided:
        verdicts.spare[each.id] = "it failed this request"
    elif each.id in kept_free:
        verdicts.unfit[each.id] = "a request that may crash it is to be tried there"
    elif why := each.fitness.objection(now_s):
        verdicts.unfit[each.id] = why
    else:
        return True
    return False


def _any_serves(model: str | None, rows: IntColumn, instances: InstanceTable) -> bool:
    return any(instances.at(row).group.serves(model) for row in rows.tolist())
