"""PicoD in jwt mode: a token for this sandbox and session, or nothing."""

from __future__ import annotations

import asyncio
import json
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from auth import Principal, Signer, SigningKeys
from clock import SYSTEM
from cubemesh.v1 import picod_pb2
from tests.fakes import FakeClock
from tests.picod.process import ADA, SANDBOX, SESSION, PicoD, denied, stat

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.slow

UNAUTHENTICATED = ("UNAUTHENTICATED", "denied")
DENIED = ("PERMISSION_DENIED", "denied")
OTHER_SANDBOX, OTHER_SESSION = "sbx-" + "c" * 26, "ses-" + "c" * 26


class Router:
    """Signs as the Router does."""

    def __init__(self, keys: SigningKeys) -> None:
        self._keys = keys

    @classmethod
    def of(cls, folder: Path) -> Router:
        private, public = folder / "private.json", folder / "public.json"
        return cls(asyncio.run(SigningKeys.load(private, public, create=True)))

    def token(
        self,
        session_id: str = SESSION,
        sandbox_id: str = SANDBOX,
        *,
        caller: Principal = ADA,
        late: float = 0,
    ) -> str:
        clock = FakeClock(SYSTEM.now() + timedelta(seconds=late))
        return Signer(self._keys, clock=clock).token(session_id, sandbox_id, caller)


def shown(*tokens: str) -> tuple[tuple[str, str], ...]:
    return tuple(("authorization", f"Bearer {token}") for token in tokens)


@pytest.fixture(scope="module")
def router_and_picod() -> Iterator[tuple[Router, PicoD]]:
    picod = PicoD("jwt")
    router = Router.of(picod.folder)
    with picod:
        asyncio.run(picod.bind())
        yield router, picod


async def test_serves_the_bearer_of_a_good_token(
    router_and_picod: tuple[Router, PicoD],
) -> None:
    """The token of this session at this sandbox runs commands."""
    router, picod = router_and_picod
    async with picod.plain() as stub:
        call = stub.Execute(
            picod_pb2.ExecuteRequest(argv=["sh", "-c", "echo $TOLD"]),
            metadata=shown(router.token()),
        )
        events = [event async for each in call for event in each.events]
        assert b"at bind\n" in [event.output.data for event in events]


async def test_refuses_every_other_token(
    router_and_picod: tuple[Router, PicoD], tmp_path: Path
) -> None:
    """Another sandbox's, session's, key's or time's token gets nothing but "denied"."""
    router, picod = router_and_picod
    good = router.token()
    header, payload, signature = good.split(".")
    wrong = {
        "wrong_audience": router.token(sandbox_id=OTHER_SANDBOX),
        "wrong_session": router.token(OTHER_SESSION),
        "expired": router.token(late=-400),
        "issued_in_the_future": router.token(late=400),
        "bad_signature": f"{header}.{payload}.{'A' * len(signature)}",
    }
    stranger = await asyncio.to_thread(Router.of, tmp_path)
    wrong["unknown_key"] = stranger.token()
    wrong["malformed"] = "x.y"
    async with picod.plain() as stub:
        for reason, token in wrong.items():
            assert await denied(stub.Stat(stat(), metadata=shown(token))) == DENIED
            assert picod.records("call refused")[-1]["reason"] == reason
        await stub.Stat(stat(), metadata=shown(good))


async def test_refuses_who_shows_none_or_two(
    router_and_picod: tuple[Router, PicoD],
) -> None:
    """There is no way in without a token, and none that leaves a choice."""
    router, picod = router_and_picod
    good = router.token()
    async with picod.plain() as stub:
        assert await denied(stub.Stat(stat())) == UNAUTHENTICATED
        call = stub.Stat(stat(), metadata=shown(good, good))
        assert await denied(call) == DENIED
        later = stub.RunCode(picod_pb2.RunCodeRequest())
        assert await denied(later) == UNAUTHENTICATED


async def test_no_token_is_ever_logged(router_and_picod: tuple[Router, PicoD]) -> None:
    """Neither a refused nor an accepted token is in the log."""
    router, picod = router_and_picod
    good, bad = router.token(), router.token(OTHER_SESSION)
    async with picod.plain() as stub:
        await stub.Stat(stat(), metadata=shown(good))
        await denied(stub.Stat(stat(), metadata=shown(bad)))
    log = picod.log.read_text()
    assert not any(part in log for token in (good, bad) for part in token.split("."))


async def test_a_token_does_not_replace_the_binding() -> None:
    """Before it is bound a sandbox serves no token's bearer."""
    picod = PicoD("jwt")
    router = await asyncio.to_thread(Router.of, picod.folder)
    with picod:
        async with picod.plain() as stub:
            call = stub.Stat(stat(), metadata=shown(router.token()))
            assert (await denied(call))[0] == "FAILED_PRECONDITION"


async def test_shows_no_identity(router_and_picod: tuple[Router, PicoD]) -> None:
    """Nothing is proven in this mode, and nothing can be handed over."""
    _, picod = router_and_picod
    renewal = picod_pb2.RenewRequest()
    async with picod.controlled() as control:
        status = await control.Status(picod_pb2.StatusRequest())
        assert not status.HasField("identity")
        assert (await denied(control.Renew(renewal)))[0] == "FAILED_PRECONDITION"


async def test_follows_the_published_keys() -> None:
    """A key that is withdrawn opens nothing any more, without a restart."""
    picod = PicoD("jwt")
    router = await asyncio.to_thread(Router.of, picod.folder)
    with picod:
        await picod.bind()
        async with picod.plain() as stub:
            await stub.Stat(stat(), metadata=shown(router.token()))
            other = await asyncio.to_thread(Router.of, _new(picod.folder / "other"))
            fresh = (picod.folder / "other" / "public.json").read_bytes()
            assert json.loads(fresh)["keys"]
            (picod.folder / "next").write_bytes(fresh)
            (picod.folder / "next").replace(picod.folder / "public.json")
            await picod.logged("public keys changed")
            assert await denied(stub.Stat(stat(), metadata=shown(router.token()))) == (
                DENIED
            )
            await stub.Stat(stat(), metadata=shown(other.token()))


def _new(folder: Path) -> Path:
    folder.mkdir()
    return folder
