"""bash as an interpreter of cells: one shell, so its variables and folder stay.

It is an interactive bash without a terminal: SIGINT then ends the cell, not the shell,
and each prompt tells that a cell is over, and its status.
"""

from __future__ import annotations

from picod import _protocol as wire
from picod._values import pack
from picod.inside.programs import ANSWER, CODE, STDERR, Program

TYPE_CHECKING = False
if TYPE_CHECKING:
    from picod._values import Value
    from picod.inside.channel import Channel

_ARGV = [b"bash", b"--noprofile", b"--norc", b"--noediting", b"+m", b"-i"]
_PROMPT = b'printf "%%s\\0" "$?" >&%d' % ANSWER
_NEXT = b'IFS= read -r -d "" -u %d __cell; eval "$__cell"\n' % CODE
_BEGIN = b"set +o history +H; unset HISTFILE; exec 2>&%d %d>&-\n" % (STDERR, STDERR)
_INTERRUPTED = 130


class Shell:
    """Runs cells of bash.

    Args:
        channel: what they end with goes there.

    """

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        environment = {b"PROMPT_COMMAND": _PROMPT, b"PS1": b"", b"PS2": b""}
        self._bash = Program(_ARGV, environment, silent=True)
        self._bash.answer()
        self._bash.say(_BEGIN)
        self._bash.answer()

    def run(self, code: bytes, _: int) -> None:
        """Run one cell; a status other than 0 is told as an error."""
        self._bash.say(_NEXT)
        self._channel.send(wire.STARTED)
        self._bash.give(code)
        status = self._bash.answer()
        if int(status):
            name = b"Interrupted" if int(status) == _INTERRUPTED else b"ExitStatus"
            told: dict[bytes, Value] = {
                b"name": name,
                b"value": status,
                b"traceback": b"",
            }
            self._channel.send(wire.RAISED, pack(told))
