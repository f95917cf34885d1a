"""``python -m cubemesh``, and the script ``cubemesh``."""

from __future__ import annotations

from cubemesh._cli import main

__all__ = ["main"]

if __name__ == "__main__":
    main()
