"""The sources there are, by the scheme of their URL."""

from collections.abc import Callable

from llumnix.instances.config import InstanceSpec
from llumnix.instances.sources.dns_names import address_source, srv_source
from llumnix.instances.sources.kubernetes_api import kubernetes_source
from llumnix.instances.sources.source import Source

Maker = Callable[[InstanceSpec, float], Source]

_MAKERS: dict[str, Maker] = {
    "dns": address_source,
    "srv": srv_source,
    "k8s": kubernetes_source,
}


def make_source(spec: InstanceSpec, interval_s: float) -> Source:
    """Return the source that a spec names; one that must be asked is asked at this interval.

    Raises BadAddress for a URL that it does not understand, ConfigError for a library that is not
    installed.
    """
    return _MAKERS[spec.source.removesuffix("+https")](spec, interval_s)
