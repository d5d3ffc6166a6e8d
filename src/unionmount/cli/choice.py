"""Click's choice among words, with a message that names the nearest one."""

from __future__ import annotations

from typing import Any

import click

from unionmount.system.nearest import did_you_mean


class NearestChoice(click.Choice):  # type: ignore[type-arg]
    """One of several words."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the word; raise BadParameter if it is none of them."""
        try:
            return super().convert(value, param, ctx)
        except click.BadParameter as error:
            near = did_you_mean(str(value), map(str, self.choices))
            raise click.BadParameter(error.message.rstrip(".") + near, param=param) from None
