"""``unionmount commit``."""

from __future__ import annotations

import os
import re
import sys
from typing import TYPE_CHECKING

import unionmount.cli.declared as click
from unionmount.cli.options import root_option
from unionmount.errors import UsageError
from unionmount.system.text import printable

if TYPE_CHECKING:
    from unionmount.cli.settings import Settings

_EPOCH = "SOURCE_DATE_EPOCH"


@click.command("commit")
@click.option(
    "-m", "--message", default="", metavar="TEXT", help="A comment for the image's history."
)
@click.option("-a", "--author", default="", metavar="NAME", help="The author of the image.")
@click.option(
    "-c",
    "--change",
    "instructions",
    multiple=True,
    metavar="INSTRUCTION",
    help="Change how the image is run, as in a Dockerfile:  'CMD [\"sh\"]', 'ENV A=b', "
    "…; repeatable.",
)
@click.option(
    "--exclude",
    "excluded",
    multiple=True,
    metavar="PATTERN",
    help="Leave out changes at paths that match, and below them, such as /tmp/*; repeatable.",
)
@click.option(
    "--squash", is_flag=True, help="Make one layer of the image's layers and the changes."
)
@root_option
@click.argument("target")
@click.argument("name", metavar="NAME[:TAG]")
@click.pass_obj
def command(
    settings: Settings,
    target: str,
    name: str,
    message: str,
    author: str,
    instructions: tuple[str, ...],
    excluded: tuple[str, ...],
    squash: bool,
) -> None:
    """Make an image NAME of a container TARGET, and print its ID.

    TARGET is a container, or a mount by its mount point or ID. Its changes, as diff shows them,
    become one layer on top of its image.

    TARGET may be in use meanwhile. A file that is replaced during the commit is in the layer as the
    old or the new one; of a file that is written in place or renamed, the layer may have a part.

    PATTERN is one of the shell, whose '*' matches slashes, too, as in "find -path". It is compared
    with whole paths from the root.

    INSTRUCTION is one of CMD, ENTRYPOINT, ENV, EXPOSE, HEALTHCHECK, LABEL, ONBUILD, STOPSIGNAL,
    USER, VOLUME and WORKDIR.

    If SOURCE_DATE_EPOCH is set, it is the creation time of the image, and no file in its layer is
    newer, so that the same changes always give the same image.

    With --squash, nothing that was removed or replaced is left in the one layer of the image.
    """
    from unionmount.cli.open_change import open_changes
    from unionmount.committing import CommitRequest, commit
    from unionmount.images.image import SCRATCH
    from unionmount.images.reference import Reference
    from unionmount.runtime.container_owners import owners_of

    reference = Reference.parse(name)
    if reference.name == Reference.parse(SCRATCH).name:
        raise UsageError(f"'{SCRATCH}' is the empty image and cannot be the name of another one")
    with open_changes(settings, target) as opened:
        request = CommitRequest(
            *(reference, message, author, instructions, source_date_epoch(), excluded),
            owners_of(opened.upper),
        )
        if squash:
            from unionmount.squash import commit_squashed

            stored = commit_squashed(settings.store(), opened, request, print_warning)
        else:
            stored = commit(settings.store(), opened, request, print_warning)
    print(stored.id)


def source_date_epoch() -> int | None:
    """Return the time of SOURCE_DATE_EPOCH, if that is set."""
    text = os.environ.get(_EPOCH)
    if not text:
        return None
    if not re.fullmatch(r"[0-9]{1,12}", text):
        raise UsageError(f"{_EPOCH} must be seconds since 1970, not '{printable(text)}'")
    return int(text)


def print_warning(text: str) -> None:
    """Print a warning on standard error."""
    print(f"unionmount: {text}", file=sys.stderr)
