"""What can be told of the manifests without a cluster."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from router._settings import Settings as RouterSettings
from serving import SettingsError, read
from workloadmanager._settings import Settings as ManagerSettings

DEPLOY = Path(__file__).parents[2] / "deploy/spire"
FILES = sorted(DEPLOY.rglob("*.yaml"))
SETTINGS: dict[str, type[Any]] = {
    "router": RouterSettings,
    "workloadmanager": ManagerSettings,
}
# Mounting into other pods cannot be done without; see deploy/spire/README.md
PRIVILEGED = {"spiffe-csi-driver"}
ROOT = {"spire-agent", "spiffe-csi-driver", "registrar"}


def documents() -> list[tuple[str, dict[str, Any]]]:
    return [
        (str(file.relative_to(DEPLOY)), document)
        for file in FILES
        for document in yaml.safe_load_all(file.read_text())
        if document
    ]


def pods() -> list[tuple[str, dict[str, Any]]]:
    found = []
    for file, document in documents():
        if document["kind"] in {"Deployment", "StatefulSet", "DaemonSet"}:
            found.append((file, document["spec"]["template"]["spec"]))
    return found


def containers() -> list[Any]:
    return [
        pytest.param(container, id=f"{file}:{container['name']}")
        for file, pod in pods()
        for container in (*pod.get("initContainers", ()), *pod.get("containers", ()))
    ]


def test_every_file_parses_and_says_what_it_is() -> None:
    """Anchors across documents, tabs and such do not survive this."""
    found = documents()

    assert {"base/spire-server.yaml", "mesh/router.yaml"} <= {file for file, _ in found}
    assert all({"apiVersion", "kind"} <= document.keys() for _, document in found)


def test_every_file_is_reached_by_a_kustomization() -> None:
    """No manifest lies around unused."""
    used = {
        (file.parent / entry).resolve()
        for file in DEPLOY.rglob("kustomization.yaml")
        for entry in _entries(yaml.safe_load(file.read_text()))
    }

    assert {f for f in FILES if f.name != "kustomization.yaml"} <= used


def _entries(kustomization: dict[str, Any]) -> list[str]:
    patches = [patch["path"] for patch in kustomization.get("patches", ())]
    return [*kustomization["resources"], *patches]


@pytest.mark.parametrize("container", containers())
def test_a_container_is_hardened(container: dict[str, Any]) -> None:
    """No way to more rights, no capabilities, nothing to write to, a memory limit."""
    context = container["securityContext"]
    name = container["name"]

    assert context["capabilities"] == {"drop": ["ALL"]}
    assert context["readOnlyRootFilesystem"] is True
    if name in PRIVILEGED:
        assert context["privileged"] is True
    else:
        assert context["allowPrivilegeEscalation"] is False
        assert "privileged" not in context
    assert context.get("runAsUser", 1000) != 0 or name in ROOT
    assert "memory" in container["resources"]["limits"]
    assert not container["image"].endswith(":latest")
    assert ":" in container["image"]


@pytest.mark.parametrize(
    "pod", [pytest.param(pod, id=file) for file, pod in pods() if "containers" in pod]
)
def test_a_pod_is_hardened(pod: dict[str, Any]) -> None:
    """System calls are filtered; whoever need not be root cannot be."""
    context = pod.get("securityContext", {})
    names = {container["name"] for container in pod["containers"]}

    assert names <= ROOT or context["runAsNonRoot"] is True
    for container in pod["containers"]:
        merged = context | container["securityContext"]
        assert merged["seccompProfile"] == {"type": "RuntimeDefault"}
    assert not pod.get("hostNetwork")
    assert "hostPID" not in pod or names == {"spire-agent"}


def own() -> list[dict[str, Any]]:
    return [
        container
        for _, pod in pods()
        for container in pod.get("containers", ())
        if container["name"] in SETTINGS
    ]


def told(container: dict[str, Any], *more: str) -> Any:
    name = container["name"]
    return read(SETTINGS[name], [*container["args"], *more], {}, prog=name)


@pytest.mark.parametrize("container", own(), ids=lambda it: it["name"])
def test_flags_are_ours_and_fit_together(container: dict[str, Any]) -> None:
    """The service itself takes every flag and its value, without a fault."""
    assert told(container).enable_mtls is True
    assert container["command"] == [f"cubemesh-{container['name']}"]


@pytest.mark.parametrize("container", own(), ids=lambda it: it["name"])
def test_a_planted_flag_is_refused(container: dict[str, Any]) -> None:
    """The test above can fail."""
    with pytest.raises(SettingsError, match="planted"):
        told(container, "--planted=1")


def test_both_services_are_looked_at() -> None:
    """Renaming a container must not take it out of the tests."""
    assert len(own()) == len(SETTINGS)


def test_services_accept_exactly_each_other() -> None:
    """The IDs in flags are those that the ServiceAccounts are given."""
    flags = {container["name"]: told(container) for container in own()}
    accounts = {pod["serviceAccountName"] for _, pod in pods() if "containers" in pod}
    ours = "spiffe://cluster.local/ns/agentcube-system/sa"

    assert accounts >= {"agentcube-router", "workloadmanager"}
    router, manager = flags["router"], flags["workloadmanager"]
    assert str(router.workloadmanager_id) == f"{ours}/workloadmanager"
    assert str(manager.router_id) == f"{ours}/agentcube-router"


def test_the_mesh_denies_by_default() -> None:
    """A policy without exceptions selects all pods, both ways."""
    policies = [d for _, d in documents() if d["kind"] == "NetworkPolicy"]
    mesh = [p for p in policies if p["metadata"]["namespace"] == "agentcube-system"]

    assert {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]} in [
        policy["spec"] for policy in mesh
    ]


def test_cert_manager_brings_no_part_of_spire() -> None:
    """The overlay stands on the mesh alone."""
    overlay = DEPLOY / "overlays/cert-manager"
    text = "".join(file.read_text() for file in sorted(overlay.glob("*-identity.yaml")))

    assert "csi.spiffe.io" not in text
    kustomization = yaml.safe_load((overlay / "kustomization.yaml").read_text())
    assert kustomization["resources"] == ["../../mesh", "rbac.yaml"]
