"""``unionmount sync``."""

from __future__ import annotations

import json
import sys
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import unionmount.cli.declared as click
from unionmount.cli.endpoint_options import Endpoints, endpoint_options
from unionmount.cli.options import (
    one_or_several,
    platforms_option,
    root_option,
    stream_format_option,
)
from unionmount.cli.output import print_json
from unionmount.cli.referrer_options import print_notes, referrer_choice, referrer_options
from unionmount.system.text import printable

if TYPE_CHECKING:
    from collections.abc import Callable

    from unionmount.cli.output import ProgressLine
    from unionmount.cli.settings import Settings
    from unionmount.images.platform import Platform
    from unionmount.images.reference import Reference
    from unionmount.registry import RegistryClient
    from unionmount.sources import Location
    from unionmount.transfer.copy_documents import DocumentOptions
    from unionmount.transfer.copy_list import ReferrerChoice
    from unionmount.transfer.sync import SyncedTag, SyncOptions

Clients = tuple["RegistryClient", "RegistryClient"]


@click.command("sync")
@click.option("-q", "--quiet", is_flag=True, help="Print neither progress nor the summary.")
@click.option("--include", metavar="PATTERN", multiple=True, help="Take these tags; repeatable.")
@click.option(
    "--exclude", metavar="PATTERN", multiple=True, help="Leave these tags out; repeatable."
)
@click.option("--regex", is_flag=True, help="Patterns are regular expressions of whole tags.")
@click.option("--all", "all_platforms", is_flag=True, help="Copy indexes with all their images.")
@click.option("--dry-run", is_flag=True, help="Show what would be copied, and copy nothing.")
@click.option("--keep-going", is_flag=True, help="Go on with other tags after an error.")
@click.option(
    "--jobs",
    metavar="N",
    type=click.IntRange(1, 32),
    default=3,
    show_default=True,
    help="Copy up to N tags at once.",
)
@referrer_options("Copy signatures, SBOMs and attestations, too.")
@platforms_option
@stream_format_option
@endpoint_options
@root_option
@click.argument("source", metavar="SRC")
@click.argument("target", metavar="DST")
@click.pass_obj
def command(
    settings: Settings,
    source: str,
    target: str,
    quiet: bool,
    include: tuple[str, ...],
    exclude: tuple[str, ...],
    regex: bool,
    all_platforms: bool,
    dry_run: bool,
    keep_going: bool,
    jobs: int,
    referrers: bool,
    artifact_types: tuple[str, ...],
    platforms: tuple[Platform, ...],
    form: str,
    endpoints: Endpoints,
) -> int:
    """Copy many tags of a repository from SRC to DST.

    SRC is a repository, [docker://]NAME, or an OCI layout, oci:DIR or oci-archive:FILE. DST is a
    repository or an OCI layout; oci:DIR may have images already, and others are added. A tag whose
    digest is the same in DST is skipped. One line is printed for each tag; the exit status is 1 if
    a tag could not be copied.

    PATTERN is a glob such as '1.*' that matches the whole tag. Tags that cosign gives to signatures
    are left out; --referrers copies what is about the images. Without --all or --platform, the
    image for this machine is copied of each index.
    """
    one_or_several(platforms, all_platforms)
    from unionmount.cli.open_image import progress_line
    from unionmount.transfer.sync import SyncOptions, TagPatterns

    patterns = TagPatterns.parse(include, exclude, regex=regex)
    choice = referrer_choice(artifact_types, is_wanted=referrers)
    documents = _documents(platforms, all_platforms, choice, dry_run=dry_run)
    with progress_line(quiet=quiet) as progress:
        show = _Shown(form, progress)
        rest = keep_going, jobs, progress
        done = _run(
            *(settings, endpoints, (source, target)),
            lambda resolve: SyncOptions(resolve, patterns, documents, show, *rest),
        )
    show.end(quiet=quiet)
    return 1 if any(one.state == "failed" for one in done) else 0


def _documents(
    platforms: tuple[Platform, ...],
    all_platforms: bool,
    choice: ReferrerChoice | None,
    *,
    dry_run: bool,
) -> DocumentOptions:
    from unionmount.transfer.copy_documents import DocumentOptions

    return DocumentOptions(
        platforms, all_platforms, referrers=choice, skip_present=True, dry_run=dry_run
    )


def _run(
    settings: Settings,
    endpoints: Endpoints,
    words: tuple[str, str],
    make: Callable[[Callable[[str], Reference]], SyncOptions],
) -> list[SyncedTag]:
    from unionmount.cli.output import ProgressLine
    from unionmount.cli.run_transfer import registries_of_user, run_attended
    from unionmount.sources import Location
    from unionmount.transfer.sync import sync

    store, registries = settings.store(), registries_of_user()
    how = make(lambda name: registries.candidates(name)[0])
    places = (
        _repository_or(Location.parse, words[0]),
        _repository_or(Location.parse_target, words[1]),
    )
    named: list[list[Reference]] = [
        [how.resolve(one.path)] if one.kind == "registry" else [] for one in places
    ]
    endpoints.check(*named)

    async def work(clients: Clients) -> list[SyncedTag]:
        return await sync(store, clients, *places, how)

    bars = how.progress if isinstance(how.progress, ProgressLine) else None
    return run_attended(lambda: endpoints.clients(settings, registries, *named), work, bars)


def _repository_or(parse: Callable[[str], Location], word: str) -> Location:
    """Parse a place; a bare name is a repository, since the store has no tags to copy."""
    from unionmount.sources import looks_like_file, no_such_file

    found = parse(word)
    if found.kind == "stored" and looks_like_file(word):
        raise no_such_file(word)
    return replace(found, kind="registry") if found.kind == "stored" else found


class _Shown:
    """Prints each tag when it is done, and at last the summary."""

    def __init__(self, form: str, progress: ProgressLine | None) -> None:
        self._form = form
        self._progress = progress
        self._rows: list[dict[str, Any]] = []

    def __call__(self, done: SyncedTag) -> None:
        """Print one tag, without bars in the way."""
        if self._progress is not None:
            self._progress.clear()
        digest = str(done.digest or "")
        row = {"tag": done.tag, "state": done.state, "digest": digest, "error": done.error}
        self._rows.append(row)
        if done.error:
            print(f"unionmount: {printable(done.error)}", file=sys.stderr, flush=True)
        print_notes([f"{done.tag}: {note}" for note in done.notes])
        if self._form == "jsonl":
            print(json.dumps(row), flush=True)
        elif self._form == "table":
            print(f"{done.state:<10}  {printable(done.tag)}  {digest}".rstrip(), flush=True)

    def end(self, *, quiet: bool) -> None:
        """Print what is printed at the end."""
        if self._form == "json":
            print_json(self._rows)
        if quiet:
            return
        counts = Counter(row["state"] for row in self._rows)
        parts = [f"{count} {state}" for state, count in sorted(counts.items())]
        total = len(self._rows)
        text = f"{total} tag{'' if total == 1 else 's'}: {', '.join(parts)}"
        print(text if parts else "no tag to copy", file=sys.stderr)
