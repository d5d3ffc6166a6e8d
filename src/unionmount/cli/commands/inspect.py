"""``unionmount inspect``."""

from __future__ import annotations

import json
import os
import sys
from typing import TYPE_CHECKING, Any

import unionmount.cli.declared as click
from unionmount.cli.options import details_format_option, platform_option, root_option
from unionmount.errors import NotFoundError, UnionmountError, UsageError
from unionmount.system.text import printable

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from unionmount.cli.settings import Settings
    from unionmount.gotemplate import Struct
    from unionmount.images.opened import OpenImage
    from unionmount.images.platform import Platform
    from unionmount.mounting.records import Status
    from unionmount.store.store import StoredImage

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
@platform_option
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
    platform: Platform | None,
) -> int:
    """Show the details of images, containers and mounts as JSON, or by a template.

    IMAGE is an image of the store, or any other SOURCE; CONTAINER is the name of a container, or a
    mount by its mount point or ID. The keys are those of docker; "Layers" shows the location of
    each layer and the images that share it.
    """
    if raw or raw_config:
        if len(words) > 1 or (raw and raw_config) or form:
            raise UsageError(
                "--raw and --config print one document of one image, without other options"
            )
        _print_document(settings, words[0], platform, manifest=raw)
        return 0
    show = _DetailPrinter(form)
    found, failed = [], False
    for word in words:
        try:
            found.append(_inspect(settings, word, kind, platform))
        except (UnionmountError, OSError) as error:
            failed = True
            _complain(error)
    show(found)
    return 1 if failed else 0


def _complain(error: Exception) -> None:
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    print(f"unionmount: {printable(text)}", file=sys.stderr)


# ---- finding -------------------------------------------------------------------------------------


def _inspect(settings: Settings, word: str, kind: str | None, platform: Platform | None) -> Struct:
    from unionmount.cli.container_words import PREFIX

    if kind != "image":
        found = _container(settings, word)
        if found is not None:
            return found
        if kind == "container" or word.startswith(PREFIX):
            raise NotFoundError(f"{printable(word)}: no such container or mount")
    return _image(settings, word, platform)


def _container(settings: Settings, word: str) -> Struct | None:
    """Return a container by its name, or a mount by its mount point or ID."""
    from unionmount.browse.inspect import inspect_container, inspect_mount
    from unionmount.cli.container_words import PREFIX, mount_of, mount_with_id, name_of_container
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
    return inspect_container(known.find(name), mount_of(table, store.root, name))


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


def _image(settings: Settings, word: str, platform: Platform | None) -> Struct:
    from unionmount.browse.inspect import inspect_image

    image, stored = _open(settings, word, platform)
    with image:
        store = settings.store()
        known = store.with_all_names(stored) if stored is not None else None
        return inspect_image(store, image, known)


def _print_document(
    settings: Settings, word: str, platform: Platform | None, *, manifest: bool
) -> None:
    image, _ = _open(settings, word, platform)
    with image:
        document = image.image.manifest.raw if manifest else image.image.config.raw
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
