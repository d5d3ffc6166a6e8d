"""Shared libraries that are loaded before they are needed."""

from __future__ import annotations

import os

from unionmount._core import lib
from unionmount.core.handle import check


def keep_libraries(path: str) -> None:
    """Load the libraries that the extension module at ``path`` needs, but not the module itself.

    From then on the dynamic linker finds them by their names and looks at no path.
    """
    check(lib.um_libraries_keep(os.fsencode(path)))
