"""A real API server takes our manifests, to the last field."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import yaml

if TYPE_CHECKING:
    from tests.kubernetes.api import Api

pytestmark = [pytest.mark.kubernetes, pytest.mark.slow]


def test_everything_is_accepted(api: Api, rendered: str) -> None:
    """Each object passes validation and admission, and Pod Security warns of none."""
    done = api.judge(rendered)

    assert done.returncode == 0, done.stderr
    assert "Warning" not in done.stderr
    named = [line for line in done.stdout.splitlines() if "(server dry run)" in line]
    assert len(named) == len([d for d in yaml.safe_load_all(rendered) if d])


@pytest.mark.parametrize("kind", ["Deployment", "ClusterSPIFFEID"])
def test_an_unknown_field_is_refused(api: Api, rendered: str, kind: str) -> None:
    """The judge is strict, for built-in kinds and for our own definitions."""
    found = [d for d in yaml.safe_load_all(rendered) if d and d["kind"] == kind]
    if not found:
        assert kind == "ClusterSPIFFEID", "only the overlay without SPIRE has none"
        return
    found[0]["spec"]["plantedByTheTest"] = True

    done = api.judge(yaml.safe_dump(found[0]))

    assert done.returncode != 0
    assert "plantedByTheTest" in done.stderr


def test_a_wrong_type_is_refused(api: Api) -> None:
    """Our definitions know types, not names alone."""
    spec = {"spiffeIDTemplate": "spiffe://x/y", "dnsNameTemplates": "not-a-list"}
    bad = {
        "apiVersion": "spire.spiffe.io/v1alpha1",
        "kind": "ClusterSPIFFEID",
        "metadata": {"name": "bad"},
        "spec": spec,
    }

    done = api.judge(yaml.safe_dump(bad))

    assert done.returncode != 0
    assert "dnsNameTemplates" in done.stderr


def test_a_soft_container_is_noticed(api: Api, rendered: str) -> None:
    """Pod Security is at work: an own pod that may gain rights is warned of."""
    deployment = next(
        d for d in yaml.safe_load_all(rendered) if d and d["kind"] == "Deployment"
    )
    container = deployment["spec"]["template"]["spec"]["containers"][0]
    container["securityContext"]["allowPrivilegeEscalation"] = True

    done = api.judge(yaml.safe_dump(deployment))

    assert "would violate PodSecurity" in done.stderr
