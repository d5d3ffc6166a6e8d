"""The distribution of an image, as os-release(5) describes it."""

from __future__ import annotations

import re

from unionmount.browse.packages.model import Distribution, as_text

_LINE = re.compile(rb"^[ \t]*(ID|VERSION_ID|PRETTY_NAME)=([^\n]*)", re.MULTILINE)
_ESCAPED = re.compile(r"\\([\\\"'$`])")


def parse_os_release(data: bytes) -> Distribution:
    """Parse the file; of several lines for a name, the last one counts. Raise FormatError."""
    found = {
        match[1].decode("ascii"): _unquoted(as_text(match[2], "os-release"))
        for match in _LINE.finditer(data)
    }
    return Distribution(
        found.get("ID", "").lower(), found.get("VERSION_ID", ""), found.get("PRETTY_NAME", "")
    )


def _unquoted(text: str) -> str:
    if len(text) >= 2 and text[0] == text[-1] and text[0] in "\"'":
        text = text[1:-1]
    return _ESCAPED.sub(r"\1", text)
