"""All cases; importing this makes them known, in the order in which they are run."""

from importlib import import_module

_ORDER = (
    "calls",
    "create",
    "stages",
    "bulk",
    "memory",
    "identity",
    "tls",
    "traces",
)
for _name in _ORDER:
    import_module(f"{__name__}.{_name}")
