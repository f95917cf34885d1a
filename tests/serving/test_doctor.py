"""The doctor: what it says of identities and of servers, and what to do."""

from __future__ import annotations

import asyncio
import io
import json
import os
import ssl
import subprocess
import sys
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from serving import SettingsError, read
from serving.doctor import _target
from serving.doctor.__main__ import examine, report
from serving.doctor._remedies import remedy
from serving.doctor._settings import Settings
from tests.forge import Forge
from tests.tlsloader.agent import Agent, offered
from tests.tlsloader.matrix import PARTNER, Shown, context_of
from tests.tlsloader.posing import Ear, hang_up, posing
from tests.tlsloader.transport import PICOD, ROUTER, STRANGER, hosted, until
from tlsloader.probe import Address

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from serving.doctor._check import Check
    from tlsloader import Paths

FORGE = Forge()
OF_OTHERS = Forge("partner.test")
BAD = list(FORGE.bad_cases(PICOD))


def told(paths: Paths, *more: str) -> Settings:
    files = (
        *("--mtls-cert-file", str(paths.chain)),
        *("--mtls-key-file", str(paths.key)),
        *("--mtls-ca-file", str(paths.bundle)),
    )
    return read(Settings, (*files, "--timeout", "20s", *more), {}, "doctor")


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    return FORGE.write(tmp_path / "router", ROUTER)


async def found(settings: Settings) -> dict[str, Check]:
    """Return each check by the first word of its name."""
    return {each.name.split()[0]: each async for each in examine(settings)}


async def failure(settings: Settings) -> Check:
    """Return the one check that failed, which must have a hint of the page."""
    (failed,) = [each async for each in examine(settings) if each.is_failed]
    assert failed.hint == remedy(failed.reason) != ""
    assert "\n" not in failed.detail
    return failed


@asynccontextmanager
async def serving(speak: Any, context: ssl.SSLContext | None) -> AsyncIterator[str]:
    server = await asyncio.start_server(speak, "127.0.0.1", 0, ssl=context)
    try:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()


async def test_all_is_well(tmp_path: Path) -> None:
    """A good identity and a server that takes it: every step, in sentences."""
    forge = Forge()  # whose identities are new, however long the tests have run
    paths = forge.write(tmp_path / "router", ROUTER)
    async with hosted(forge.source(PICOD)) as node:
        checks = await found(told(paths, "--target", node.address, "--expect", PICOD))
    assert {each.state for each in checks.values()} == {"ok"}
    leaf = forge.material(ROUTER)
    assert ROUTER in checks["identity"].detail
    assert str(paths.chain) in checks["identity"].detail
    assert "ECDSA secp256r1" in checks["certificate"].detail
    assert "59 minutes or 98%" in checks["validity"].detail
    assert "0600" in checks["key"].detail
    fingerprint = leaf.bundles["cluster.local"].short_fingerprint
    assert fingerprint in checks["bundle"].detail
    assert "TLSv1.3, TLS_" in checks["TLS"].detail
    assert f"presents {PICOD}" in checks["server"].detail
    assert ROUTER in checks["admission"].detail


async def test_anybody_of_our_own_trust_domain_is_expected(paths: Paths) -> None:
    """Unless somebody is named; then nobody else is taken."""
    async with hosted(FORGE.source(PICOD)) as node:
        assert (await found(told(paths, "--target", node.address)))[
            "admission"
        ].hint == ""
        failed = await failure(
            told(paths, "--target", node.address, "--expect", STRANGER)
        )
    assert failed.reason == "not_admitted"
    assert failed.detail == f"server is {PICOD}, expected {STRANGER}"


@pytest.mark.slow
@pytest.mark.parametrize("case", BAD, ids=lambda case: str(case.title))
async def test_every_bad_server_has_its_own_reason(case: Any, paths: Paths) -> None:
    """More exact than OpenSSL, which has one word for most of them."""
    async with posing(case.chain, Ear()) as address:
        failed = await failure(told(paths, "--target", address, "--expect", PICOD))
    assert (failed.name, failed.reason) == (f"server at {address}", case.reason)


async def test_a_server_without_a_spiffe_id_is_told_by_its_dns_names(
    paths: Paths,
) -> None:
    """So one sees whose certificate it is."""
    web = FORGE.svid(PICOD, uris=(), dns=("www.web.test",))
    async with posing(web, Ear()) as address:
        failed = await failure(told(paths, "--target", address))
    assert failed.reason == "no_uri"
    assert failed.detail.endswith("no SPIFFE ID, but the DNS names www.web.test")


@pytest.mark.parametrize(
    ("shown", "version", "reason"),
    [
        (Shown("no TLS", "", None, tls=False), "", "not_tls"),
        (Shown("1.2", "", FORGE.svid(PICOD)), "1.2", "tls_version"),
        (Shown("web", "", FORGE.svid(PICOD), alpn="http/1.1"), "", "no_http2"),
    ],
)
async def test_who_speaks_otherwise_fails_at_tls(
    shown: Shown, version: str, reason: str, paths: Paths
) -> None:
    """Whoever it is: it cannot be talked to."""
    context = context_of(ssl.PROTOCOL_TLS_SERVER, shown, version)
    async with serving(Ear(b"220 hello\r\n"), context) as address:
        failed = await failure(told(paths, "--target", address))
    assert (failed.name, failed.reason) == (f"TLS at {address}", reason)


@pytest.mark.parametrize("careless", [True, False])
async def test_a_server_that_refuses_us_is_said_so(
    careless: bool,  # noqa: FBT001
    paths: Paths,
) -> None:
    """TLS 1.3 lets our handshake succeed; the end comes after it."""
    refusing: Any = (
        posing(FORGE.svid(PICOD), hang_up)
        if careless
        else hosted(FORGE.source(PICOD), allow=STRANGER)
    )
    async with refusing as node:
        address = node if careless else node.address
        settings = told(paths, "--target", address)
        checks = await found(settings)
        failed = await failure(settings)
    assert failed.name == f"admission at {address}"
    assert failed.reason == "closed_after_handshake"
    assert f"the server {PICOD} closed" in failed.detail
    assert checks["server"].state == "ok"


async def test_what_cannot_be_reached(paths: Paths, tmp_path: Path) -> None:
    """A port where nobody is, a socket that is not there, a name that leads nowhere."""
    for target, step in (
        ("127.0.0.1:1", "connection"),
        (f"unix:{tmp_path}/none.sock", "connection"),
        ("nowhere.invalid:443", "address"),
    ):
        failed = await failure(told(paths, "--target", target))
        assert (failed.name.split()[0], failed.reason) == (step, "unreachable")


@pytest.mark.slow
async def test_a_silent_server_costs_no_more_than_the_time_there_is(
    paths: Paths,
) -> None:
    """Everything has the deadline of the whole."""

    async def listen(
        reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        await reader.read()
        writer.transport.abort()

    loop = asyncio.get_running_loop()
    async with serving(listen, None) as address:
        begin = loop.time()
        failed = await failure(told(paths, "--target", address, "--timeout", "1s"))
        assert loop.time() - begin < 5
    assert (failed.name, failed.reason) == (f"TLS at {address}", "timeout")


async def test_one_good_address_is_enough(
    paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A dialer takes the first that is proven: the others are told as warnings."""
    async with hosted(FORGE.source(PICOD)) as node:
        good = Address.parse(node.address)

        async def resolve(_: object) -> list[Address]:
            return [replace(good, port=1), good]

        monkeypatch.setattr(_target, "resolve", resolve)
        settings = told(paths, "--target", node.address)
        checks = [each async for each in examine(settings)]
        status = await report(settings, io.StringIO())
    states = {each.name: each.state for each in checks}
    assert states["connection at 127.0.0.1:1"] == "warning"
    assert states[f"admission at {node.address}"] == "ok"
    assert status == 0


async def test_the_dns_name_that_the_sdk_asks_for(paths: Paths) -> None:
    """TLS of gRPC itself knows a server by it, so it has to be there."""
    named = FORGE.source(PICOD, dns=("agentcube-router",))
    async with hosted(named) as node:
        base = ("--target", node.address, "--server-name")
        assert (await found(told(paths, *base, "agentcube-router")))["name"].state == (
            "ok"
        )
        bad = (await found(told(paths, *base, "other")))["name"]
    assert (bad.state, bad.detail.endswith("its DNS names: agentcube-router")) == (
        "failed",
        True,
    )


@pytest.mark.parametrize(
    ("faults", "reason"),
    [
        ({"life": -1, "age": 7200}, "expired"),
        ({"age": -3600, "life": 7200}, "not_yet_valid"),
        ({"uris": ()}, "no_uri"),
        ({"by": [Forge("evil.test").root]}, "untrusted_chain"),
    ],
)
async def test_an_identity_that_cannot_be_loaded(
    faults: dict[str, Any], reason: str, tmp_path: Path
) -> None:
    """The reason a service would tell; no server is tried with it."""
    paths = FORGE.write(tmp_path, ROUTER, **faults)
    settings = told(paths, "--target", "127.0.0.1:1", "--timeout", "1s")
    failed = await failure(settings)
    assert (failed.name, failed.reason) == ("identity", reason)
    assert "is not tried" in (await found(settings))["address"].detail


async def test_files_that_do_not_fit(paths: Paths) -> None:
    """Missing, torn, of another key, or locked away: each by name."""
    good = paths.key.read_bytes()
    for content, reason in (
        (None, "file_missing"),
        (good[:100], "half_written"),
        (FORGE.svid(ROUTER).key, "key_mismatch"),
    ):
        paths.key.unlink()
        if content is not None:
            paths.key.write_bytes(content)
        failed = await failure(told(paths, "--timeout", "1s"))
        assert failed.reason == reason
        assert str(paths.key) in failed.detail
        paths.key.touch()


async def test_an_agent_that_is_not_there(tmp_path: Path) -> None:
    """The Workload API is asked as a service asks it."""
    argv = ("--spiffe-endpoint-socket", f"unix://{tmp_path}/no.sock", "--timeout", "1s")
    failed = await failure(read(Settings, argv, {}, "doctor"))
    assert (failed.name, failed.reason) == ("identity", "agent_unavailable")


async def test_an_agent_gives_the_identity(tmp_path: Path) -> None:
    """No file of ours holds the key then, so that none is looked at."""
    agent = Agent(tmp_path / "agent.sock")
    async with agent.running():
        await agent.say(offered(ROUTER, FORGE.svid(ROUTER), FORGE))
        argv = ("--spiffe-endpoint-socket", agent.endpoint)
        checks = await found(read(Settings, argv, {}, "doctor"))
    assert agent.endpoint in checks["identity"].detail
    assert set(checks) == {"identity", "certificate", "validity", "bundle"}


async def test_what_will_go_wrong_soon_is_a_warning(tmp_path: Path) -> None:
    """A late renewal, a key that others can read, a root that ends: not yet a fault."""
    forge = Forge()
    forge.root = forge.signer(age=86400, life=3600)
    paths = forge.write(tmp_path, ROUTER, age=7200, life=3500)
    paths.key.chmod(0o644)
    checks = await found(told(paths))
    warned = {name for name, check in checks.items() if check.state == "warning"}
    assert warned == {"validity", "key", "bundle"}
    assert all(checks[name].hint for name in warned)
    assert f"chmod 0600 {paths.key}" in checks["key"].hint
    assert await report(told(paths), io.StringIO()) == 0


async def test_bundles_of_others_are_told_one_by_one(
    paths: Paths, tmp_path: Path
) -> None:
    """And judge their own trust domain: a server of theirs may be expected."""
    bundle = tmp_path / "partner.pem"
    bundle.write_bytes(OF_OTHERS.bundle)
    trust = ("--trust-bundle", f"partner.test={bundle}")
    async with posing(OF_OTHERS.svid(PARTNER), Ear()) as address:
        target = ("--target", address, "--expect", "spiffe://partner.test/")
        names = [each.name async for each in examine(told(paths, *trust, *target))]
        failed = await failure(told(paths, *target))
    assert {"bundle of cluster.local", "bundle of partner.test"} < set(names)
    assert names[-1] == f"admission at {address}"
    assert failed.reason == "no_bundle"


async def test_as_json_and_without_secrets(paths: Paths) -> None:
    """One object, of the form of `cubemesh doctor --json`; the key is in no output."""
    secret = paths.key.read_text().splitlines()[1]
    for more, status in (((), 0), (("--target", "127.0.0.1:1"), 1)):
        text, plain = io.StringIO(), io.StringIO()
        assert await report(told(paths, "--json", *more), text) == status
        assert await report(told(paths, *more), plain) == status
        said = json.loads(text.getvalue())
        assert said["ok"] is (status == 0)
        fields = {"name", "ok", "state", "detail", "hint", "reason"}
        assert all(set(each) == fields for each in said["checks"])
        for output in (text.getvalue(), plain.getvalue()):
            assert secret not in output
            assert "PRIVATE" not in output


async def test_the_look_at_a_bad_server_shows_it_nothing(paths: Paths) -> None:
    """Who has not proven itself sees no certificate of ours, and no byte."""
    shown: list[bytes | None] = []

    async def ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tls = writer.get_extra_info("ssl_object")
        shown.append(tls.getpeercert(binary_form=True))
        assert await reader.read() == b""
        writer.transport.abort()

    stranger = Forge()
    context = context_of(
        ssl.PROTOCOL_TLS_SERVER, Shown("", "", stranger.svid(PICOD)), "1.3"
    )
    assert context is not None
    context.load_verify_locations(cadata=FORGE.bundle.decode())
    context.verify_mode = ssl.CERT_OPTIONAL
    async with serving(ask, context) as address:
        failed = await failure(told(paths, "--target", address))
        await until(lambda: shown)
    assert failed.reason == "untrusted_chain"
    assert shown == [None]


def test_flags_that_say_nothing_together() -> None:
    """All faults at once, as in the services."""
    with pytest.raises(SettingsError) as caught:
        read(Settings, ("--expect", PICOD, "--timeout", "0s"), {}, "doctor")
    texts = [text for text, _ in caught.value.faults]
    assert any("are about a server" in text for text in texts)
    assert any(text.startswith("--timeout") for text in texts)
    assert "--mtls-ca-file is not set" in texts


@pytest.mark.slow
def test_the_process_ends_by_itself(paths: Paths) -> None:
    """With the status of what it found, and nothing on standard error."""
    argv = [
        *(sys.executable, "-I", "-m", "serving.doctor"),
        *("--mtls-cert-file", str(paths.chain), "--mtls-key-file", str(paths.key)),
        *("--mtls-ca-file", str(paths.bundle)),
    ]
    for more, status in (((), 0), (("--target", "127.0.0.1:1"), 1)):
        done = subprocess.run(
            [*argv, *more],
            capture_output=True,
            text=True,
            env={"PATH": os.defpath},
            timeout=60,
            check=False,
        )
        assert (done.returncode, done.stderr) == (status, "")
        assert done.stdout.startswith("ok    identity: ")
