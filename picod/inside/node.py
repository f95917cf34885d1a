"""node as an interpreter of cells: its own REPL, fed over a pipe."""

from __future__ import annotations

from picod import _protocol as wire
from picod._values import pack
from picod.inside.bundles import of_forms
from picod.inside.programs import ANSWER, CODE, Program

TYPE_CHECKING = False
if TYPE_CHECKING:
    from picod._values import Value
    from picod.inside.channel import Channel

_DRIVER = r"""
"use strict";
const fs = require("fs"), repl = require("repl"), util = require("util");
const { PassThrough, Writable } = require("stream");
const write = fs.writeSync, stringify = JSON.stringify;
const server = repl.start({
  prompt: "", input: new PassThrough(), terminal: false, useGlobal: true,
  output: new Writable({ write(chunk, encoding, done) { done(); } }),
  breakEvalOnSigint: true,
});
// While code runs, node itself heeds SIGINT; while it awaits, the REPL does.
const interrupt = () => server.emit("SIGINT");
process.on("SIGINT", interrupt);
const evaluate = server.eval, inspect = util.inspect;
function answer(told) {
  const data = Buffer.from(stringify(told) + "\0");
  for (let at = 0; at < data.length;) {
    try { at += write(ANSWER, data, at); }
    catch (error) { if (error.code !== "EAGAIN") throw error; }
  }
}
function failure(error) {
  if (!(error instanceof Error) && !(error && error.stack))
    return { name: "Error", value: inspect(error), trace: "" };
  const lines = String(error.stack).split("\n");
  const ours = lines.findIndex((line) => /\bREPLServer\b|\[eval\]|node:vm/.test(line));
  const trace = (ours < 0 ? lines : lines.slice(0, ours)).join("\n");
  return { name: String(error.name), value: String(error.message), trace };
}
let count = 0;
function run(code) {
  count += 1;
  let over = false;
  const end = (error, value, failed) => {
    if (over) return;
    over = true;
    if (failed) return answer(failure(error));
    if (value === undefined) return answer({});
    let text;
    try { text = inspect(value); } catch (thrown) { return answer(failure(thrown)); }
    answer({ text });
  };
  current = end;
  process.off("SIGINT", interrupt);
  try {
    evaluate.call(server, code + "\n", server.context, `<cell ${count}>`,
      (error, value) => end(error && error.err || error, value, error != null));
  } finally {
    process.on("SIGINT", interrupt);
  }
}
let current = () => {};
server._domain.removeAllListeners("error");
server._domain.on("error", (error) => current(error, undefined, true));
process.on("uncaughtException", (error) => current(error, undefined, true));
process.on("unhandledRejection", (error) => current(error, undefined, true));
let rest = Buffer.alloc(0);
fs.createReadStream(null, { fd: CODE }).on("data", (chunk) => {
  rest = Buffer.concat([rest, chunk]);
  for (let end; (end = rest.indexOf(0)) >= 0; rest = rest.subarray(end + 1))
    run(rest.subarray(0, end).toString());
});
answer({});
"""


class Node:
    """Runs cells of JavaScript.

    Args:
        channel: what they end with goes there.

    """

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        driver = _DRIVER.replace("ANSWER", str(ANSWER)).replace("CODE", str(CODE))
        self._node = Program([b"node", b"-e", driver.encode()], {})
        self._node.answer()

    def run(self, code: bytes, _: int) -> None:
        """Run one cell: its last value is the result."""
        import json  # noqa: PLC0415

        self._channel.send(wire.STARTED)
        self._node.give(code)
        told = json.loads(self._node.answer())
        if "text" in told:
            made = of_forms({"text/plain": told["text"]})
            self._channel.show(made, main=True)
        elif told:
            values: dict[bytes, Value] = {
                b"name": str(told["name"])[:200].encode("utf-8", "replace"),
                b"value": _short(told["value"]),
                b"traceback": _short(told["trace"]),
            }
            self._channel.send(wire.RAISED, pack(values))


def _short(text: object) -> bytes:
    return str(text)[: 8 * 1024].encode("utf-8", "replace")
