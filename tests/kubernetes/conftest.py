from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.kubernetes.api import Api, need, render, running_api

if TYPE_CHECKING:
    from collections.abc import Iterator

DEPLOY = Path(__file__).parents[2] / "deploy/spire"
CRDS = Path(__file__).parent / "crds"


@pytest.fixture(scope="session")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    """Run a Kubernetes API that knows our definitions and the mesh's namespaces."""
    need("etcd", "kube-apiserver", "kubectl")
    with running_api(tmp_path_factory.mktemp("kube")) as running:
        running.apply(
            "\n---\n".join(p.read_text() for p in sorted(CRDS.glob("*.yaml")))
        )
        established = running.kubectl(
            "wait", "--for=condition=Established", "--timeout=30s", "crd", "--all"
        )
        assert established.returncode == 0, established.stderr
        for namespaces in ("base/namespaces.yaml", "mesh/namespace.yaml"):
            running.apply((DEPLOY / namespaces).read_text())
        yield running


@pytest.fixture(scope="session", params=["base", "overlays/cert-manager"])
def rendered(request: pytest.FixtureRequest, api: Api) -> str:
    """Render each way to deploy, as ``kubectl kustomize`` does."""
    assert api
    return render(DEPLOY / str(request.param))
