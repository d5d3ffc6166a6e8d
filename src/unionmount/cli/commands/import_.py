"""``unionmount import``."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import unionmount.cli.declared as click
from unionmount.cli.options import platform_option, root_option
from unionmount.errors import UsageError

if TYPE_CHECKING:
    from unionmount.cli.settings import Settings
    from unionmount.images.platform import Platform
    from unionmount.images.reference import Digest
    from unionmount.registry.url_download import UrlClient
    from unionmount.store.store import StoredImage
    from unionmount.transfer.import_rootfs import ImportRequest

_URL = re.compile(r"https?://", re.IGNORECASE)


@click.command("import")
@click.option(
    "-c",
    "--change",
    "instructions",
    multiple=True,
    metavar="INSTRUCTION",
    help="Set how the image is run, as in a Dockerfile:  'CMD [\"sh\"]', 'ENV A=b', …; repeatable.",
)
@click.option(
    "-m", "--message", default="", metavar="TEXT", help="A comment for the image's history."
)
@click.option(
    "--checksum",
    metavar="DIGEST",
    help="Fail unless the file, as it comes, has this digest, such as sha256:…",
)
@click.option("--flat", is_flag=True, help="Import the files of an archive of images, too.")
@platform_option
@click.option(
    "--tls-verify",
    type=click.BOOL,
    metavar="BOOL",
    help="Require TLS with a known certificate for a URL; default: yes.",
)
@click.option(
    "--cert-dir",
    metavar="DIR",
    help="Read TLS certificates (*.crt, *.cert, *.key) from DIR.",
)
@click.option("-q", "--quiet", is_flag=True, help="Show no progress.")
@root_option
@click.argument("source", metavar="FILE|DIR|URL|-")
@click.argument("name", metavar="[NAME[:TAG]]", required=False)
@click.pass_obj
def command(
    settings: Settings,
    source: str,
    name: str | None,
    instructions: tuple[str, ...],
    message: str,
    checksum: str | None,
    flat: bool,
    platform: Platform | None,
    tls_verify: bool | None,
    cert_dir: str | None,
    quiet: bool,
) -> None:
    """Make an image of a root file system, and print its ID.

    FILE is a tar, plain or compressed with gzip, xz, bzip2 or zstd, as "docker export", debootstrap
    and LXC make it; '-' is standard input. The tar becomes the one layer of the image, bit for bit.
    DIR is a directory: its files of one file system, as "tar --one-file-system" takes them, with
    owners, permissions, times, extended attributes, hard links and devices. A URL begins with
    http:// or https://; over plain HTTP, --checksum is required.

    A layer marks deletions by names that begin with '.wh.'. No image can hold files with such
    names, so they are refused; "mount --ro FILE" shows them.

    INSTRUCTION is one of those of "commit". If SOURCE_DATE_EPOCH is set, it is the creation time of
    the image, and no file of DIR is newer.
    """
    from unionmount.cli.commands.commit import source_date_epoch
    from unionmount.images.reference import Digest, Reference
    from unionmount.transfer.import_rootfs import ImportRequest

    if source == "-" and sys.stdin.isatty():
        raise click.UsageError("standard input is a terminal; name a file, or pipe a tar into it")
    if source == "":
        raise UsageError("the name of the file is empty")
    is_url = _URL.match(source) is not None
    if not is_url and (tls_verify is not None or cert_dir is not None):
        raise UsageError("--tls-verify and --cert-dir are for URLs")
    digest: Digest | None = None if checksum is None else Digest.parse(checksum, "--checksum")
    request = ImportRequest(
        None if name is None else Reference.parse(name),
        *(instructions, message, platform, digest, flat, source_date_epoch()),
    )
    request.check()
    if is_url:
        stored = _from_url(settings, source, request, tls_verify, cert_dir, quiet=quiet)
    else:
        stored = _from_here(settings, source, request, quiet=quiet)
    print(stored.id)


def _from_here(
    settings: Settings, source: str, request: ImportRequest, *, quiet: bool
) -> StoredImage:
    from unionmount.cli.commands.commit import print_warning
    from unionmount.cli.open_image import progress_line
    from unionmount.transfer.import_rootfs import import_directory, import_file

    with progress_line(quiet=quiet) as progress:
        if source != "-" and Path(source).is_dir():
            return import_directory(settings.store(), source, request, print_warning, progress)
        return import_file(settings.store(), source, request, print_warning, progress)


def _from_url(
    settings: Settings,
    url: str,
    request: ImportRequest,
    tls_verify: bool | None,
    cert_dir: str | None,
    *,
    quiet: bool,
) -> StoredImage:
    from unionmount.cli.commands.commit import print_warning
    from unionmount.cli.open_image import progress_line
    from unionmount.cli.options import debug_log
    from unionmount.cli.run_transfer import run_attended
    from unionmount.registry.url_download import UrlClient
    from unionmount.transfer.import_rootfs import import_url

    if cert_dir is not None and not Path(cert_dir).is_dir():
        raise UsageError("--cert-dir is not a directory")
    store = settings.store()
    with progress_line(quiet=quiet) as progress:

        def make_client() -> UrlClient:
            return UrlClient(
                tls_verify=tls_verify,
                debug=debug_log(settings),
                cert_dir=None if cert_dir is None else Path(cert_dir),
            )

        async def work(client: UrlClient) -> StoredImage:
            return await import_url(store, client, url, request, print_warning, progress)

        return run_attended(make_client, work, progress)
