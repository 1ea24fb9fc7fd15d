"""The fleet as others see it: responses of the admin API, gauges for Prometheus."""

import math
import time
from collections.abc import Iterator
from dataclasses import replace

from llumnix.admin.schema import (
    FleetStatus,
    InstanceStatus,
    QueueStatus,
    RequestStatus,
    SourceStatus,
)
from llumnix.fleet.fleet import Fleet
from llumnix.fleet.requests import ActiveRequest
from llumnix.instances.instance import Instance
from llumnix.metrics.catalogue import InstanceGauges
from policies.types import InstanceLoad


def fleet_status(fleet: Fleet, queue_length: int, queue_limit: int) -> FleetStatus:
    """Return the status of the whole fleet; times are fleet seconds."""
    instances = tuple(instance_statuses(fleet))
    return replace(fleet_summary(fleet, queue_length, queue_limit), instances=instances)


def fleet_summary(fleet: Fleet, queue_length: int, queue_limit: int) -> FleetStatus:
    """Return the status of the fleet as a whole, without its instances."""
    config = fleet.scheduler.config
    return FleetStatus(
        instances=(),
        policy=config.dispatch.name,
        migration=config.migration,
        speed=fleet.clock.speed,
        now_s=round(fleet.now_s(), 6),
        classes=tuple(known.name for known in config.classes),
        queue=QueueStatus(queue_length, queue_limit),
        migrations=tuple(each.status() for each in fleet.mover.book),
        totals=fleet.tally.totals(),
        sources=tuple(
            SourceStatus(name, reason) for name, reason in fleet.members.sources().items()
        ),
    )


def instance_statuses(fleet: Fleet) -> Iterator[InstanceStatus]:
    """Return the status of one instance after the other; they are asked one by one."""
    freeness = _freeness(fleet)
    return (_instance_status(fleet, each, freeness) for each in list(fleet.instances))


def request_statuses(fleet: Fleet) -> Iterator[RequestStatus]:
    """Return the status of the requests being served, one after the other."""
    now_s = fleet.now_s()
    return (_request_status(each, now_s) for each in list(fleet.requests.active.values()))


def _request_status(active: ActiveRequest, now_s: float) -> RequestStatus:
    return RequestStatus(
        request_id=active.request_id,
        instance_id=active.instance_id,
        class_name=active.class_name,
        state=active.state,
        age_s=round(now_s - active.since_s, 6),
        tokens=active.tokens(),
        movable=not active.immovable,
        why=active.immovable,
    )


def set_gauges(fleet: Fleet, queued: list[int], queue_limit: int) -> None:
    """Update the gauges; called when they are scraped."""
    for _ in setting_gauges(fleet, queued, queue_limit):
        pass


def setting_gauges(fleet: Fleet, queued: list[int], queue_limit: int) -> Iterator[None]:
    """Do what `set_gauges` does, and pause after each instance."""
    metrics = fleet.tally.metrics
    metrics.queue_limit.set(queue_limit)
    for known, length in zip(fleet.scheduler.config.classes, queued, strict=True):
        metrics.queue_length.labels(class_name=known.name).set(length)
    freeness = _freeness(fleet)
    # An instance is known by its address until it says its name, which may change on a restart.
    metrics.retain_instances(
        known={each.id for each in fleet.instances},
        reporting={each.id for each in fleet.instances.alive()},
    )
    yield
    not_up: set[tuple[str, str]] = set()
    for each in list(fleet.instances):
        cause, _ = _why_not(each)
        if cause:
            not_up.add((each.id, cause))
        metrics.instance_up.labels(instance_id=each.id).set(each.alive)
        if each.load is not None:
            _set_reported(metrics.of_instance(each.id), each.load, freeness.get(each.id), fleet)
        yield
    metrics.instance_not_up.retain_rows(not_up)
    for instance_id, cause in sorted(not_up):
        metrics.instance_not_up.labels(instance_id=instance_id, cause=cause).set(1)
    yield


def _set_reported(
    gauges: InstanceGauges, load: InstanceLoad, freeness: float | None, fleet: Fleet
) -> None:
    # An instance being drained has a freeness of minus infinity, which JSON cannot express.
    gauges.freeness.set(-math.inf if freeness is None else freeness)
    gauges.running.set(sum(load.running))
    gauges.waiting.set(sum(load.waiting))
    gauges.age.set(fleet.now_s() - load.reported_at_s)
    gauges.backlog.set(load.prefill_backlog_tokens)
    gauges.kv["physical"].set(load.physical_tokens)
    gauges.kv["reserved"].set(load.reserved_tokens)
    gauges.kv["capacity"].set(load.capacity_tokens)


def _why_not(instance: Instance) -> tuple[str, str]:
    """Return why an instance gets no new requests: the cause in a word, and for people."""
    if instance.link is not None and (spared := instance.fitness.spared(time.monotonic())):
        return str(spared[0]), spared[1]
    if instance.trouble is not None and not instance.alive:
        return str(instance.trouble.cause), str(instance.trouble)
    return "", ""


def _freeness(fleet: Fleet) -> dict[str, float | None]:
    alive = fleet.instances.alive()
    if not alive:
        return {}
    values = fleet.scheduler.freeness(fleet.instances.snapshot(alive)).tolist()
    return {
        each.id: value if math.isfinite(value) else None
        for each, value in zip(alive, values, strict=True)
    }


def _instance_status(
    fleet: Fleet, instance: Instance, freeness: dict[str, float | None]
) -> InstanceStatus:
    load, identity = instance.load, instance.identity
    cause, detail = _why_not(instance)
    told = identity.capacity_tokens if identity else None
    return InstanceStatus(
        instance_id=instance.id,
        url=instance.url,
        state=instance.state,
        kind=identity.kind if identity else "",
        engine=identity.engine if identity else "",
        capacity_tokens=load.capacity_tokens if load else told or 0,
        physical_tokens=load.physical_tokens if load else 0,
        freeness=freeness.get(instance.id),
        running=sum(load.running) if load else 0,
        waiting=sum(load.waiting) if load else 0,
        reserved_tokens=load.reserved_tokens if load else 0,
        prefill_backlog_tokens=load.prefill_backlog_tokens if load else 0,
        age_s=round(fleet.now_s() - load.reported_at_s, 6) if load else None,
        reason=cause,
        detail=detail,
    )
