"""Names, commands and contents of an image as text that any terminal shows harmlessly.

Control characters, line ends, bidirectional marks and bytes that are not UTF-8 are escaped, as
everywhere. On a screen, widths have to be known as well: characters without a width are escaped,
unless they are one of at most two accents on a letter.
"""

from __future__ import annotations

import unicodedata

from unionmount.system.text import one_line, printable

_ACCENTS = 2  # that a letter can have
_TAB = 8


def shown_name(name: bytes | str) -> str:
    """Return a name for one line of the screen."""
    text = printable(name)
    return text if text.isascii() else _with_widths(text)


def _with_widths(text: str) -> str:
    """Escape characters whose width terminals do not agree on."""
    shown, accents, on_letter = [], 0, False
    for character in text:
        if not _is_zero_width(character):
            on_letter = character.isalpha()
            accents = 0
        elif on_letter and accents < _ACCENTS and unicodedata.combining(character):
            accents += 1
        else:
            shown.append(character.encode("unicode_escape").decode("ascii"))
            on_letter = False
            continue
        shown.append(character)
    return "".join(shown)


def _is_zero_width(character: str) -> bool:
    if character < "\u0300":
        return False
    if unicodedata.category(character) in ("Mn", "Me", "Mc"):
        return True
    code = ord(character)
    # conjoining jamo, the Hangul fillers, and the tones and marks that change an emoji
    return (
        0x1160 <= code <= 0x11FF
        or code in (0x115F, 0x3164, 0xFFA0)
        or (0x1F3FB <= code <= 0x1F3FF or 0x1F1E6 <= code <= 0x1F1FF)
    )


def shown_line(line: bytes) -> str:
    """Return a line of a text file, with tabs as spaces up to the next multiple of eight."""
    if b"\t" not in line:
        return shown_name(line)
    shown = ""
    for number, part in enumerate(line.split(b"\t")):
        if number:
            shown += " " * (_TAB - len(shown) % _TAB)
        shown += shown_name(part)
    return shown


def shown_command(text: str) -> str:
    """Return a command on one line."""
    return shown_name(one_line(text))
