"""The packages of the extra ``trust``, imported when a policy asks for them."""

from __future__ import annotations

import importlib
from typing import Any

from unionmount.errors import NotTrusted


def optional_module(name: str, package: str, purpose: str) -> Any:
    """Import a module of an optional package; raise NotTrusted, which says what to install."""
    try:
        return importlib.import_module(name)
    except ImportError:
        raise NotTrusted(
            f"{purpose} needs the package {package}; install it: pip install 'unionmount[trust]'"
        ) from None
