"""``unionmount save``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import unionmount.cli.declared as click
from unionmount.cli.options import compress_option, root_option
from unionmount.system.text import printable

if TYPE_CHECKING:
    from collections.abc import Callable

    from unionmount.cli.settings import Settings
    from unionmount.formats.compression import Compression
    from unionmount.transfer.image_files import FileWriter
    from unionmount.transfer.save import Form

_STDOUT = "-"


@click.command("save")
@click.option("-o", "--output", default=_STDOUT, metavar="FILE", help="Default: standard output.")
@click.option(
    "--format",
    "form",
    type=click.Choice(["docker-archive", "oci-archive", "oci"]),
    default="docker-archive",
    show_default=True,
    help="The form of the output; oci is a directory.",
)
@compress_option("Compress layers this way; OCI formats only.", default="none")
@root_option
@click.argument("images", nargs=-1, required=True, metavar="IMAGE…")
@click.pass_obj
def command(
    settings: Settings, output: str, form: Form, compress: Compression, images: tuple[str, ...]
) -> None:
    """Write images of the store to a file that docker, podman, skopeo, umoci and buildah read.

    Layers are written bit for bit, and the ID of an image does not change. FILE appears when it is
    complete, and replaces an existing file. A directory (format oci) is new, empty, or an OCI
    layout, to which the images are added. An IMAGE that is given by its ID is saved without a
    name.
    """
    from unionmount.cli.output import ProgressLine
    from unionmount.errors import UsageError
    from unionmount.formats.compression import Compression
    from unionmount.transfer.save import find_wanted, save

    if form == "docker-archive" and compress is not Compression.PLAIN:
        raise UsageError(
            "--compress cannot be combined with a docker-archive; choose an OCI format "
            "with --format"
        )
    if output == _STDOUT and form == "oci":
        raise UsageError("an OCI layout is a directory; name one with -o")
    if output == _STDOUT and sys.stdout.isatty():
        raise UsageError("standard output is a terminal; name a file with -o, or redirect it")
    store = settings.store()
    progress = ProgressLine()
    with store.lease("save", f"being saved to {printable(output)}") as lease:
        wanted = find_wanted(store, images, lease)

        def fill(writer: FileWriter) -> None:
            save(store, wanted, writer, form, compression=compress, progress=progress)

        try:
            _write(output, form, fill)
        finally:
            progress.clear()


def _write(output: str, form: Form, fill: Callable[[FileWriter], None]) -> None:
    from unionmount.transfer.image_files import replaced_file
    from unionmount.transfer.layout_growth import layout_directory

    if form == "oci":
        with layout_directory(Path(output)) as writer:
            fill(writer)
    elif output == _STDOUT:
        sys.stdout.flush()
        _fill_tar(sys.stdout.fileno(), "standard output", fill)
    else:
        with replaced_file(Path(output)) as fd:
            _fill_tar(fd, output, fill)


def _fill_tar(fd: int, what: str, fill: Callable[[FileWriter], None]) -> None:
    from unionmount.transfer.image_files import TarWriter

    writer = TarWriter.to_file(fd, what)
    fill(writer)
    writer.finish()
