"""Services and selectors of Kubernetes, against a fake API server."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from llumnix.instances.config import InstanceSpec
from llumnix.instances.endpoints.address import BadAddress
from llumnix.instances.sources import kubernetes_api
from llumnix.instances.sources.kubernetes_api import kubernetes_source
from llumnix.instances.sources.kubernetes_objects import places_of_pods, places_of_slices
from llumnix.instances.sources.source import Source, SourceFailed
from tests.llumnix.frontend.stage import until
from tests.llumnix.instances.certificates import Authority
from tests.llumnix.instances.sources.api_server import (
    TOKEN,
    ApiServer,
    api_server,
    endpoint_slice,
    pod,
)
from tests.llumnix.instances.sources.following import following

PODS = "k8s://ml?selector=app%3Dvllm,tier%21%3Dtest"
SERVICE = "k8s://ml/llama"


@pytest.fixture(name="api")
async def _api(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[ApiServer]:
    async with api_server() as server:
        monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
        monkeypatch.setenv("KUBECONFIG", server.kubeconfig(tmp_path))
        monkeypatch.setattr(
            "kubernetes_asyncio.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION",
            server.kubeconfig(tmp_path),
        )
        monkeypatch.setattr(kubernetes_api, "_AGAIN_MIN_S", 0.01)
        yield server


def source(url: str, **more: Any) -> Source:
    return kubernetes_source(InstanceSpec(url, **more), 1.0)


async def test_the_ready_pods_of_a_selector_are_followed(api: ApiServer) -> None:
    api.put(pod("a", "10.0.0.1"), pod("b", "10.0.0.2", ready=False))
    async with following(source(PODS)) as told:
        assert await told.urls() == ["http://10.0.0.1:8000"]
        await until(lambda: api.watchers)
        api.put(pod("b", "10.0.0.2"))
        assert await told.urls() == ["http://10.0.0.1:8000", "http://10.0.0.2:8000"]
        api.put(pod("a", "10.0.0.1", deletionTimestamp="2026-01-01T00:00:00Z"))
        assert await told.urls() == ["http://10.0.0.2:8000"]
        api.delete("b")
        assert await told.urls() == []
    path, asked = api.asked[0]
    assert path == "/api/v1/namespaces/ml/pods"
    assert asked == {"labelSelector": "app=vllm,tier!=test"}
    assert api.asked[1][1]["resourceVersion"] == "3"


async def test_the_ready_endpoints_of_a_service_are_followed(api: ApiServer) -> None:
    api.put(endpoint_slice("llama-x", {"10.0.0.1": True, "10.0.0.2": False, "10.0.0.3": None}))
    async with following(source(SERVICE)) as told:
        assert await told.urls() == ["http://10.0.0.1:8000", "http://10.0.0.3:8000"]
        await until(lambda: api.watchers)
        api.put(endpoint_slice("llama-y", {"fd00::1": True}))
        assert "http://[fd00::1]:8000" in await told.urls()
    path, asked = api.asked[0]
    assert path == "/apis/discovery.k8s.io/v1/namespaces/ml/endpointslices"
    assert asked == {"labelSelector": "kubernetes.io/service-name=llama"}


async def test_servers_behind_tls_answer_to_the_name_of_their_service(api: ApiServer) -> None:
    api.put(endpoint_slice("llama-x", {"10.0.0.1": True}))
    async with following(source("k8s+https://ml/llama", api_key_env="K")) as told:
        assert await told.specs() == (
            InstanceSpec("https://10.0.0.1:8000", api_key_env="K", server_name="llama.ml.svc"),
        )


async def test_a_watch_that_ends_or_is_too_old_is_begun_anew(api: ApiServer) -> None:
    """What changed in between is not missed; what did not is not said again as a change."""
    api.put(pod("a", "10.0.0.1"))
    async with following(source(PODS)) as told:
        assert await told.urls() == ["http://10.0.0.1:8000"]
        for end in (None, {"type": "ERROR", "object": {"code": 410, "message": "too old"}}):
            await until(lambda: api.watchers == 1)
            api.objects["b"] = pod("b", "10.0.0.2")
            api.tell(end)
            assert await told.urls() == ["http://10.0.0.1:8000", "http://10.0.0.2:8000"]


async def test_an_api_server_that_refuses_or_is_gone_changes_nothing(api: ApiServer) -> None:
    api.put(pod("a", "10.0.0.1"))
    async with following(source(PODS)) as told:
        api.status = 403
        assert await told.failure() == "the API server answered 403: you may not list this"
        api.status = 200
        assert await told.urls_at_last() == ["http://10.0.0.1:8000"]
        await until(lambda: api.watchers)
        await api.stop()
        assert "cannot be reached" in await told.failure()


async def test_in_a_cluster_the_service_account_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its token, and the cluster's own authority."""
    authority = Authority.make(tmp_path)
    token = tmp_path / "token"
    token.write_text(TOKEN)
    async with api_server(authority.server_context()) as api:
        api.put(pod("a", "10.0.0.1"))
        within = "kubernetes_asyncio.config.incluster_config"
        monkeypatch.setattr(f"{within}.SERVICE_TOKEN_FILENAME", str(token))
        monkeypatch.setattr(f"{within}.SERVICE_CERT_FILENAME", authority.ca)
        monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
        monkeypatch.setenv("KUBERNETES_SERVICE_PORT", api.url.rpartition(":")[2])
        async with following(source(PODS)) as told:
            assert await told.urls() == ["http://10.0.0.1:8000"]


async def test_without_access_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    monkeypatch.setattr(
        "kubernetes_asyncio.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION",
        str(tmp_path / "none"),
    )
    async with following(source(PODS)) as told:
        assert "no access" in await told.failure()


@pytest.mark.parametrize(
    "url",
    [
        "k8s://ml",
        "k8s://ml/a/b",
        "k8s://ml:80/a",
        "k8s://ml/a?selector=b",
        "k8s://ml?selector=",
        "k8s://ml?label=a",
    ],
)
def test_urls_that_say_too_little_or_too_much_are_refused(url: str) -> None:
    with pytest.raises(BadAddress, match=r"k8s://"):
        source(url)


PORTS = {"metrics": 9, "http": 8000, "grpc": 8001}


@pytest.mark.parametrize(
    ("ports", "wanted", "found"),
    [
        (PORTS, "", 8000),
        (PORTS, "grpc", 8001),
        (PORTS, "9", 9),
        ({"a": 7, "b": 8}, "", 7),
        # The only port there is must be the one that the Service's own number leads to.
        ({"a": 7}, "80", 7),
    ],
)
def test_the_port_of_a_service(ports: dict[str, int], wanted: str, found: int) -> None:
    slices = [endpoint_slice("x", {"10.0.0.1": True}, ports)]
    assert places_of_slices(slices, wanted) == {("10.0.0.1", found)}


def test_ports_that_are_not_there_are_said() -> None:
    with pytest.raises(SourceFailed, match="has no port 80; it has metrics=9, http=8000"):
        places_of_slices([endpoint_slice("x", {"10.0.0.1": True}, PORTS)], "80")
    with pytest.raises(SourceFailed, match="&port="):
        places_of_pods([pod("a", "10.0.0.1")], "grpc")
    bare = {**pod("a", "10.0.0.1"), "spec": {"containers": [{"name": "x"}]}}
    assert places_of_pods([bare], "8000") == {("10.0.0.1", 8000)}
    # One pod of another kind does not keep the others out.
    assert places_of_pods([bare, pod("b", "10.0.0.2")], "") == {("10.0.0.2", 8000)}


@pytest.mark.parametrize("item", [{}, {"metadata": None, "status": None}, {"endpoints": None}])
def test_objects_that_lack_everything_name_no_server(item: dict[str, Any]) -> None:
    assert places_of_pods([item], "") == set()
    assert places_of_slices([item], "") == set()
