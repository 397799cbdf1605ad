"""Versions of the libraries that determine the bytes of an adapter."""

from __future__ import annotations

import platform
from importlib.metadata import version

_PACKAGES = (
    "accelerate",
    "peft",
    "plaudit",
    "safetensors",
    "tokenizers",
    "torch",
    "transformers",
    "trl",
    "datasets",
)


def library_versions() -> dict[str, str]:
    """Return the versions of Python and of the installed libraries."""
    return {"python": platform.python_version()} | {name: version(name) for name in _PACKAGES}
