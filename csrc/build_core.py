"""Builds the C core as ``unionmount._core`` (cffi, API mode, stable ABI).

The declarations that Python sees are cut from the public headers, between the marker comments
``cffi: begin`` and ``cffi: end``: there is no second copy of them that could drift.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from cffi import FFI

CSRC = Path(__file__).parent
PUBLIC_HEADERS = (
    "base/base.h",
    "base/match.h",
    "base/path_regex.h",
    "system/libraries.h",
    "system/open_beneath.h",
    "system/id_maps.h",
    "marks/whiteout.h",
    "index/builder.h",
    "index/index.h",
    "tree/tree.h",
    "tree/unstacked.h",
    "tree/scan.h",
    "tree/summary.h",
    "tree/members.h",
    "upper/upper.h",
    "search/search.h",
    "uring/uring.h",
    "fastpath/fastpath.h",
    "router/router.h",
)

_MARKED = re.compile(r"/\* cffi: begin \*/(.*?)/\* cffi: end \*/", re.DOTALL)

COMPILE_ARGS = [
    "-std=c17",
    "-O2",
    "-g",
    "-fvisibility=hidden",
    "-pthread",
    "-Wall",
    "-Wextra",
    "-Wno-unused-parameter",  # of functions that cffi generates
    "-Wno-missing-field-initializers",  # likewise
]


def public_declarations(header: str) -> str:
    """What ``header`` offers to Python."""
    cuts = _MARKED.findall((CSRC / header).read_text(encoding="utf-8"))
    if not cuts:
        raise ValueError(f"{header}: no declarations between the cffi markers")
    return "\n".join(cuts)


def builder() -> FFI:
    """The description of the extension module, for setuptools."""
    ffi = FFI()
    for header in PUBLIC_HEADERS:
        ffi.cdef(public_declarations(header))
    strict = ["-Werror"] if os.environ.get("UNIONMOUNT_WERROR") == "1" else []
    ffi.set_source(
        "unionmount._core",
        "\n".join(f'#include "{header}"' for header in PUBLIC_HEADERS),
        sources=sorted(str(path) for path in CSRC.glob("*/*.c")),
        depends=sorted(str(path) for path in CSRC.glob("*/*.h")),
        include_dirs=[str(CSRC)],
        define_macros=[("_GNU_SOURCE", "1")],
        extra_compile_args=COMPILE_ARGS + strict,
        extra_link_args=["-pthread"],
        py_limited_api=True,
    )
    return ffi


ffibuilder = builder()
