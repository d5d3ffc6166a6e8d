"""``unionmount diff``."""

from __future__ import annotations

import stat
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import unionmount.cli.declared as click
from unionmount.cli.exit_status import failing_with
from unionmount.cli.options import check_form, platform_option, root_option
from unionmount.errors import NotFoundError, UnionmountError, UsageError
from unionmount.system.text import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from unionmount.browse.diff import Difference
    from unionmount.browse.open import OpenChanges, OpenView
    from unionmount.browse.packages.package_diff import ChangedPlaces
    from unionmount.cli.settings import Settings
    from unionmount.core import Attributes, BrowsableTree
    from unionmount.images.platform import Platform

_PARTS = ("files", "config", "packages")
_TROUBLE = 2  # 1 means "different", as in diff(1)


@click.command("diff")
@click.option(
    "--format",
    "form",
    metavar="FORM|TEMPLATE",
    default="text",
    callback=check_form("text", "json", "jsonl"),
    help="text, json, jsonl, or a Go template: '{{.Kind}} {{.Path}}'.",
)
@click.option("--stat", "sizes", is_flag=True, help="Print sizes before and after, and totals.")
@click.option("--files", is_flag=True, help="Compare the files of two images.")
@click.option("--config", is_flag=True, help="Compare the configs of two images.")
@click.option("--packages", is_flag=True, help="Compare the packages of two images.")
@platform_option
@root_option
@click.argument("target", metavar="TARGET|IMAGE")
@click.argument("other", metavar="[IMAGE]", required=False)
@click.pass_obj
def command(
    settings: Settings,
    target: str,
    other: str | None,
    form: str,
    sizes: bool,
    files: bool,
    config: bool,
    packages: bool,
    platform: Platform | None,
) -> int:
    """Show the changes in TARGET: a container, or a mount by its mount point or ID.

    Each path is printed on one line: A for added, C for changed, D for deleted. A deleted directory
    is one line; a directory is C if it or anything below it changed. Type, content, mode, owner,
    extended attributes, modification time and hard links are compared: a new modification time
    alone is listed, but opening a file is not. A renamed directory is D at the old path and A at
    the new one.

    With --format json, "changes" names the differences of a C: type, content, mode, owner, xattrs,
    times, links. Bytes of a path that are not UTF-8 become lone surrogates, U+DC80 to U+DCFF, as in
    Python. Fields of a template: .Kind .Path .Type .Changes .Size

    With two IMAGEs, the changes that turn the first into the second are shown; either may be a
    CONTAINER, with its changes. Layers that both have are not read. The exit status is then 0 if
    nothing differs, 1 if something does, and 2 after an error.

    The lines of files come first: "C /etc/motd". Those of the config follow ("C config:Cmd"), and
    those of packages ("C package:deb/curl"), each with its values before and after. --files,
    --config and --packages choose among the three. A template prints files only, unless others are
    chosen; they have the fields .Kind .Name .Before .After
    """
    if form != "text" and sizes:
        raise UsageError("--stat cannot be combined with --format; --format json has the sizes")
    if sizes and (config or packages) and not files:
        raise UsageError("--stat is about files; add --files")
    if other is not None:
        wanted = _Compared(form, _parts((files, config, packages), form), sizes=sizes)
        return _compare(settings, target, other, wanted, platform)
    if files or config or packages:
        raise UsageError("--files, --config and --packages are for two images")
    if platform is not None:
        raise UsageError("--platform is only for images")

    with _opened(settings, target) as opened:
        older = opened.image.tree() if sizes else None
        _print(opened.compare().differences(), form, older, _object)
        opened.check_there()
    return 0


def _opened(settings: Settings, target: str) -> OpenChanges:
    """Open a container or mount; raise UsageError for an image, which needs another beside it."""
    from unionmount.cli.open_change import open_changes

    try:
        return open_changes(settings, target)
    except NotFoundError:
        if not _is_image(settings, target):
            raise
    shown = printable(target)
    raise UsageError(
        f"'{shown}' is an image, and two are compared; write 'unionmount diff {shown} IMAGE'"
    )


def _is_image(settings: Settings, word: str) -> bool:
    from unionmount.sources import Location
    from unionmount.transfer.load import find_stored

    location = Location.parse(word)
    if location.kind == "path":  # a directory may be a mount point that is no longer mounted
        path = Path(location.path)
        names = ("index.json", "manifest.json")
        return path.is_file() or any((path / name).is_file() for name in names)
    if location.kind != "stored":
        return True
    try:
        find_stored(settings.store(), word)
    except UnionmountError:
        return False
    return True


@dataclass(frozen=True, slots=True)
class _Compared:
    """What is compared, and how it is printed."""

    form: str
    parts: tuple[str, ...]
    sizes: bool


def _parts(chosen: tuple[bool, ...], form: str) -> tuple[str, ...]:
    """Return what is compared: what was chosen, else everything, or files alone by a template."""
    if any(chosen):
        return tuple(name for name, is_chosen in zip(_PARTS, chosen, strict=True) if is_chosen)
    return _PARTS if form in ("text", "json", "jsonl") else _PARTS[:1]


def _compare(
    settings: Settings, target: str, other: str, wanted: _Compared, platform: Platform | None
) -> int:
    from unionmount.cli.open_image import open_files

    with (
        failing_with(_TROUBLE),
        open_files(settings, target, platform=platform) as before,
        open_files(settings, other, platform=platform) as after,
    ):
        return _print_pair(before, after, wanted)


def _print_pair(before: OpenView, after: OpenView, wanted: _Compared) -> int:
    """Print what differs between two images, and return the exit status."""
    from unionmount.browse.image_diff import differences
    from unionmount.browse.packages.package_diff import ChangedPlaces

    changed = ChangedPlaces(before, after)
    counter = _Counter(changed.watch(differences(before, after)))
    others = _Others(before, after, changed, wanted.parts)
    if wanted.form in ("json", "jsonl"):
        from unionmount.cli.name_writer import write_objects

        write_objects(_objects(counter, others, wanted.parts), wanted.form)
    else:
        _print_pair_text(counter, others, wanted, before.files)
    sys.stdout.flush()
    for problem in others.problems:
        print(f"unionmount: {problem}", file=sys.stderr)
    if others.problems:
        return _TROUBLE
    is_different = others.number or (counter.number if "files" in wanted.parts else 0)
    return 1 if is_different else 0


def _print_pair_text(
    counter: _Counter, others: _Others, wanted: _Compared, older: BrowsableTree
) -> None:
    if "files" in wanted.parts:
        _print(counter, wanted.form, older if wanted.sizes else None, _pair)
    elif "packages" in wanted.parts:
        counter.exhaust()
    if wanted.form != "text":
        from unionmount.cli.output import ListRow, print_by_template

        rows = map(ListRow.of, others.objects())
        print_by_template("formatter.diffContext", wanted.form, rows)
        return
    for one in others.objects():
        label = f"{one['what']}:{one['name']}"
        if one["what"] == "package":
            label = f"package:{one['type']}/{one['name']}"
        sides = [one[key] for key in _sides_of(one["kind"]) if one[key] is not True]
        line = f"{one['kind']} {label}  {' -> '.join(map(_value, sides))}"
        sys.stdout.write(printable(line.rstrip()) + "\n")


_SIDES = ("before", "after")


def _sides_of(kind: str) -> tuple[str, ...]:
    return {"A": _SIDES[1:], "D": _SIDES[:1]}.get(kind, _SIDES)


def _value(value: Any) -> str:
    """Format the value of a field as JSON, or versions with commas between them."""
    import json

    if isinstance(value, tuple):
        return ", ".join(value)
    return json.dumps(value, ensure_ascii=False)


class _Others:
    """The differences of config and packages, once those of the files were read."""

    def __init__(
        self, before: OpenView, after: OpenView, changed: ChangedPlaces, parts: tuple[str, ...]
    ) -> None:
        self._configs = before.image.image.config, after.image.image.config
        self._changed = changed
        self._parts = parts
        self.number = 0
        self.problems: list[str] = []

    def objects(self) -> Iterator[dict[str, Any]]:
        if "config" in self._parts:
            yield from self._config_objects()
        if "packages" in self._parts:
            yield from self._package_objects()

    def _config_objects(self) -> Iterator[dict[str, Any]]:
        from unionmount.browse.config_diff import config_differences

        for one in config_differences(*self._configs):
            self.number += 1
            values = {"before": one.before, "after": one.after}
            yield {"what": "config", "kind": one.kind, "name": one.name, **values}

    def _package_objects(self) -> Iterator[dict[str, Any]]:
        found, self.problems = self._changed.differences()
        for one in found:
            self.number += 1
            yield {
                "what": "package",
                "kind": one.kind,
                "type": one.type,
                "name": one.name,
                "architecture": one.architecture or None,
                "before": one.before,
                "after": one.after,
            }


def _objects(
    counter: _Counter, others: _Others, parts: tuple[str, ...]
) -> Iterator[dict[str, Any]]:
    if "files" in parts:
        yield from ({"what": "file"} | _pair(found) for found in counter)
    elif "packages" in parts:
        counter.exhaust()
    yield from others.objects()


def _print(
    differences: Iterable[Difference],
    form: str,
    older: BrowsableTree | None,
    as_object: Callable[[Difference], dict[str, Any]],
) -> int:
    """Print all differences, with sizes if ``older`` has the files before; return their number."""
    from unionmount.cli.name_writer import write_objects

    counter = _Counter(differences)
    if form in ("json", "jsonl"):
        write_objects(map(as_object, counter), form)
    elif form != "text":
        _print_template(form, counter)
    elif older is not None:
        _print_sizes(counter, older)
    else:
        for found in counter:
            sys.stdout.write(f"{found.kind} {_shown(found)}\n")
    return counter.number


def _print_template(text: str, differences: Iterable[Difference]) -> None:
    from unionmount.cli.output import ListRow, print_by_template

    print_by_template(
        "formatter.diffContext", text, (ListRow.of(_object(one)) for one in differences)
    )


class _Counter:
    """An iterator that counts its items."""

    def __init__(self, differences: Iterable[Difference]) -> None:
        self._differences = differences
        self.number = 0

    def __iter__(self) -> Iterator[Difference]:
        for found in self._differences:
            self.number += 1
            yield found

    def exhaust(self) -> None:
        """Take all items."""
        for _ in self:
            pass


def _shown(found: Difference) -> str:
    return "/" + printable(found.path)


# ---- sizes ---------------------------------------------------------------------------------------


def _size(attributes: Attributes | None) -> int | None:
    """Return the size of a file or symlink; None for everything else."""
    if attributes is None or stat.S_IFMT(attributes.mode) not in (stat.S_IFREG, stat.S_IFLNK):
        return None
    return attributes.size


def _lost(found: Difference, older: BrowsableTree) -> int:
    """Return the bytes of files and symlinks that were at a path, or below a deleted directory."""
    if found.before is None:
        return 0
    stays = found.after is not None and stat.S_ISDIR(found.after.mode)
    if not stat.S_ISDIR(found.before.mode) or stays:
        return _size(found.before) or 0
    return sum(_size(inner) or 0 for _, inner in older.walk(found.before.node))


def _print_sizes(differences: Iterable[Difference], older: BrowsableTree) -> None:
    from unionmount.cli.output import human_size

    counts, growth = dict.fromkeys("ACD", 0), 0
    for found in differences:
        counts[found.kind] += 1
        before, after = _size(found.before), _size(found.after)
        growth += (after or 0) - _lost(found, older)
        sizes = [human_size(size) for size in (before, after) if size is not None]
        if before != after or "content" in found.changes:
            sys.stdout.write(f"{found.kind} {_shown(found)}  {' -> '.join(sizes)}".rstrip() + "\n")
        else:
            sys.stdout.write(f"{found.kind} {_shown(found)}\n")
    sign = "-" if growth < 0 else "+"
    sys.stdout.write(
        f"{counts['A']} added, {counts['C']} changed, {counts['D']} deleted; "
        f"{sign}{human_size(abs(growth))} in files\n"
    )


# ---- objects -------------------------------------------------------------------------------------


def _object(found: Difference) -> dict[str, Any]:
    from unionmount.browse.diff import TYPE_NAMES
    from unionmount.cli.name_writer import json_path

    return {
        "kind": found.kind,
        "path": json_path(found.path),
        "type": TYPE_NAMES.get(stat.S_IFMT(found.mode), "unknown"),
        "changes": list(found.changes),
        "size": found.size,
    }


def _pair(found: Difference) -> dict[str, Any]:
    """Return the same object with the attributes before and after."""
    return _object(found) | {"before": _facts(found.before), "after": _facts(found.after)}


def _facts(attributes: Attributes | None) -> dict[str, Any] | None:
    from unionmount.browse.diff import TYPE_NAMES
    from unionmount.cli.name_writer import octal

    if attributes is None:
        return None
    return {
        "type": TYPE_NAMES.get(stat.S_IFMT(attributes.mode), "unknown"),
        "size": _size(attributes) or 0,
        "mode": octal(attributes.mode),
        "uid": attributes.uid,
        "gid": attributes.gid,
        "mtime_ns": attributes.mtime_ns,
    }
