"""A command of click with an option whose value may be missing."""

from __future__ import annotations

import click

ABSENT = "all"
"""The value of such an option without one."""


def command_with_optional_value(option: str) -> type[click.Command]:
    """Return a class of commands that take ``--x`` and ``--x=VALUE``, but not ``--x VALUE``."""

    class CommandWithOptionalValue(click.Command):
        """A command whose option never takes the next word for its value."""

        def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
            """Give the option a value if it has none."""
            end = args.index("--") if "--" in args else len(args)
            options = [f"{option}={ABSENT}" if word == option else word for word in args[:end]]
            return super().parse_args(ctx, [*options, *args[end:]])

    return CommandWithOptionalValue
