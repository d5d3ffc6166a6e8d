"""The options about referrers, which several commands share, and notes about what is left out."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import unionmount.cli.declared as click
from unionmount.cli.options import F
from unionmount.errors import UsageError
from unionmount.system.text import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from unionmount.transfer.copy_list import ReferrerChoice


def referrer_options(text: str) -> Callable[[F], F]:
    """Add ``--referrers``, whose help is ``text``, and ``--artifact-type``."""

    def add(function: F) -> F:
        only = click.option(
            "--artifact-type",
            "artifact_types",
            metavar="TYPE",
            multiple=True,
            help="With --referrers, take only those of this media type; repeatable.",
        )
        return click.option("--referrers", is_flag=True, help=text)(only(function))

    return add


def referrer_choice(types: tuple[str, ...], *, is_wanted: bool) -> ReferrerChoice | None:
    """Return which referrers are taken; None if they are not wanted."""
    if types and not is_wanted:
        raise UsageError("--artifact-type is about referrers; add --referrers")
    if not is_wanted:
        return None
    from unionmount.transfer.copy_list import ReferrerChoice

    return ReferrerChoice(types)


def print_notes(notes: Sequence[str], *, quiet: bool = False) -> None:
    """Print what was left out."""
    for note in () if quiet else notes:
        print(f"unionmount: {printable(note)}", file=sys.stderr)
