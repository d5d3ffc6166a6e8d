"""``python -m unionmount``."""

from __future__ import annotations

from unionmount.cli import run_main

run_main()
