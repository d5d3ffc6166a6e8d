"""``unionmount inspect``."""

from __future__ import annotations

import json
import os
import sys
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import unionmount.cli.declared as click
from unionmount.cli.options import (
    RegistryOptions,
    details_format_option,
    platform_option,
    root_option,
)
from unionmount.cli.referrer_options import print_notes, referrer_choice, referrer_options
from unionmount.cli.remote_image import is_remote, read_remote_artifact, remote_options
from unionmount.errors import NotAnImage, NotFoundError, StoreError, UnionmountError, UsageError
from unionmount.system.text import printable

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from unionmount.browse.inspect import LastRun
    from unionmount.cli.settings import Settings
    from unionmount.gotemplate import Struct
    from unionmount.images.opened import OpenImage
    from unionmount.images.platform import Platform
    from unionmount.images.reference import Reference
    from unionmount.mounting.records import Status
    from unionmount.registry import RegistryClient
    from unionmount.store.containers import Container
    from unionmount.store.store import StoredImage
    from unionmount.transfer.artifact import ArtifactManifest
    from unionmount.transfer.copy_list import CopyList, ReferrerChoice
    from unionmount.transfer.remote_image import RemoteImage

_INDENT = 4


@click.command("inspect")
@details_format_option("'{{.Config.Env}}'")
@click.option("--raw", is_flag=True, help="Print the manifest, byte for byte.")
@click.option("--config", "raw_config", is_flag=True, help="Print the config, byte for byte.")
@click.option(
    "--type",
    "kind",
    type=click.Choice(["image", "container"]),
    help="Search one kind only; default: containers first, then images.",
)
@referrer_options("List signatures, SBOMs and attestations instead.")
@platform_option
@remote_options
@root_option
@click.argument("words", metavar="IMAGE|CONTAINER…", nargs=-1, required=True)
@click.pass_obj
def command(
    settings: Settings,
    words: tuple[str, ...],
    form: str,
    raw: bool,
    raw_config: bool,
    kind: str | None,
    referrers: bool,
    artifact_types: tuple[str, ...],
    platform: Platform | None,
    remote: bool,
    registry: RegistryOptions,
) -> int:
    """Show the details of images, containers and mounts as JSON, or by a template.

    IMAGE is an image of the store, or any other SOURCE; CONTAINER is the name of a container, or a
    mount by its mount point or ID. The keys are those of docker; "Layers" shows the location of
    each layer and the images that share it.

    With --remote, or docker://NAME, only the manifest and the config are fetched from a registry.
    "Layers" then shows digests, and sizes are those of the layers as they are transferred.

    What is no image, such as a chart in a registry or an OCI layout, is shown by its manifest.

    --referrers lists the manifests that are about an image of a registry or an OCI layout, and
    about those in turn, each with its subject, digest, type, size and annotations.
    """
    if kind == "container" and (remote or referrers):
        raise UsageError(f"{'--remote' if remote else '--referrers'} is only for images")
    choice = referrer_choice(artifact_types, is_wanted=referrers)
    where = _Where(settings, kind, platform, remote, registry)
    if raw or raw_config:
        if len(words) > 1 or (raw and raw_config) or form or referrers:
            raise UsageError(
                "--raw and --config print one document of one image, without other options"
            )
        _print_document(where, words[0], manifest=raw)
        return 0
    show = _DetailPrinter(form)
    found, failed = [], False
    for word in words:
        try:
            found += _referrers(where, word, choice) if choice else [_inspect(where, word)]
        except (UnionmountError, OSError) as error:
            failed = True
            _complain(error)
    show(found)
    return 1 if failed else 0


def _complain(error: Exception) -> None:
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    print(f"unionmount: {printable(text)}", file=sys.stderr)


# ---- finding -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Where:
    """Where words are looked up, and what they may name."""

    settings: Settings
    kind: str | None
    platform: Platform | None
    remote: bool
    registry: RegistryOptions

    def is_remote(self, word: str) -> bool:
        return is_remote(word, self.remote, self.registry)

    def read_remote(self, word: str) -> RemoteImage | ArtifactManifest:
        return read_remote_artifact(self.settings, self.registry, word, self.platform)


def _referrers(where: _Where, word: str, choice: ReferrerChoice) -> list[Struct]:
    """Return the details of everything that is about an image."""
    from unionmount.browse.inspect_artifact import inspect_referrer
    from unionmount.cli.remote_image import ask_registry
    from unionmount.cli.run_transfer import registries_of_user, run_transfer
    from unionmount.images.reference import Reference
    from unionmount.sources import Location
    from unionmount.transfer.list_referrers import list_referrers

    store, location, platform = where.settings.store(), Location.parse(word), where.platform

    async def ask(client: RegistryClient, ref: Reference) -> CopyList:
        place = Location("registry", str(ref))
        return await list_referrers(store, client, place, Reference.parse, platform, choice)

    async def read(client: RegistryClient) -> CopyList:
        return await list_referrers(store, client, location, Reference.parse, platform, choice)

    if where.is_remote(word):
        found = ask_registry(where.settings, where.registry, word, ask)
    else:
        found = run_transfer(where.settings, where.registry, registries_of_user(), read, [])
    print_notes(found.notes)
    return [inspect_referrer(one) for one in found.attached]


def _inspect(where: _Where, word: str) -> Struct:
    from unionmount.browse.inspect import inspect_remote
    from unionmount.browse.inspect_artifact import inspect_artifact
    from unionmount.cli.container_words import PREFIX
    from unionmount.transfer.artifact import ArtifactManifest

    if where.is_remote(word):
        if where.kind == "container":
            raise UsageError(f"'{printable(word)}' is an image of a registry, and no container")
        remote = where.read_remote(word)
        if isinstance(remote, ArtifactManifest):
            return inspect_artifact(remote)
        return inspect_remote(remote)
    if where.kind != "image":
        found = _container(where.settings, word)
        if found is not None:
            return found
        if where.kind == "container" or word.startswith(PREFIX):
            raise NotFoundError(f"{printable(word)}: no such container or mount")
    return _image(where.settings, word, where.platform)


def _container(settings: Settings, word: str) -> Struct | None:
    """Return a container by its name, or a mount by its mount point or ID."""
    from unionmount.browse.inspect import inspect_container, inspect_mount
    from unionmount.cli.container_words import PREFIX, mount_with_id, name_of_container
    from unionmount.mounting.mount_words import mount_of
    from unionmount.mounting.records import MountTable
    from unionmount.store.containers import Containers

    table, store = MountTable.of_user(), settings.store()
    known, name = Containers(store), name_of_container(word)
    if name not in known:
        if word.startswith(PREFIX):
            return None
        mounted: Status | None
        try:
            mounted = table.find(word)
        except NotFoundError:
            mounted = mount_with_id(settings, table, word)
        if mounted is None:
            return None
        name = mounted.record.container
        same = os.path.realpath(mounted.record.root) == os.path.realpath(store.root)
        if not name or not same or name not in known:
            return inspect_mount(mounted)
    container = known.find(name)
    return inspect_container(
        container, mount_of(table, store.root, name), _last_run(settings, container)
    )


def _last_run(settings: Settings, container: Container) -> LastRun | None:
    """Return the run of a container that goes on, or the last one; a damaged record is none."""
    from unionmount.browse.inspect import LastRun
    from unionmount.cli.live_containers import live_containers
    from unionmount.runtime.run_record import read_record

    live = live_containers(settings)
    with suppress(NotFoundError):
        if live.is_running(container.name):
            state = live.state(container.name)
            return LastRun(state.pid, state.command, state.started)
    with suppress(StoreError):
        run = read_record(container.path)
        if run is not None:
            return LastRun(0, run.command, run.started, run.finished, run.exit_status)
    return None


def _open(
    settings: Settings, word: str, platform: Platform | None
) -> tuple[OpenImage, StoredImage | None]:
    from unionmount.cli.open_image import open_source
    from unionmount.images.image import SCRATCH
    from unionmount.sources import Location
    from unionmount.transfer.load import find_stored

    location = Location.parse(word)
    in_store = location.kind == "stored" and word != SCRATCH
    stored = find_stored(settings.store(), word) if in_store else None
    return open_source(settings, location, platform=platform), stored


def _open_any(
    settings: Settings, word: str, platform: Platform | None
) -> tuple[OpenImage, StoredImage | None] | ArtifactManifest:
    """Open an image, or read the manifest of what is none in an OCI layout."""
    from unionmount.sources import Location
    from unionmount.transfer.artifact import read_artifact

    try:
        return _open(settings, word, platform)
    except NotAnImage:
        place = Location.parse(word)
        found = read_artifact(settings.store(), place) if platform is None else None
        if found is None:
            raise
        return found


def _image(settings: Settings, word: str, platform: Platform | None) -> Struct:
    from unionmount.browse.inspect import inspect_image
    from unionmount.browse.inspect_artifact import inspect_artifact
    from unionmount.transfer.artifact import ArtifactManifest

    found = _open_any(settings, word, platform)
    if isinstance(found, ArtifactManifest):
        return inspect_artifact(found)
    image, stored = found
    with image:
        store = settings.store()
        known = store.with_all_names(stored) if stored is not None else None
        return inspect_image(store, image, known)


def _document(where: _Where, word: str, *, manifest: bool) -> bytes:
    from unionmount.transfer.artifact import ArtifactManifest

    is_remote = where.is_remote(word)
    found = (
        where.read_remote(word) if is_remote else _open_any(where.settings, word, where.platform)
    )
    if isinstance(found, ArtifactManifest):
        if not manifest:
            raise UsageError("--config is only for images; --raw prints any manifest")
        return found.raw
    if isinstance(found, tuple):
        with found[0] as image:
            documents = image.image
    else:
        documents = found.image
    return documents.manifest.raw if manifest else documents.config.raw


def _print_document(where: _Where, word: str, *, manifest: bool) -> None:
    document = _document(where, word, manifest=manifest)
    sys.stdout.flush()
    sys.stdout.buffer.write(document)
    sys.stdout.buffer.flush()


# ---- printing ------------------------------------------------------------------------------------


class _DetailPrinter:
    """A printer of details, whose template is parsed before anything is searched."""

    def __init__(self, form: str) -> None:
        from unionmount.cli.output import parsing
        from unionmount.gotemplate import Template

        self._form = form
        self._template = None
        if form and form not in ("json", "jsonl"):
            with parsing():
                self._template = Template(form)

    def __call__(self, found: Sequence[Struct]) -> None:
        """Print the details."""
        from unionmount.gotemplate import plain

        if self._template is not None:
            self._print_template(found)
        elif self._form == "jsonl":
            for one in found:
                print(_json(plain(one), indent=None))
        else:
            print(_json([plain(one) for one in found], indent=None if self._form else _INDENT))

    def _print_template(self, found: Sequence[Struct]) -> None:
        from unionmount.cli.output import parsing, print_template_output

        for one in found:
            with parsing():
                text = self._render(one)
            print_template_output(text)

    def _render(self, one: Struct) -> str:
        """Render an object as docker does: first with typed fields, then as plain JSON."""
        from unionmount.gotemplate import TemplateError, from_json, plain

        assert self._template is not None
        try:
            return self._template.render(one)
        except TemplateError:
            return self._template.render(from_json(plain(one)), strict=True)


def _json(value: Any, *, indent: int | None) -> str:
    """Format JSON like docker, but with control characters escaped."""
    separators = (",", ": ") if indent else (",", ":")
    text = json.dumps(value, indent=indent, ensure_ascii=False, separators=separators)
    return "".join(_escaped(text))


def _escaped(text: str) -> Iterator[str]:
    for character in text:
        if character == "\n" or character.isprintable():
            yield character
        else:
            yield json.dumps(character)[1:-1]
