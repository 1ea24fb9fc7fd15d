"""The ready pods of a Kubernetes Service, or of a label selector: listed, then watched."""

import asyncio
import json
import os
from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import aclosing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp

from llumnix.errors import ConfigError
from llumnix.instances.config import InstanceSpec
from llumnix.instances.endpoints.address import BadAddress
from llumnix.instances.sources.kubernetes_objects import (
    Item,
    Place,
    places_of_pods,
    places_of_slices,
)
from llumnix.instances.sources.source import Listing, SourceFailed
from llumnix.instances.sources.url import SourceUrl

if TYPE_CHECKING:
    from kubernetes_asyncio.client import ApiClient

_RESYNC_S = 300
"""After this long everything is listed again, as informers do: a watch may miss something."""
_ANSWER_TIMEOUT_S = 15.0
_GRACE_S = 30.0
_AGAIN_MIN_S, _AGAIN_MAX_S = 1.0, 30.0
_NAMESPACE_FILE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
_FORM = "k8s://NAMESPACE/SERVICE[:PORT] or k8s://NAMESPACE?selector=app=vllm[&port=8000]"


@dataclass(frozen=True, slots=True)
class Query:
    """What is asked of the API server, and how its objects are read."""

    path: str
    selector: str
    read: Callable[[Iterable[Item], str], set[Place]]
    port: str
    server_name: str = ""


def query_of(url: SourceUrl) -> Query:
    """Return what a URL asks for. Raises BadAddress."""
    namespace = url.host or _own_namespace()
    service, _, port = url.path.strip("/").partition(":")
    selector = url.query.get("selector", "")
    port = port or url.query.get("port", "")
    if bool(service) == bool(selector) or "/" in service or url.port is not None:
        raise BadAddress(f"{url.spec.url!r} must be {_FORM}")
    if selector:
        return Query(f"/api/v1/namespaces/{namespace}/pods", selector, places_of_pods, port)
    path = f"/apis/discovery.k8s.io/v1/namespaces/{namespace}/endpointslices"
    name = f"{service}.{namespace}.svc"
    return Query(path, f"kubernetes.io/service-name={service}", places_of_slices, port, name)


def _own_namespace() -> str:
    return _NAMESPACE_FILE.read_text().strip() if _NAMESPACE_FILE.exists() else "default"


def kubernetes_source(spec: InstanceSpec, _interval_s: float) -> "KubernetesSource":
    """Follow a Service or a selector. Raises BadAddress, or ConfigError without the library."""
    url = SourceUrl.parse(spec, options=("selector", "port"))
    try:
        import kubernetes_asyncio.client  # noqa: F401 - only whether it is there
    except ImportError as error:
        raise ConfigError(
            "k8s:// needs kubernetes_asyncio: pip install 'llumnix-scheduler[kubernetes]'"
        ) from error
    return KubernetesSource(url, query_of(url))


@dataclass(slots=True)
class KubernetesSource:
    """Follows one query; in a cluster as its pod's service account, else as kubectl is set up."""

    url: SourceUrl
    query: Query
    _items: dict[str, Item] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Return its URL."""
        return self.url.spec.url

    async def listings(self) -> AsyncGenerator[Listing | SourceFailed, None]:
        """See Source."""
        again_s = _AGAIN_MIN_S
        client = None
        try:
            while True:
                try:
                    client = client or await _connect()
                    async with aclosing(self._follow(client)) as listings:
                        async for listing in listings:
                            again_s = _AGAIN_MIN_S
                            yield listing
                except (aiohttp.ClientError, OSError, ValueError, SourceFailed) as error:
                    yield error if isinstance(error, SourceFailed) else SourceFailed(_told(error))
                    await asyncio.sleep(again_s)
                    again_s = min(2 * again_s, _AGAIN_MAX_S)
        finally:
            if client is not None:
                await client.close()

    async def _follow(self, client: "ApiClient") -> AsyncGenerator[Listing, None]:
        """List everything, then follow its changes until it is time to list again."""
        async with asyncio.timeout(_ANSWER_TIMEOUT_S):
            listed = json.loads(await (await self._get(client)).read())
        self._items = {_key(each): each for each in listed.get("items") or ()}
        last = self._listing()
        yield last
        version = (listed.get("metadata") or {}).get("resourceVersion", "")
        response = await self._get(
            client, watch="true", resourceVersion=version, timeoutSeconds=str(_RESYNC_S)
        )
        try:
            async for line in response.content:
                if not self._apply(json.loads(line)):
                    return
                found = self._listing()
                if found != last:
                    last = found
                    yield found
        finally:
            response.close()

    async def _get(self, client: "ApiClient", **options: str) -> aiohttp.ClientResponse:
        query = {"labelSelector": self.query.selector, **options}
        async with asyncio.timeout(_ANSWER_TIMEOUT_S):
            response: aiohttp.ClientResponse = await client.call_api(
                self.query.path,
                "GET",
                query_params=list(query.items()),
                header_params={"Accept": "application/json"},
                auth_settings=["BearerToken"],
                _preload_content=False,
                _return_http_data_only=True,
                _request_timeout=aiohttp.ClientTimeout(total=None, sock_read=_RESYNC_S + _GRACE_S),
            )
        if response.status != 200:
            text = (await response.read()).decode(errors="replace")
            response.close()
            raise SourceFailed(f"the API server answered {response.status}: {_message(text)}")
        return response

    def _apply(self, event: Item) -> bool:
        """Take in a change; return False where everything must be listed again."""
        kind, item = event.get("type"), event.get("object") or {}
        if kind == "ERROR":  # usually: too old to be continued
            return False
        if kind == "DELETED":
            self._items.pop(_key(item), None)
        elif kind in ("ADDED", "MODIFIED"):
            self._items[_key(item)] = item
        return True

    def _listing(self) -> Listing:
        places = sorted(self.query.read(self._items.values(), self.query.port))
        name = self.query.server_name
        return tuple(self.url.server(host, port, server_name=name) for host, port in places)


async def _connect() -> "ApiClient":
    from kubernetes_asyncio import client, config

    configuration = client.Configuration()
    try:
        if "KUBERNETES_SERVICE_HOST" in os.environ:
            config.load_incluster_config(client_configuration=configuration)  # type: ignore[no-untyped-call]
        else:
            await config.load_kube_config(client_configuration=configuration)
    except config.ConfigException as error:
        raise SourceFailed(f"there is no access to a Kubernetes API server: {error}") from error
    return client.ApiClient(configuration)


def _key(item: Item) -> str:
    metadata: Any = item.get("metadata") or {}
    return str(metadata.get("uid") or metadata.get("name"))


def _message(text: str) -> str:
    try:
        return str(json.loads(text)["message"])
    except (ValueError, KeyError, TypeError):
        return " ".join(text.split())[:200]


def _told(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "the API server does not answer"
    if isinstance(error, aiohttp.ClientError | OSError):
        return f"the API server cannot be reached: {error}"
    return f"the API server's answer is not understood: {error}"
