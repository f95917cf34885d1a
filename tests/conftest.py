"""What holds for all tests."""

from __future__ import annotations

from hypothesis import settings

# A busy machine is no failure; what takes long is marked slow instead
settings.register_profile("cubemesh", deadline=None)
settings.load_profile("cubemesh")
