r"""Run a program on a terminal of its own: press keys there, and see what it shows.

``on_terminal.py STEP… -- COMMAND…``, where a STEP is ``see TEXT``, ``type TEXT``, ``resize ROWS
COLUMNS`` or ``signal NUMBER``. Texts may have escapes such as ``\x03``. What is seen is printed,
and at the end the exit status.
"""

from __future__ import annotations

import os
import sys

from support.terminal import Terminal  # a copy is beside this file


def text_of(word: str) -> str:
    """Return a text without escapes."""
    return word.encode("latin-1", "backslashreplace").decode("unicode_escape")


def main(words: list[str]) -> None:
    """Play the steps."""
    end = words.index("--")
    steps, command = iter(words[:end]), words[end + 1 :]
    terminal = Terminal(command, os.environ)
    try:
        for verb in steps:
            word = next(steps)
            if verb == "see":
                terminal.read_to(text_of(word).encode())
                print("saw", word, flush=True)  # noqa: T201
            elif verb == "type":
                terminal.type(text_of(word))
            elif verb == "signal":
                terminal.signal(int(word))
            else:
                terminal.resize(int(word), int(next(steps)))
        print("exit", terminal.wait(), flush=True)  # noqa: T201
    finally:
        terminal.close()


main(sys.argv[1:])
