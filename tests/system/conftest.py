from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.system.mesh import up

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.system.mesh import Up


@pytest.fixture(scope="module", params=["mtls", "jwt"])
def mesh(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Up]:
    folder = tmp_path_factory.mktemp(request.param)
    with up(folder, "--picod-auth-mode", request.param) as mesh:
        yield mesh


@pytest.fixture(scope="module")
def mtls(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    with up(tmp_path_factory.mktemp("mtls")) as mesh:
        yield mesh
