"""What each ServiceAccount may ask Kubernetes for, as a real API server judges it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import yaml

from tests.kubernetes.api import render
from tests.kubernetes.conftest import DEPLOY

if TYPE_CHECKING:
    from tests.kubernetes.api import Api

pytestmark = [pytest.mark.kubernetes, pytest.mark.slow]

RIGHTS = {"ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding"}
AGENT = "spire-system:spire-agent"
SERVER = "spire-server:spire-server"
MANAGER = "agentcube-system:workloadmanager"
ROUTER = "agentcube-system:agentcube-router"


@pytest.fixture(scope="module")
def api_with_rights(api: Api) -> Api:
    """Give out the rights that the base gives, for real."""
    documents = yaml.safe_load_all(render(DEPLOY / "base"))
    rights = [d for d in documents if d and d["kind"] in RIGHTS]
    assert rights
    api.apply(yaml.safe_dump_all(rights))
    return api


@pytest.mark.parametrize(
    ("who", "question", "answer"),
    [
        (AGENT, "get nodes --subresource=pods", "yes"),
        # With these it could run commands in any container of its node
        (AGENT, "get nodes --subresource=proxy", "no"),
        (AGENT, "create pods --subresource=exec -A", "no"),
        (AGENT, "get secrets -A", "no"),
        (SERVER, "create tokenreviews.authentication.k8s.io", "yes"),
        (SERVER, "patch configmaps/spire-bundle -n spire-system", "yes"),
        (SERVER, "patch configmaps/spire-agent -n spire-system", "no"),
        # The controller manager does not start without its watches
        (SERVER, "watch pods -A", "yes"),
        (SERVER, "watch endpoints -A", "yes"),
        (SERVER, "watch clusterfederatedtrustdomains.spire.spiffe.io", "yes"),
        (SERVER, "patch clusterspiffeids.spire.spiffe.io --subresource=status", "yes"),
        # Who may write these says who is who
        (SERVER, "create clusterspiffeids.spire.spiffe.io", "no"),
        (SERVER, "update clusterspiffeids.spire.spiffe.io", "no"),
        (SERVER, "get secrets -A", "no"),
        (MANAGER, "create pods -n agentcube-system", "no"),
        (MANAGER, "get secrets -n agentcube-system", "no"),
        (ROUTER, "get pods -n agentcube-system", "no"),
    ],
)
def test_rights_are_the_least(
    api_with_rights: Api, who: str, question: str, answer: str
) -> None:
    """Each has what its work takes and not what would make it somebody else."""
    done = api_with_rights.kubectl(
        "auth", "can-i", *question.split(), f"--as=system:serviceaccount:{who}"
    )

    assert done.stdout.strip() == answer, done.stderr
