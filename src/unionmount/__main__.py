"""``python -m unionmount``."""

from __future__ import annotations

import sys

from unionmount.cli import main

sys.exit(main())
