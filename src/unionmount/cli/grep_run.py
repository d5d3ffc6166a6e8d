"""The search of ``unionmount grep``: where it begins in each image, and what is printed."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from unionmount import core
from unionmount.browse.grep import LineSearch, Origin
from unionmount.browse.paths import follow
from unionmount.cli.grep_output import GrepOutput, JsonMatches, TextMatches
from unionmount.cli.open_image import open_files, wrong_images
from unionmount.cli.operands import by_image, image_and_paths
from unionmount.errors import NotFoundError, UnionmountError
from unionmount.system.text import printable

if TYPE_CHECKING:
    from unionmount.browse.open import OpenView
    from unionmount.cli.grep_options import GrepOptions
    from unionmount.cli.operands import Operand
    from unionmount.cli.settings import Settings


_PATIENCE = 0.5  # seconds in which threads end: the C library may take hours for one line


@dataclass(frozen=True, slots=True)
class _Start:
    """A file or directory where a search begins."""

    files: core.Tree | core.LayerTrees | core.View
    attributes: core.Attributes
    path: bytes
    origin: Origin


def run_grep(settings: Settings, words: Sequence[str], options: GrepOptions) -> int:
    """Search, print, and return the exit status."""
    if options.finds_nothing:
        core.Searcher(options.setup, core.Cancellation()).close()  # is the expression valid?
        return 1
    operands = image_and_paths(words)
    out: GrepOutput = TextMatches(options, settings.program)
    if options.form != "text":
        out = JsonMatches(options, settings.program)
    images = list(by_image(operands))
    with_image = len({image for image, _ in images}) > 1
    run = _GrepRun(settings, options, out, with_image=with_image, is_single=len(operands) == 1)
    run.compile()
    wrong = wrong_images(settings, operands, platform=options.platform, layer=options.layer)
    for image, error in wrong.items():
        out.complain(_message(image, error))
    try:
        for image, group in images:
            if image not in wrong and run.search_image(image, group):
                break
    finally:
        run.stop()
    out.end()
    if out.selected and options.setup.flags.quiet:
        return 0
    return 2 if out.failed else int(not out.selected)


class _GrepRun:
    """The searches of one command."""

    def __init__(
        self,
        settings: Settings,
        options: GrepOptions,
        out: GrepOutput,
        *,
        with_image: bool,
        is_single: bool,
    ) -> None:
        self._settings = settings
        self._options = options
        self._out = out
        self._with_image = with_image
        self._is_single = is_single
        self._searches: dict[bool, LineSearch] = {}

    def compile(self) -> None:
        """Raise UsageError if an expression is wrong, before any image is opened."""
        self._search(filename=True)

    def search_image(self, image: str, operands: Sequence[Operand]) -> bool:
        """Search one image; return whether the rest need not be searched."""
        options = self._options
        with self._opened() as stack:
            try:
                view = stack.enter_context(
                    open_files(
                        self._settings, image, platform=options.platform, layer=options.layer
                    )
                )
                trees = stack.enter_context(view.layer_trees()) if options.all_layers else None
            except (UnionmountError, OSError) as error:
                if len(operands) == 1 and self._is_single:
                    raise
                self._out.complain(_message(image, error))
                return False
            for operand in operands:
                for start in self._starts(view, trees, operand):
                    if self._search_start(start):
                        return True
        return False

    @contextmanager
    def _opened(self) -> Iterator[ExitStack]:
        """Hold what is open in an image, and close it when no thread reads it any more.

        What a thread still reads after a while is closed by the end of the process.
        """
        with ExitStack() as stack:
            try:
                yield stack
            finally:
                held = stack.pop_all()
                if self.stop():
                    held.close()

    def stop(self) -> bool:
        """End the threads soon; return whether they ended."""
        searches = list(self._searches.values())
        self._searches.clear()
        ended = [search.stop(_PATIENCE) for search in searches]
        return all(ended)

    def _search(self, *, filename: bool) -> LineSearch:
        """Return the search that prints names, or the other one."""
        if filename not in self._searches:
            setup = self._options.setup
            flags = replace(setup.flags, filename=filename)
            self._searches[filename] = LineSearch(replace(setup, flags=flags))
        return self._searches[filename]

    def _search_start(self, start: _Start) -> bool:
        """Search a file or directory; return whether the rest need not be searched."""
        options, is_directory = self._options, stat.S_ISDIR(start.attributes.mode)
        filename = options.filename
        if filename is None:
            filename = is_directory or not self._is_single or options.all_layers
        walk = core.SearchWalk(
            start.files,
            start.attributes,
            start.path,
            prefix=start.origin.prefix(with_image=self._with_image),
            patterns=options.patterns,
            directories=options.directories,
        )
        with walk:
            for result in self._search(filename=filename).results([(start.origin, walk)]):
                self._out.take(result)
                if options.setup.flags.quiet and self._out.selected:
                    return True
        return False

    def _starts(
        self, view: OpenView, trees: core.LayerTrees | None, operand: Operand
    ) -> Iterator[_Start]:
        """Yield where to search; what is not there or no file is an error, which ends nothing."""
        try:
            if trees is None:
                files = view.files
                assert isinstance(files, core.Tree | core.View)
                with operand.naming():
                    found = follow(files, operand.start).attributes
                starts = [_Start(files, found, operand.start, Origin(operand.image))]
            else:
                starts = _starts_in_layers(view, trees, operand)
        except (OSError, NotFoundError) as error:
            self._out.complain(_message(operand.word, error))
            return
        for start in starts:
            if stat.S_ISREG(start.attributes.mode) or stat.S_ISDIR(start.attributes.mode):
                yield start
            elif trees is None:
                self._out.complain(f"{printable(operand.word)}: is not a regular file")


def _starts_in_layers(view: OpenView, trees: core.LayerTrees, operand: Operand) -> list[_Start]:
    """Return the starts in the layers that have a path, without following symlinks."""
    path = operand.start
    starts = []
    for number, layer in enumerate(view.image.layers):
        try:
            found = trees.resolve(b"%d/%b" % (number, path))
        except (FileNotFoundError, NotADirectoryError):
            continue
        starts.append(
            _Start(trees, found, path, Origin(operand.image, number, layer.diff_id.short))
        )
    if not starts:
        raise NotFoundError(f"{printable(operand.word)}: no layer has this path")
    return starts


def _message(word: str, error: UnionmountError | OSError) -> str:
    if isinstance(error, OSError):
        return f"{printable(word)}: {error.strerror or os.strerror(error.errno or 0)}"
    return str(error)
