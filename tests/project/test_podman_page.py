"""The page about podman: its storage.conf and its commands, as root and as an ordinary user."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
from support.documents import Step, agrees, console
from support.podman import TOP, Podman, our_program

PAGE = Path(__file__).parents[2] / "docs/how-to/use-with-podman.md"
NAMED = "/usr/local/bin/unionmount-overlay"

_BLOCK = re.compile(r"^\*Example; ([^\n]*):\*\n\n```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_END = "- the end of a command -"


def blocks(kind: str) -> dict[str, str]:
    """Return the page's examples of a kind, by what is said above them."""
    return {said: text for said, word, text in _BLOCK.findall(PAGE.read_text()) if word == kind}


def script(conf: str, storage: str, steps: list[Step]) -> str:
    """Write storage.conf, and run the commands."""
    lines = [
        "exec 2>&1",
        'cd "$HOME/../context"',
        f"cat <<'END' >{conf}\n{storage}END",
        *(f"{step.command}\necho '{_END}'" for step in steps),
    ]
    return "\n".join([*lines, ""])


@pytest.mark.needs("root", "fuse", "podman", "newuidmap", "crun")
@pytest.mark.slow
@pytest.mark.parametrize("root", [False, True], ids=["rootless", "root"])
def test_podman_says_what_the_page_shows(root: bool, public_tmp: Path, sample: Path) -> None:
    place = "/etc/containers/storage.conf" if root else "~/.config/containers/storage.conf"
    storage = blocks("toml")[f"`{place}`"].replace(NAMED, str(our_program()))
    storage = storage.replace("/var/lib/containers", f"{TOP}/home/containers")
    steps = list(console(blocks("console")["needs podman"]))
    assert len(steps) == 4
    if root:
        steps = [Step(step.command.replace("podman unshare ", ""), step.shown) for step in steps]
    podman = Podman(public_tmp / "podman", root, our_program(), "crun")
    podman.top.mkdir(mode=0o755)
    (podman.top / "context").mkdir()
    shutil.copy(sample, podman.top / "context/sample.tar")
    conf = '"$CONTAINERS_STORAGE_CONF"' if root else f"{place}; unset CONTAINERS_STORAGE_CONF"
    printed = (
        podman.play(script(conf, storage, steps))
        .replace(str(our_program()), NAMED)
        .split(f"{_END}\n")
    )
    assert len(printed) == len(steps) + 1
    for step, output in zip(steps, printed, strict=False):
        assert step.shown is not None
        assert agrees(output, step.shown), f"$ {step.command}\n{output}"
