"""Servers that make sandboxes, ours and others: the same few acts on each."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Protocol

from cubemesh import AsyncSandbox

if TYPE_CHECKING:
    from cubemesh import Profile

__all__ = ["WORKS", "Box", "CubeMesh", "Server", "Work", "WrongResultError"]

Work = Literal["execute", "run_code"]
WORKS: tuple[Work, ...] = ("execute", "run_code")


class WrongResultError(Exception):
    """The sandbox answered, but not with the result; *got* is what it was."""

    def __init__(self, got: object) -> None:
        super().__init__(f"expected 2, got {got!r}")


class Box(Protocol):
    """One sandbox, somewhere."""

    async def execute(self) -> None:
        """Run the command ``echo 2`` to its end.

        Raises:
            WrongResultError: it did not write that.
        """

    async def run_code(self) -> None:
        """Run the code ``1+1``.

        Raises:
            WrongResultError: it is not 2.
        """

    async def made_ahead(self) -> bool | None:
        """Say whether it waited for us in a pool; ``None``: nobody tells."""

    async def destroy(self) -> None:
        """End it, with all that is in it."""


class Server(Protocol):
    """Where sandboxes are made."""

    async def create(self) -> Box:
        """Make a sandbox; commands can run when it returns."""


class CubeMesh:
    """The mesh that *profile* names, by its SDK."""

    def __init__(self, profile: Profile, template: str = "") -> None:
        self._profile, self._template = profile, template

    async def create(self) -> Box:
        """Make a sandbox of the template."""
        return _Sandbox(
            await AsyncSandbox.create(profile=self._profile, template=self._template)
        )


class _Sandbox:
    def __init__(self, sandbox: AsyncSandbox) -> None:
        self._sandbox = sandbox

    async def execute(self) -> None:
        done = await self._sandbox.commands.run(["echo", "2"])
        if done.stdout != "2\n":
            raise WrongResultError(done)

    async def run_code(self) -> None:
        done = await self._sandbox.run_code("1+1")
        if done.text != "2":
            raise WrongResultError(done)

    async def made_ahead(self) -> bool | None:
        start = getattr(await self._sandbox.info(), "start", None)
        return {"warm": True, "cold": False}.get(str(start))

    async def destroy(self) -> None:
        async with self._sandbox:
            pass
