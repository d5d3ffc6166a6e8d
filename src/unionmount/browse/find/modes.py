"""The modes of -perm: octal, or symbolic as chmod(1) has them."""

from __future__ import annotations

from dataclasses import dataclass

_ALL = 0o7777
_SET_ID = 0o6000
_WHO = {"u": 0o4700, "g": 0o2070, "o": 0o1007, "a": _ALL}
_COPY = {"u": 0o700, "g": 0o070, "o": 0o007}
_WHAT = {"r": 0o444, "w": 0o222, "x": 0o111, "s": _SET_ID, "t": 0o1000}


@dataclass(frozen=True, slots=True)
class _ModeChange:
    """One change of a symbolic mode, such as ``g+w``."""

    operator: str
    affected: int  # 0: everyone, as nobody is named
    mentioned: int
    value: int
    copies: bool = False
    executes: bool = False  # X: x for directories, or where someone has x


def parse_mode(text: str) -> tuple[int, int] | None:
    """Return the bits that a mode stands for, of files and of directories; None if not valid."""
    changes = _octal(text) if text[:1].isdigit() else _symbolic(text)
    if not changes:
        return None
    return _apply(changes, is_directory=False), _apply(changes, is_directory=True)


def _octal(text: str) -> list[_ModeChange] | None:
    if not all(digit in "01234567" for digit in text) or int(text, 8) > _ALL:
        return None
    mode = int(text, 8)
    mentioned = (mode & _SET_ID) | 0o1777 if len(text) < 5 else _ALL
    return [_ModeChange("=", _ALL, mentioned, mode)]


def _symbolic(text: str) -> list[_ModeChange] | None:
    changes: list[_ModeChange] = []
    for clause in text.split(","):
        found = _clause(clause)
        if found is None:
            return None
        changes += found
    return changes


def _clause(text: str) -> list[_ModeChange] | None:
    at = 0
    affected = 0
    while at < len(text) and text[at] in _WHO:
        affected |= _WHO[text[at]]
        at += 1
    if at == len(text):
        return None
    changes: list[_ModeChange] = []
    while at < len(text):
        end = at + 1
        while end < len(text) and text[end] not in "+-=":
            end += 1
        change = _change(text[at], text[at + 1 : end], affected) if text[at] in "+-=" else None
        if change is None or (text[at + 1 : at + 2].isdigit() and end < len(text)):
            return None
        changes.append(change)
        at = end
    return changes


def _change(operator: str, what: str, affected: int) -> _ModeChange | None:
    if what[:1].isdigit():
        octal = _octal(what)
        if octal is None or affected:
            return None
        return _ModeChange(operator, _ALL, _ALL, octal[0].value)
    if what in _COPY:
        return _ModeChange(operator, affected, affected or _COPY[what], _COPY[what], copies=True)
    if not all(letter in _WHAT or letter == "X" for letter in what):
        return None
    value = 0
    for letter in what:
        value |= _WHAT.get(letter, 0)
    mentioned = affected & value if affected else value
    return _ModeChange(operator, affected, mentioned, value, executes="X" in what)


def _apply(changes: list[_ModeChange], *, is_directory: bool) -> int:
    """Apply changes to a file without permissions, whatever the umask."""
    mode = 0
    for change in changes:
        omitted = (_SET_ID if is_directory else 0) & ~change.mentioned
        value = change.value
        if change.copies:
            value &= mode
            value |= sum(bits for bits in (0o444, 0o222, 0o111) if value & bits)
        if change.executes and (is_directory or mode & 0o111):
            value |= 0o111
        value &= (change.affected or _ALL) & ~omitted
        if change.operator == "=":
            kept = (~change.affected if change.affected else 0) | omitted
            mode = (mode & kept) | value
        elif change.operator == "+":
            mode |= value
        else:
            mode &= ~value
    return mode & _ALL
