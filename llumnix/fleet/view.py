"""The fleet as others see it: responses of the admin API, gauges for Prometheus."""

import math
import time

from llumnix.admin.schema import (
    FleetStatus,
    InstanceStatus,
    QueueStatus,
    RequestStatus,
    SourceStatus,
)
from llumnix.fleet.fleet import Fleet
from llumnix.instances.instance import Instance
from llumnix.metrics.catalogue import FleetMetrics


def fleet_status(fleet: Fleet, queue_length: int, queue_limit: int) -> FleetStatus:
    """Return the status of the whole fleet; times are fleet seconds."""
    config = fleet.scheduler.config
    freeness = _freeness(fleet)
    return FleetStatus(
        instances=tuple(_instance_status(fleet, each, freeness) for each in fleet.instances),
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


def request_statuses(fleet: Fleet) -> list[RequestStatus]:
    """Return the status of the requests being served."""
    now_s = fleet.now_s()
    return [
        RequestStatus(
            request_id=each.request_id,
            instance_id=each.instance_id,
            class_name=each.class_name,
            state=each.state,
            age_s=round(now_s - each.since_s, 6),
            tokens=each.tokens(),
            movable=not each.immovable,
            why=each.immovable,
        )
        for each in fleet.requests.active.values()
    ]


def set_gauges(fleet: Fleet, queued: list[int], queue_limit: int) -> None:
    """Update the gauges; called when they are scraped."""
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
    metrics.instance_not_up.clear()
    for each in fleet.instances:
        _set_instance_gauges(metrics, each, freeness.get(each.id), fleet.now_s())


def _set_instance_gauges(
    metrics: FleetMetrics, instance: Instance, freeness: float | None, now_s: float
) -> None:
    name, load = instance.id, instance.load
    metrics.instance_up.labels(instance_id=name).set(instance.alive)
    cause, _ = _why_not(instance)
    if cause:
        metrics.instance_not_up.labels(instance_id=name, cause=cause).set(1)
    if load is None:
        return
    # An instance being drained has a freeness of minus infinity, which JSON cannot express.
    metrics.instance_freeness.labels(instance_id=name).set(
        -math.inf if freeness is None else freeness
    )
    metrics.instance_running.labels(instance_id=name).set(sum(load.running))
    metrics.instance_waiting.labels(instance_id=name).set(sum(load.waiting))
    metrics.snapshot_age_seconds.labels(instance_id=name).set(now_s - load.reported_at_s)
    metrics.instance_prefill_backlog_tokens.labels(instance_id=name).set(
        load.prefill_backlog_tokens
    )
    for kind, tokens in (
        ("physical", load.physical_tokens),
        ("reserved", load.reserved_tokens),
        ("capacity", load.capacity_tokens),
    ):
        metrics.instance_kv_tokens.labels(instance_id=name, kind=kind).set(tokens)


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
