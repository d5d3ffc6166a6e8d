"""The nearest right word, for the message about a wrong one."""

from __future__ import annotations

from collections.abc import Iterable


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return "; did you mean …?" to follow a message about ``word``; empty if none is near."""
    found = _nearest([word], list(known))
    return f"; did you mean {found}?" if found else ""


def did_you_mean_file(name: str, directory: str, known: Iterable[str]) -> str:
    """Do the same for a file of a directory; any two names of files have something in common."""
    found = _nearest([name], list(known), least=0.75)
    return f"; did you mean {directory}{found}?" if found else ""


def did_you_mean_option(option: str, known: Iterable[str]) -> str:
    """Do the same for an option of ``-o``, of which ``known`` has ``NAME``, ``NAME=`` and more."""
    name, equals, _ = option.partition("=")
    found = _nearest([option, name + equals, name], list(known))
    return f"; did you mean {found}?" if found else ""


def _nearest(words: list[str], known: list[str], *, least: float = 0.6) -> str | None:
    import difflib  # noqa: PLC0415 - only for mistakes

    for word in words:
        lower = word.lower()
        if lower in known:
            return lower
        for near in difflib.get_close_matches(lower, known, n=1, cutoff=least):
            return near
    return None
