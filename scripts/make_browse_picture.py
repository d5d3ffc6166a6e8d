"""Draw docs/images/browse.svg: the screen of ``browse`` as it really was after the keys below.

    scripts/make_browse_picture.py [FILE]

The sample image is opened with a store in a temporary directory, and textual draws what is on the
screen. Text stays text. The fonts that textual names are those of another server, so they are left
out. The same program gives the same picture; a test runs this and compares.
"""

from __future__ import annotations

import asyncio
import re
import sys
import tempfile
from pathlib import Path

from unionmount.browse.open import open_view
from unionmount.screen.app import BrowseScreen
from unionmount.screen.stacks import Stacks
from unionmount.store.store import Store

PROJECT = Path(__file__).parents[1]
PICTURE = PROJECT / "docs/images/browse.svg"
SIZE = (104, 26)
KEYS = ("tab", "j", "tab", "ctrl+@", "j", "j", "x", "j")  # layer 2, with all directories open

_FONT_FACES = re.compile(r"@font-face \{.*?\}\s*", re.DOTALL)
_FONTS = 'ui-monospace, "DejaVu Sans Mono", Menlo, Consolas, monospace'


async def drawn(screen: BrowseScreen) -> str:
    """Press the keys, wait for all threads, and draw the screen."""
    async with screen.run_test(size=SIZE) as pilot:
        for key in KEYS:
            await pilot.press(key)
            await pilot.pause(0.3)
        picture = screen.export_screenshot(title="unionmount browse sample.tar")
    picture = _FONT_FACES.sub("", picture)
    return re.sub(r"font-family: Fira Code, monospace", f"font-family: {_FONTS}", picture)


def main(arguments: list[str]) -> int:
    """Draw the picture."""
    picture = Path(arguments[0]) if arguments else PICTURE
    with tempfile.TemporaryDirectory(prefix="unionmount-picture-") as store:
        archive = PROJECT / "sample/sample.tar"
        with (
            open_view(Store(Path(store)), str(archive)) as view,
            Stacks(view, "sample.tar") as stacks,
        ):
            text = asyncio.run(drawn(BrowseScreen(stacks)))
    picture.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
