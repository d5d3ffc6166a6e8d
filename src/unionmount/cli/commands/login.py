"""``unionmount login``."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import unionmount.cli.declared as click
from unionmount.cli.options import (
    RegistryOptions,
    ask_password,
    is_utf8,
    registry_client,
    registry_options,
)
from unionmount.errors import NotFoundError, UsageError
from unionmount.system.text import printable

if TYPE_CHECKING:
    from unionmount.cli.settings import Settings

_MAX_PASSWORD = 16 * 1024


@click.command("login")
@click.option("-u", "--username", metavar="USER", help="The user name; asked for if it is missing.")
@click.option("--password-stdin", is_flag=True, help="Read the password from standard input.")
@click.option(
    "--get-login", is_flag=True, help="Print the user who is logged in, and do nothing else."
)
@registry_options
@click.argument("place", metavar="REGISTRY[/PATH]")
@click.pass_obj
def command(
    settings: Settings,
    username: str | None,
    password_stdin: bool,
    get_login: bool,
    place: str,
    registry: RegistryOptions,
) -> None:
    """Log in to a registry.

    The password is checked with the registry, then stored in the file of --authfile, or
    $REGISTRY_AUTH_FILE, or $XDG_RUNTIME_DIR/containers/auth.json. A login with a PATH is only valid
    for repositories below it.
    """
    place = registry_place(place)
    if get_login:
        _print_login(place, registry)
        return
    options = _asked(username, registry, password_stdin=password_stdin)
    assert options.creds is not None
    _check(settings, place, options)
    _keep(place, options)
    user = printable(options.creds[0])
    print(f"Logged in to {place} as {user}", file=sys.stderr)


def registry_place(text: str) -> str:
    """Parse ``REGISTRY[/PATH]``, which may also be given as a URL."""
    from unionmount.errors import InvalidReference
    from unionmount.images.reference import Reference

    for scheme in ("https://", "http://"):
        text = text.removeprefix(scheme)
    place = text.rstrip("/")
    if place in ("index.docker.io/v1", "index.docker.io", "registry-1.docker.io"):
        place = "docker.io"
    registry, slash, path = place.partition("/")
    try:
        parsed = Reference.parse(f"{registry}/{path or 'x/y'}")
    except InvalidReference as error:
        raise UsageError(f"'{printable(text[:200])}' is not a registry") from error
    if parsed.registry != registry or parsed.tag is not None or parsed.digest is not None:
        raise UsageError(f"'{printable(text[:200])}' is not a registry")
    return registry + slash + path


def _print_login(place: str, options: RegistryOptions) -> None:
    from unionmount.registry import Credentials

    registry, _, path = place.partition("/")
    login = Credentials.load(os.environ, options.authfile).find(registry, path)
    if login is None:
        raise NotFoundError(f"not logged in to {place}")
    print(printable(login.username))


def _asked(
    username: str | None, options: RegistryOptions, *, password_stdin: bool
) -> RegistryOptions:
    """Return the options with a user and a password, which are asked for if necessary."""
    if options.creds is not None:
        if username is not None or password_stdin:
            raise click.UsageError("--creds cannot be combined with --username or --password-stdin")
        return options
    if username is not None and (":" in username or not username or not is_utf8(username)):
        raise click.UsageError("--username is empty, has a colon, or is not UTF-8")
    if password_stdin:
        if username is None:
            raise click.UsageError("--password-stdin needs --username")
        return options.with_creds(username, read_password())
    if username is None:
        if not sys.stdin.isatty():
            raise click.UsageError(
                "give --username and --password-stdin, as there is no terminal to ask on"
            )
        username = click.prompt("Username", err=True)
    return options.with_creds(username, ask_password(username))


def read_password() -> str:
    """Return a password from standard input, without the end of its line."""
    raw = sys.stdin.buffer.read(_MAX_PASSWORD + 1)
    if len(raw) > _MAX_PASSWORD:
        raise UsageError(f"the password is longer than {_MAX_PASSWORD} bytes")
    try:
        password = raw.decode("utf-8").removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError as error:
        raise UsageError("the password on standard input is not UTF-8") from error
    if not password:
        raise UsageError("the password on standard input is empty")
    return password


def _check(settings: Settings, place: str, options: RegistryOptions) -> None:
    """Let the registry check the user and the password."""
    import trio

    from unionmount.images.reference import registry_itself
    from unionmount.registry import Registries

    # The file with logins may not exist yet: it is written afterwards.
    checked = RegistryOptions(options.creds, None, options.tls_verify, options.cert_dir)

    registry = place.partition("/")[0]

    async def ping() -> None:
        registries, named = Registries.load(os.environ), [registry_itself(registry)]
        async with registry_client(settings, checked, registries, named) as client:
            await client.ping(registry)

    trio.run(ping)


def _keep(place: str, options: RegistryOptions) -> None:
    from unionmount.registry import Credentials, Login

    assert options.creds is not None
    credentials = Credentials.load(os.environ, options.authfile, create=True)
    credentials.store(place, Login(*options.creds))
