"""A command of click that takes another command line behind ``--``."""

from __future__ import annotations

import click

_END = "--"


class CommandWithCommand(click.Command):
    """A command that takes another one behind ``--``; its words become the parameter ``words``."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Take off the words of the other command.

        A ``--`` with no IMAGE before it ends the options, as always, and the next one counts.
        """
        words: list[str] = []
        ends = [index for index, word in enumerate(args) if word == _END]
        if ends and not self._has_source(ctx, args[: ends[0]]):
            ends = ends[1:]
        if ends:
            args, words = args[: ends[0]], args[ends[0] + 1 :]
            if not words:
                raise click.UsageError("no command behind '--'", ctx)
        rest = super().parse_args(ctx, args)
        if words:
            ctx.params["words"] = tuple(words)
        return rest

    def _has_source(self, ctx: click.Context, args: list[str]) -> bool:
        values, _, _ = self.make_parser(ctx).parse_args(list(args))
        return isinstance(values.get("source"), str)

    def collect_usage_pieces(self, ctx: click.Context) -> list[str]:
        """Show that a command may follow."""
        return [*super().collect_usage_pieces(ctx), "[-- COMMAND…]"]
