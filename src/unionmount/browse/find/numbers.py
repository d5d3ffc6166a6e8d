"""Numbers in the words of an expression."""

from __future__ import annotations


def number_up_to(most: int, digits: str) -> int | None:
    """Return the number that decimal digits stand for; None if it is more than ``most``.

    int() alone raises ValueError for thousands of digits.
    """
    significant = digits.lstrip("0") or "0"
    if len(significant) > len(str(most)) or int(significant) > most:
        return None
    return int(significant)
