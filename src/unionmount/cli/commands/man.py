"""``unionmount man``."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import unionmount.cli.declared as click


@click.command("man")
@click.option(
    "-o",
    "--output",
    metavar="DIR",
    help="Write all pages to files in DIR, for MANPATH or a package.",
)
@click.argument("name", metavar="COMMAND", required=False)
def command(output: str | None, name: str | None) -> None:
    """Show the manual page of unionmount or of one command.

    On a terminal man(1) shows it; otherwise its source is printed, in the language of man(7).
    """
    from unionmount.cli.manpages import page, pages
    from unionmount.cli.program import cli

    if output is not None:
        from unionmount.system.files import write_all
        from unionmount.transfer.image_files import replaced_file

        if name is not None:
            raise click.UsageError("-o writes all pages and cannot be combined with a COMMAND")
        directory = Path(output)
        directory.mkdir(parents=True, exist_ok=True)
        for title, text in pages(cli):
            with replaced_file(directory / f"{title}.1") as page_file:
                write_all(page_file, text.encode("utf-8"))
        return
    text = page(cli, name)
    if sys.stdout.isatty() and shutil.which("man"):
        _show(text)
    else:
        print(text, end="")


def _show(text: str) -> None:
    """Replace this process by man(1), which shows the page."""
    page = os.memfd_create("page")
    os.write(page, text.encode("utf-8"))
    os.lseek(page, 0, os.SEEK_SET)
    os.dup2(page, 0)
    sys.stdout.flush()
    os.execvp("man", ["man", "-l", "-"])  # noqa: S606 - no shell is wanted
