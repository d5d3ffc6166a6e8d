"""Options that put what they were given into one list, in the order of the command line."""

from __future__ import annotations

from typing import Any

import click


def tagged_option(letter: str) -> type[click.Option]:
    """Return a class of options, each of whose values gets ``letter`` before it.

    Several options of the same destination share a list; the letters tell them apart.
    """

    class TaggedOption(click.Option):
        """An option that tags its values."""

        def add_to_parser(self, parser: Any, ctx: click.Context) -> None:
            """Let the parser tag values as it meets them."""
            super().add_to_parser(parser, ctx)
            for name in self.opts:
                option = parser._long_opt[name]  # noqa: SLF001 - click has no other way
                option.process = _tagging(option.process, letter)

    return TaggedOption


def _tagging(process: Any, letter: str) -> Any:
    return lambda value, state: process(letter + value, state)
