"""The manifests for Kubernetes: valid by the published schemas, and true of this version."""

import dataclasses
import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from llumnix.cli import parser
from llumnix.commands.serve import settings
from llumnix.commands.vllm import transfer_config
from llumnix.config import Config
from llumnix.metrics.catalogue import CATALOGUE
from migration.vllm.settings import PluginSettings
from tests.deploy.parts import KUBERNETES, MANIFESTS, objects, one, pod_of

CUSTOM = ("PodMonitor", "ScaledObject")
OLDEST, NEWEST = "1.29", "1.33"
OBJECTS = {f"{each['kind']}/{each['metadata']['name']}": each for _, each in objects()}
BUILT_IN = [name for name, each in OBJECTS.items() if each["kind"] not in CUSTOM]


@pytest.mark.parametrize("version", [OLDEST, NEWEST])
@pytest.mark.parametrize("name", BUILT_IN)
def test_objects_are_valid_by_the_schemas_of_kubernetes(name: str, version: str) -> None:
    """Strictly: a field that the schema does not know is an error."""
    kubernetes_validate.validate(OBJECTS[name], version, strict=True)


VALIDATE = """
const [,, folder, kind] = process.argv;
const name = {PodMonitor: "prometheus-operator", ScaledObject: "keda"}[kind];
const schema = {
  PodMonitor: "ComGithubPrometheusOperatorPrometheusOperatorPkgApisMonitoringV1PodMonitor",
  ScaledObject: "ComGithubKedacoreKedaV2ApisKedaV1alpha1ScaledObject",
}[kind];
const path = `${folder}/node_modules/@kubernetes-models/${name}/_schemas/${schema}`;
const read = await import(`${path}.js`);
const validate = read.validate ?? read.default.validate;
let text = "";
for await (const part of process.stdin) text += part;
if (!validate(JSON.parse(text))) { console.log(JSON.stringify(validate.errors)); process.exit(1); }
"""


@pytest.mark.parametrize("name", sorted(set(OBJECTS) - set(BUILT_IN)))
def test_custom_resources_are_valid_by_their_published_definitions(
    name: str, tmp_path: Path
) -> None:
    """By validators generated from the operators' definitions; `.ci/run` installs them."""
    folder = os.environ.get("LLUMNIX_CRD_VALIDATORS", "")
    if not folder or shutil.which("node") is None:
        assert not os.environ.get("LLUMNIX_REQUIRE_CRD_VALIDATORS"), "they were to be installed"
        pytest.skip("LLUMNIX_CRD_VALIDATORS names no folder with validators (.ci/run)")
    each, script = OBJECTS[name], tmp_path / "validate.mjs"
    script.write_text(VALIDATE)

    def errors(thing: dict[str, Any]) -> str:
        told = subprocess.run(
            ["node", str(script), folder, each["kind"]],
            input=json.dumps(thing),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert told.stderr == ""
        return told.stdout if told.returncode else ""

    assert errors(each) == ""
    assert errors({**each, "spec": {}}) != ""


def test_every_manifest_is_put_together_or_optional() -> None:
    named = yaml.safe_load((KUBERNETES / "kustomization.yaml").read_text())["resources"]
    plain = {path.name for path in MANIFESTS if path.parent == KUBERNETES}
    text = (KUBERNETES / "kustomization.yaml").read_text()

    assert set(named) == plain
    for path in MANIFESTS:
        assert path.name in text


def frontend_settings(tmp_path: Path) -> Config:
    """Read the frontend's settings, as its container would: its flags, and its YAML."""
    file = tmp_path / "llumnix.yaml"
    file.write_text(one("ConfigMap", "llumnix")["data"]["llumnix.yaml"])
    (container,) = pod_of(one("Deployment", "llumnix"))["containers"]
    words = [
        str(file) if word == "/etc/llumnix/llumnix.yaml" else word for word in container["args"]
    ]
    return settings(parser("serve").parse_args(words))


def test_the_frontends_flags_and_settings_are_ours(tmp_path: Path) -> None:
    config = frontend_settings(tmp_path)
    (container,) = pod_of(one("Deployment", "llumnix"))["containers"]

    assert config.frontend.port == container["ports"][0]["containerPort"]
    (instance,) = config.fleet.instances
    _, _, namespace, service = re.split(r"[:/]+", instance.url.replace("k8s://", "k8s:x/"))[:4]
    assert (namespace, service) == ("llumnix", one("Service", "vllm")["metadata"]["name"])
    assert instance.url.endswith(":" + one("Service", "vllm")["spec"]["ports"][0]["name"])


def test_a_pod_has_the_time_that_its_streams_have(tmp_path: Path) -> None:
    frontend = frontend_settings(tmp_path).frontend
    pod = pod_of(one("Deployment", "llumnix"))
    readiness = pod["containers"][0]["readinessProbe"]
    notice_s = readiness["periodSeconds"] * readiness["failureThreshold"]

    assert pod["terminationGracePeriodSeconds"] > (
        frontend.drain_delay_s + frontend.shutdown_grace_s
    )
    assert frontend.drain_delay_s > notice_s


def test_probes_ask_what_they_mean() -> None:
    (container,) = pod_of(one("Deployment", "llumnix"))["containers"]
    asked = {
        name: container[f"{name}Probe"]["httpGet"]["path"]
        for name in ("startup", "liveness", "readiness")
    }
    assert asked == {"startup": "/health", "liveness": "/health", "readiness": "/ready"}


def test_the_frontend_runs_without_rights() -> None:
    pod = pod_of(one("Deployment", "llumnix"))
    (container,) = pod["containers"]

    assert pod["securityContext"]["runAsNonRoot"] is True
    assert "runAsUser" not in pod["securityContext"]  # any will do, also one the cluster chooses
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    verbs = {verb for rule in one("Role", "llumnix")["rules"] for verb in rule["verbs"]}
    assert verbs == {"get", "list", "watch"}


def test_vllm_is_started_with_the_plugin_as_it_takes_it() -> None:
    pod = pod_of(one("StatefulSet", "vllm"))
    (container,) = pod["containers"]
    args = parser("vllm").parse_args(["vllm", *container["args"]])
    given = {
        item.name: getattr(args, item.name)
        for item in dataclasses.fields(PluginSettings)
        if getattr(args, item.name, None) is not None
    }
    extra = transfer_config(None, given)["kv_connector_extra_config"]
    ports = {each["name"]: each["containerPort"] for each in container["ports"]}
    (waits_s,) = (int(each) for each in container["lifecycle"]["preStop"]["exec"]["command"][1:])

    assert extra["control_port"] == ports["control"]
    assert f"--port={ports['http']}" in args.arguments
    assert pod["terminationGracePeriodSeconds"] > waits_s


def test_secrets_are_named_alike_and_nowhere_written_down(tmp_path: Path) -> None:
    config = frontend_settings(tmp_path)
    paths = [config.fleet.secret_file, config.frontend.admin_token_file]
    mounted = [
        mount["mountPath"]
        for kind, name in (("Deployment", "llumnix"), ("StatefulSet", "vllm"))
        for mount in pod_of(one(kind, name))["containers"][0]["volumeMounts"]
        if mount["name"] == "secrets"
    ]

    assert {str(Path(path).parent) for path in paths} == set(mounted)
    assert [each for each in OBJECTS if each.startswith("Secret/")] == []


def test_what_scales_the_fleet_asks_for_metrics_that_exist() -> None:
    known = {series for metric in CATALOGUE for series in metric.series()}
    triggers = one("ScaledObject", "vllm")["spec"]["triggers"]
    asked = set(re.findall(r"llumnix_\w+", " ".join(one["metadata"]["query"] for one in triggers)))

    assert asked
    assert asked <= known


def test_no_engine_is_reached_but_by_the_fleet_and_prometheus() -> None:
    rules = one("NetworkPolicy", "vllm")["spec"]["ingress"]
    assert all(rule.get("from") and rule.get("ports") for rule in rules)
    for each in rules:
        if {"protocol": "TCP", "port": "control"} in each["ports"]:
            (peer,) = each["from"]
            assert set(peer) == {"podSelector"}
