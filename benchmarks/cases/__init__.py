"""All cases; importing this makes them known, in the order in which they are run."""

from importlib import import_module

_ORDER = (
    "identity",
    "tls",
    "traces",
    "calls",
    "create",
    "stages",
    "bulk",
    "memory",
)
for _name in _ORDER:
    import_module(f"{__name__}.{_name}")
