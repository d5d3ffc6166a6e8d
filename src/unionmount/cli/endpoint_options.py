"""The options about the two registries of a copy: ``--src-creds``, ``--dest-tls-verify`` …"""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import unionmount.cli.declared as click
from unionmount.cli.options import (
    F,
    RegistryOptions,
    registry_client,
    registry_options,
    user_and_password,
)
from unionmount.system.text import printable

if TYPE_CHECKING:
    from unionmount.cli.settings import Settings
    from unionmount.images.reference import Reference
    from unionmount.registry import Registries, RegistryClient

_SIDES = {"src": "SRC", "dest": "DST"}
_KEYS = ("creds", "password_stdin", "authfile", "tls_verify", "cert_dir")


@dataclass(frozen=True, slots=True)
class Endpoints:
    """The options for both registries of a copy.

    They are the same object unless an option is for one of the two alone.
    """

    source: RegistryOptions
    target: RegistryOptions

    def check(self, source: Sequence[Reference], target: Sequence[Reference]) -> None:
        """Raise a usage error if a login is for a side that is no registry, or for two of them."""
        if self.source.creds is not None and self.source.creds is self.target.creds:
            asked = {ref.registry for ref in (*source, *target)}
            if len(asked) > 1:
                raise click.UsageError(
                    "--creds is for one registry, but SRC and DST are in two "
                    f"({', '.join(map(printable, sorted(asked)))}); write --src-creds and "
                    "--dest-creds"
                )
        if self.source.creds is self.target.creds:
            return
        for side, named, options in (
            ("src", source, self.source),
            ("dest", target, self.target),
        ):
            if not named and options.creds is not None:
                raise click.UsageError(
                    f"--{side}-creds is for a registry, and {_SIDES[side]} is none; leave it out"
                )

    @asynccontextmanager
    async def clients(
        self,
        settings: Settings,
        registries: Registries,
        source: Sequence[Reference],
        target: Sequence[Reference],
    ) -> AsyncIterator[tuple[RegistryClient, RegistryClient]]:
        """Open the clients for both sides, which may be the same one."""
        if self.source is self.target:
            both = registry_client(settings, self.source, registries, [*source, *target])
            async with both:
                yield both, both
            return
        async with (
            registry_client(settings, self.source, registries, source) as reading,
            registry_client(settings, self.target, registries, target) as writing,
        ):
            yield reading, writing


def endpoint_options(function: F) -> F:
    """Add the options of ``Endpoints``, which are passed on as ``endpoints``."""

    @functools.wraps(function)
    def combined(*arguments: Any, registry: RegistryOptions, **named: Any) -> Any:
        given = {side: {key: named.pop(f"{side}_{key}") for key in _KEYS} for side in _SIDES}
        return function(*arguments, endpoints=_endpoints(registry, given), **named)

    made: Any = combined
    for side in reversed(_SIDES):
        for option in reversed(_side_options(side)):
            made = option(made)
    return registry_options(made)  # type: ignore[no-any-return]


def _side_options(side: str) -> list[Any]:
    place = _SIDES[side]
    return [
        click.option(
            f"--{side}-creds",
            metavar="USER[:PASSWORD]",
            help=f"Log in to the registry of {place}; a missing password is asked for.",
        ),
        click.option(
            f"--{side}-password-stdin",
            is_flag=True,
            help=f"Read the password of --{side}-creds USER from standard input.",
        ),
        click.option(
            f"--{side}-authfile", metavar="FILE", help=f"Read logins for {place} from FILE only."
        ),
        click.option(
            f"--{side}-tls-verify",
            type=click.BOOL,
            metavar="BOOL",
            help=f"Require TLS with a known certificate for {place}.",
        ),
        click.option(
            f"--{side}-cert-dir", metavar="DIR", help=f"Read TLS certificates for {place} from DIR."
        ),
    ]


def _endpoints(common: RegistryOptions, given: dict[str, dict[str, Any]]) -> Endpoints:
    if all(one["password_stdin"] for one in given.values()):
        raise click.UsageError(
            "standard input has one password; log in to one registry with 'unionmount login'"
        )
    if not any(value not in (None, False) for one in given.values() for value in one.values()):
        return Endpoints(common, common)
    if common.creds is not None and any(one["creds"] is not None for one in given.values()):
        raise click.UsageError(
            "--creds cannot be combined with --src-creds or --dest-creds; write those two"
        )
    made = {side: _side(side, common, one) for side, one in given.items()}
    return Endpoints(made["src"], made["dest"])


def _side(side: str, common: RegistryOptions, given: dict[str, Any]) -> RegistryOptions:
    """Return the options of one side: its own, or else the common ones."""
    creds = common.creds
    if given["password_stdin"]:
        creds = _with_password_of_stdin(side, given["creds"])
    elif given["creds"] is not None:
        creds = user_and_password(given["creds"], f"--{side}-creds")
    own = {key: given[key] for key in ("authfile", "tls_verify", "cert_dir")}
    changed = {key: value for key, value in own.items() if value is not None}
    return replace(common, creds=creds, **changed)


def _with_password_of_stdin(side: str, user: str | None) -> tuple[str, str]:
    from unionmount.cli.commands.login import read_password

    if user is None or ":" in user or not user:
        raise click.UsageError(
            f"--{side}-password-stdin needs --{side}-creds USER, without a password"
        )
    return user, read_password()
