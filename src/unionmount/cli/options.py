"""Options that several subcommands share."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import unionmount.cli.declared as click
from unionmount.system.nearest import did_you_mean
from unionmount.system.text import printable

if TYPE_CHECKING:
    from unionmount.cli.settings import Settings
    from unionmount.formats.compression import Compression
    from unionmount.images.platform import Platform
    from unionmount.images.reference import Reference
    from unionmount.registry import Registries, RegistryClient

F = TypeVar("F", bound=Callable[..., Any])


def _set_root(context: click.Context, _parameter: click.Parameter, value: str | None) -> None:
    if value is not None:
        context.obj.root = value


def _add_store(context: click.Context, _parameter: click.Parameter, value: tuple[str, ...]) -> None:
    context.obj.additional += value


def root_option(function: F) -> F:
    """Add ``--root`` and ``--additional-store``, which may also follow the subcommand."""
    additional = click.option(
        "--additional-store",
        metavar="DIR",
        multiple=True,
        expose_value=False,
        callback=_add_store,
        help="Read this store, too, for what the own store lacks; repeatable.",
    )
    option = click.option(
        "--root",
        metavar="DIR",
        expose_value=False,
        callback=_set_root,
        help="Use this store; default: $UNIONMOUNT_ROOT or the user's own.",
    )
    return option(additional(function))


def _parse_platform(
    _context: click.Context, _parameter: click.Parameter, value: str | None
) -> Platform | None:
    from unionmount.images.platform import Platform

    return Platform.parse(value) if value else None


def platform_option(function: F) -> F:
    """Add ``--platform``."""
    option = click.option(
        "--platform",
        metavar="OS/ARCH[/VARIANT]",
        callback=_parse_platform,
        help="Use the image for this platform; default: this machine's.",
    )
    return option(function)


def _parse_platforms(
    _context: click.Context, _parameter: click.Parameter, value: tuple[str, ...]
) -> tuple[Platform, ...]:
    from unionmount.images.platform import Platform

    return tuple(dict.fromkeys(map(Platform.parse, value)))


def platforms_option(function: F) -> F:
    """Add ``--platform``, which may be repeated."""
    option = click.option(
        "--platform",
        "platforms",
        metavar="OS/ARCH[/VARIANT]",
        multiple=True,
        callback=_parse_platforms,
        help="Use the image for this platform; default: this machine's. Repeatable.",
    )
    return option(function)


def one_or_several(
    platforms: tuple[Platform, ...], all_platforms: bool
) -> tuple[Platform | None, tuple[Platform, ...]]:
    """Return the only platform that was given, or else several; refuse them with ``--all``."""
    if all_platforms and platforms:
        raise click.UsageError("--all copies all platforms; leave --all or --platform out")
    return (platforms[0], ()) if len(platforms) == 1 else (None, platforms)


def pull_option(function: F) -> F:
    """Add ``--pull``."""
    option = click.option(
        "--pull",
        type=click.Choice(["always", "missing", "never"]),
        default="missing",
        show_default=True,
        help="When to fetch an image that is given by name from its registry.",
    )
    return option(function)


@dataclass(frozen=True, slots=True)
class RegistryOptions:
    """The options of the command line about registries."""

    creds: tuple[str, str] | None = field(default=None, repr=False)
    authfile: str | None = None
    tls_verify: bool | None = None
    cert_dir: str | None = None

    def with_creds(self, user: str, password: str) -> RegistryOptions:
        """Return the same options with another user."""
        return replace(self, creds=(user, password))


def registry_options(function: F) -> F:
    """Add the options of ``RegistryOptions``, which are passed on as ``registry``."""

    @functools.wraps(function)
    def combined(
        *arguments: Any,
        creds: str | None,
        authfile: str | None,
        tls_verify: bool | None,
        cert_dir: str | None,
        **named: Any,
    ) -> Any:
        said = RegistryOptions(user_and_password(creds), authfile, tls_verify, cert_dir)
        return function(*arguments, registry=said, **named)

    options = (
        click.option(
            "--creds",
            metavar="USER[:PASSWORD]",
            help="Log in with this name; a missing password is asked for.",
        ),
        click.option(
            "--authfile",
            metavar="FILE",
            help="Read logins from FILE only; default: $REGISTRY_AUTH_FILE or the usual files.",
        ),
        click.option(
            "--tls-verify",
            type=click.BOOL,
            metavar="BOOL",
            help="Require TLS with a known certificate; default: as configured.",
        ),
        click.option(
            "--cert-dir",
            metavar="DIR",
            help="Read TLS certificates (*.crt, *.cert, *.key) from DIR.",
        ),
    )
    made: Any = combined
    for option in reversed(options):
        made = option(made)
    return made  # type: ignore[no-any-return]


def user_and_password(text: str | None, option: str = "--creds") -> tuple[str, str] | None:
    """Return the two parts of ``USER[:PASSWORD]``; ask for a missing password."""
    if text is None:
        return None
    user, colon, password = text.partition(":")
    if not user:
        raise click.UsageError(f"{option} has no user name; write USER[:PASSWORD]")
    if not is_utf8(text):
        raise click.UsageError(f"{option} is not UTF-8")
    return user, password if colon else ask_password(user)


def is_utf8(text: str) -> bool:
    """Return whether an argument was valid UTF-8; a registry accepts nothing else."""
    return not any("\udc80" <= character <= "\udcff" for character in text)


def ask_password(user: str) -> str:
    """Ask for a password on the terminal; raise a usage error if there is none."""
    if not sys.stdin.isatty():
        raise click.UsageError("no password was given, and there is no terminal to ask for one")
    answer: str = click.prompt(f"Password of {user}", hide_input=True, err=True)
    return answer


def registry_client(
    settings: Settings,
    options: RegistryOptions,
    registries: Registries,
    named: Sequence[Reference],
) -> RegistryClient:
    """Return a client with the logins and settings of the user.

    ``--creds`` is only used for the one registry of the references in ``named``.
    """
    from unionmount.registry.user_client import client_of_user

    asked = sorted({ref.registry for ref in named})
    if options.creds is not None and len(asked) > 1:
        raise click.UsageError(
            "--creds is for one registry, but the command may use several "
            f"({', '.join(map(printable, asked))}); name one, or log in to each"
        )

    if options.cert_dir is not None and not Path(options.cert_dir).is_dir():
        raise click.UsageError("--cert-dir is not a directory")
    return client_of_user(
        registries,
        named,
        creds=options.creds,
        authfile=options.authfile,
        tls_verify=options.tls_verify,
        cert_dir=options.cert_dir,
        debug=debug_log(settings),
    )


def debug_log(settings: Settings) -> Callable[[str], None] | None:
    """Return the function that prints requests and answers, if --debug asks for them."""
    return _log if settings.debug else None


def _log(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


_FORMS = ("table", "json", "jsonl")


def list_format_option(function: F) -> F:
    """Add ``--format`` of a list that ``output.Listing`` prints."""
    option = click.option(
        "--format",
        "form",
        metavar="FORM|TEMPLATE",
        default="table",
        callback=check_form(*_FORMS),
        help="table, json, jsonl, or a Go template: '{{.ID}}', 'table {{.ID}}\\t{{.Size}}'.",
    )
    return option(function)


def _parse_compression(
    _context: click.Context, _parameter: click.Parameter, value: str | None
) -> Compression | None:
    from unionmount.formats.compression import Compression

    if value is None:
        return None
    return Compression.PLAIN if value == "none" else Compression(value)


def compress_option(text: str, default: str | None = None) -> Callable[[F], F]:
    """Add ``--compress``, whose help is ``text``."""
    return click.option(
        "--compress",
        type=click.Choice(["none", "gzip", "zstd"]),
        default=default,
        show_default=default is not None,
        callback=_parse_compression,
        help=text,
    )


def layer_option(function: F) -> F:
    """Add ``--layer``."""
    option = click.option(
        "--layer",
        metavar="N",
        type=click.IntRange(min=0),
        help="Use the image as it was after layer N; 0 is the lowest.",
    )
    return option(function)


def all_layers_option(function: F) -> F:
    """Add ``--all-layers``."""
    option = click.option(
        "--all-layers",
        is_flag=True,
        help="Look at each layer by itself, also at what later layers hide or remove.",
    )
    return option(function)


def check_form(*forms: str) -> Callable[[click.Context, click.Parameter, str], str]:
    """Return a callback for ``--format``: these forms, the first as default, or a template.

    Anything else is an error; docker would print it as it is.
    """

    def check(_context: click.Context, _parameter: click.Parameter, value: str) -> str:
        if value and value not in forms and "{{" not in value:
            known, near = ", ".join(forms), did_you_mean(value, forms)
            raise click.BadParameter(
                f"'{printable(value)}' is not a template, and not one of {known}{near}"
            )
        return value or forms[0]

    return check


def details_format_option(example: str) -> Callable[[F], F]:
    """Add ``--format`` of details: JSON by default, or a Go template like ``example``."""
    return click.option(
        "-f",
        "--format",
        "form",
        metavar="FORM|TEMPLATE",
        default="",
        callback=check_form("", "json", "jsonl"),
        help=f"json, jsonl, or a Go template: {example}.",
    )


def stream_format_option(function: F) -> F:
    """Add ``--format`` of output that may be long."""
    option = click.option(
        "--format",
        "form",
        type=click.Choice(["table", "json", "jsonl"]),
        default="table",
        help="The output format.",
    )
    return option(function)


def text_format_option(function: F) -> F:
    """Add ``--format`` of output that is text by default."""
    option = click.option(
        "--format",
        "form",
        type=click.Choice(["text", "json", "jsonl"]),
        default="text",
        help="The output format.",
    )
    return option(function)
