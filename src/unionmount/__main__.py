"""``python -m unionmount``."""

from __future__ import annotations

from unionmount.start import unionmount

unionmount()
