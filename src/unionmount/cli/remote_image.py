"""The images of registries that commands describe without pulling them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, TypeVar

import unionmount.cli.declared as click
from unionmount.cli.options import F, RegistryOptions, registry_options
from unionmount.errors import UsageError
from unionmount.system.text import printable

if TYPE_CHECKING:
    from unionmount.cli.settings import Settings
    from unionmount.images.platform import Platform
    from unionmount.images.reference import Reference
    from unionmount.registry import RegistryClient
    from unionmount.transfer.artifact import ArtifactManifest
    from unionmount.transfer.remote_image import RemoteImage

T = TypeVar("T")


def remote_options(function: F) -> F:
    """Add ``--remote`` and the options about registries."""
    option = click.option(
        "--remote",
        is_flag=True,
        help="Ask the registry, and fetch no layer; docker://NAME does the same.",
    )
    made: F = option(registry_options(function))
    return made


def is_remote(word: str, remote: bool, registry: RegistryOptions) -> bool:
    """Return whether a word is to be looked up in a registry.

    Raise UsageError if it is not, and options about registries were given.
    """
    from unionmount.sources import Location, looks_like_file, no_such_file

    kind = "stored" if not word else Location.parse(word).kind
    if kind == "registry":
        return True
    if remote and kind == "docker-daemon":
        raise UsageError(
            f"--remote takes a name of a registry, and '{printable(word)}' is an image of a daemon"
        )
    if remote and kind != "stored":
        raise UsageError(
            f"--remote takes a name of a registry, and '{printable(word)}' is a file; "
            "write docker://NAME if it is a name, too"
        )
    if remote and looks_like_file(word):
        raise no_such_file(word)
    if not remote and registry != RegistryOptions():
        raise UsageError(
            "--creds, --authfile, --tls-verify and --cert-dir are for images of a registry; "
            "add --remote, or write docker://NAME"
        )
    return remote


def read_remote_image(
    settings: Settings, options: RegistryOptions, name: str, platform: Platform | None
) -> RemoteImage:
    """Fetch the manifest and config of an image by a user's name."""
    from unionmount.transfer.remote_image import read_remote

    return ask_registry(
        settings, options, name, lambda client, ref: read_remote(client, ref, platform)
    )


def read_remote_artifact(
    settings: Settings, options: RegistryOptions, name: str, platform: Platform | None
) -> RemoteImage | ArtifactManifest:
    """Fetch the documents of an image, or the manifest of an artifact, by a user's name."""
    from unionmount.transfer.remote_image import read_remote_any

    return ask_registry(
        settings, options, name, lambda client, ref: read_remote_any(client, ref, platform)
    )


def ask_registry(
    settings: Settings,
    options: RegistryOptions,
    name: str,
    ask: Callable[[RegistryClient, Reference], Awaitable[T]],
) -> T:
    """Return what the first registry answers that has the image of a user's name."""
    from unionmount.cli.run_transfer import (
        hint_at_default_tag,
        registries_of_user,
        run_transfer,
    )
    from unionmount.transfer.by_name import first_of, without_transport

    name, registries = without_transport(name), registries_of_user()

    async def work(client: RegistryClient) -> T:
        return await first_of(registries, name, lambda ref: ask(client, ref))

    found = run_transfer(settings, options, registries, work, registries.candidates(name))
    hint_at_default_tag(name)
    return found
