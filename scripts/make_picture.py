"""Draw docs/images/demo.svg: a terminal in which the commands below really ran.

    scripts/make_picture.py [FILE]

The commands run in a pseudo-terminal of their own, in a temporary directory with the sample image
and a store of its own. What they print becomes text in the picture, so that it can be searched and
copied. Names that differ from run to run are replaced, so the same program gives the same picture;
a test runs this and compares.
"""

from __future__ import annotations

import fcntl
import os
import pty
import re
import shutil
import struct
import subprocess
import sys
import tempfile
import termios
from collections.abc import Iterator
from dataclasses import dataclass
from html import escape
from pathlib import Path

PROJECT = Path(__file__).parents[1]
PICTURE = PROJECT / "docs/images/demo.svg"
HOME = "/home/you"
COLUMNS = 92

COMMANDS = (
    "unionmount mount --name hello sample.tar image",
    "ls image",
    "image/bin/hello",
    "echo 'Hello from you.' >image/etc/motd && rm -r image/usr/share",
    "unionmount diff hello",
    "unionmount commit -m 'Greet as I do' hello hello:mine >/dev/null",
    "unionmount history --format 'table {{.CreatedBy}}\\t{{.Size}}' hello:mine",
    "unionmount umount image",
)

_CHARACTER, _LINE, _MARGIN, _BAR = 8.4, 20, 18, 34
_STYLE = """
  .window { fill: #1e2430 } .bar { fill: #2b3342 }
  text { font: 14px ui-monospace, "DejaVu Sans Mono", Menlo, Consolas, monospace; fill: #d7dce5 }
  .prompt { fill: #8fbf7f } .command { fill: #ffffff; font-weight: bold }
"""


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the screen."""

    text: str
    is_command: bool = False


def run_all() -> list[Line]:
    """Run the commands; the lines of the terminal, prompts included."""
    directory = Path(tempfile.mkdtemp(prefix="unionmount-picture-")).resolve()
    environment = os.environ | {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "LC_ALL": "C.UTF-8",
        "TERM": "dumb",
        "SOURCE_DATE_EPOCH": "1700000000",
        "UNIONMOUNT_ROOT": str(directory / "store"),
        "UNIONMOUNT_RUNTIME_DIR": str(directory / "run"),
    }
    try:
        (directory / "image").mkdir()
        shutil.copy(PROJECT / "sample/sample.tar", directory)
        return [line for command in COMMANDS for line in _screen(command, directory, environment)]
    finally:
        unmount = ["unionmount", "umount", "--all"]
        subprocess.run(unmount, env=environment, check=False, capture_output=True)
        shutil.rmtree(directory)


def _screen(command: str, directory: Path, environment: dict[str, str]) -> Iterator[Line]:
    yield Line(command, is_command=True)
    output = _in_terminal(command, directory, environment)
    for line in output.replace(str(directory), HOME).splitlines():
        yield Line(line.rstrip()[:COLUMNS])


def _in_terminal(command: str, directory: Path, environment: dict[str, str]) -> str:
    """What a command prints on a terminal; one that fails ends the run."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, COLUMNS, 0, 0))
    with subprocess.Popen(
        ["sh", "-c", command],
        cwd=directory,
        env=environment,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    ) as process:
        os.close(theirs)
        shown = b"".join(_read_all(ours))
        os.close(ours)
        if process.wait() != 0:
            raise SystemExit(f"{command}: {shown.decode(errors='replace')}")
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]|\r", "", shown.decode("utf-8"))


def _read_all(terminal: int) -> Iterator[bytes]:
    while True:
        try:
            read = os.read(terminal, 1 << 16)
        except OSError:  # EIO: nobody has the other end any more
            return
        if not read:
            return
        yield read


def drawn(lines: list[Line]) -> str:
    """The picture of a terminal with these lines."""
    width = round(2 * _MARGIN + COLUMNS * _CHARACTER)
    height = _BAR + 2 * _MARGIN + _LINE * len(lines) - 8
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" '
        f'height="{height}" role="img">',
        "<title>unionmount in a terminal</title>",
        f"<style>{_STYLE}</style>",
        f'<rect class="window" width="{width}" height="{height}" rx="8"/>',
        f'<path class="bar" d="M0 8a8 8 0 0 1 8-8h{width - 16}a8 8 0 0 1 8 8v{_BAR - 8}H0z"/>',
    ]
    for number, colour in enumerate(("#e06c75", "#e5c07b", "#98c379")):
        parts.append(f'<circle cx="{20 + 20 * number}" cy="{_BAR // 2}" r="6" fill="{colour}"/>')
    for number, line in enumerate(lines):
        parts.append(_text(line, _BAR + _MARGIN + 10 + _LINE * number))
    return "\n".join([*parts, "</svg>"]) + "\n"


def _text(line: Line, y: int) -> str:
    text = escape(line.text, quote=False)
    if line.is_command:
        text = f'<tspan class="prompt">$ </tspan><tspan class="command">{text}</tspan>'
    return f'<text x="{_MARGIN}" y="{y}" xml:space="preserve">{text}</text>'


def main(arguments: list[str]) -> int:
    """Draw the picture."""
    picture = Path(arguments[0]) if arguments else PICTURE
    picture.parent.mkdir(parents=True, exist_ok=True)
    picture.write_text(drawn(run_all()), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
