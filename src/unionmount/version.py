"""The version of the program, here so that it is known without reading metadata."""

from __future__ import annotations

VERSION = "0.1.0.dev0"
