"""Read which servers are ready from objects of the Kubernetes API. Pure."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from llumnix.instances.sources.source import SourceFailed

Item = Mapping[str, Any]
Place = tuple[str, int]
"""An IP address and a port."""


def places_of_slices(slices: Iterable[Item], port: str) -> set[Place]:
    """Return where the ready endpoints of a Service listen, from its EndpointSlices.

    `port` is the name or number of one of its ports; empty, the one named `http`, else the first.
    Raises SourceFailed if there is no such port.
    """
    found: set[Place] = set()
    for each in slices:
        ready = list(_ready_addresses(each))
        if ready:
            number = _slice_port(each.get("ports") or (), port)
            found |= {(address, number) for address in ready}
    return found


def _ready_addresses(each: Item) -> Iterator[str]:
    for endpoint in each.get("endpoints") or ():
        conditions = endpoint.get("conditions") or {}
        # Not set means ready, as the API says.
        if conditions.get("ready") is not False and not conditions.get("terminating"):
            yield from (endpoint.get("addresses") or ())[:1]


def _slice_port(ports: Iterable[Item], wanted: str) -> int:
    known = [each for each in ports if each.get("port")]
    for each in known:
        if wanted and wanted in (each.get("name"), str(each["port"])):
            return int(each["port"])
    if wanted and len(known) != 1:
        names = ", ".join(f"{each.get('name') or '?'}={each['port']}" for each in known)
        raise SourceFailed(f"its Service has no port {wanted}; it has {names or 'none'}")
    # With one port only, a number may be the Service's own, which leads to this one.
    named = [each for each in known if each.get("name") == "http"]
    if not known:
        raise SourceFailed("its Service has no port")
    return int((named or known)[0]["port"])


def places_of_pods(pods: Iterable[Item], port: str) -> set[Place]:
    """Return where the ready pods listen, on the port given by number or by its container's name.

    Empty, it is the one named `http`, else the first. Pods that have none are
    left out; raises SourceFailed if that is all of them.
    """
    found: set[Place] = set()
    without: list[str] = []
    for pod in pods:
        address = (pod.get("status") or {}).get("podIP")
        if not address or not _is_ready(pod):
            continue
        number = _pod_port(pod, port)
        if number is None:
            without.append(str((pod.get("metadata") or {}).get("name")))
        else:
            found.add((address, number))
    if without and not found:
        raise SourceFailed(f"pod {without[0]} has no port {port}".rstrip() + "; give &port=NUMBER")
    return found


def _is_ready(pod: Item) -> bool:
    if (pod.get("metadata") or {}).get("deletionTimestamp"):
        return False
    conditions = (pod.get("status") or {}).get("conditions") or ()
    return any(each.get("type") == "Ready" and each.get("status") == "True" for each in conditions)


def _pod_port(pod: Item, wanted: str) -> int | None:
    if wanted.isdecimal():
        return int(wanted)
    containers = (pod.get("spec") or {}).get("containers") or ()
    ports = [each for container in containers for each in container.get("ports") or ()]
    for name in (wanted, *(() if wanted else ("http",))):
        for each in ports:
            if name and each.get("name") == name:
                return int(each["containerPort"])
    return int(ports[0]["containerPort"]) if ports and not wanted else None
