"""The runner: what runs as process 1 of a sandbox. Sent there by `picod._bundle`.

These modules use the standard library alone, run on Python 3.9 and newer, and import
nothing that loads slowly (`json`, `typing`, `signal`, `socket`, `selectors`).
"""
