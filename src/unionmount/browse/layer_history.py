"""The history of a path: what each layer did to it, and which layers hide others."""

from __future__ import annotations

import errno
import stat
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

from unionmount import core
from unionmount.browse.paths import follow

if TYPE_CHECKING:
    from unionmount.core import Attributes, LayerTrees, Marks, Tree

Action = Literal["added", "changed", "mentioned", "deleted", "hidden"]
"""``mentioned``: a directory that is only the parent of other entries of the layer. ``hidden``: the
layer changed a directory above in a way that hides the path, too.
"""

_ABSENT = (errno.ENOENT, errno.ENOTDIR)


@dataclass(frozen=True, slots=True)
class Touch:
    """The effect of one layer on a path.

    ``because`` is the hidden path above, if the action is ``hidden`` or the layer has the path but
    hides a directory above it. ``how`` names the way: whiteout, opaque, replaced (by a new
    directory), or ``file`` (no longer a directory).
    """

    layer: int
    action: Action
    attributes: Attributes | None = None
    how: str = ""
    because: bytes | None = None
    hides: tuple[int, ...] = ()
    hidden_by: int | None = None

    @property
    def is_visible(self) -> bool:
        """Whether the image shows what this layer has, or a part of it."""
        return self.attributes is not None and self.hidden_by is None


@dataclass(frozen=True, slots=True)
class _Seen:
    """The content of a layer at a path and at the directories above it."""

    attributes: Attributes | None  # of the path in the layer; None if it is absent or a whiteout
    marks: Marks | None
    how: str = ""  # how the layer hides lower layers
    because: bytes | None = None  # the path that hides them

    @property
    def is_directory(self) -> bool:
        return self.attributes is not None and stat.S_ISDIR(self.attributes.mode)


@dataclass(slots=True)
class _Trace:
    """The visible parts of a path, from the lowest layer up."""

    path: bytes
    touches: list[Touch] = field(default_factory=list)
    alive: list[int] = field(default_factory=list)  # indexes into `touches`
    is_directory: bool = False

    def take(self, layer: int, seen: _Seen) -> None:
        was_alive, was_directory = bool(self.alive), self.is_directory
        hides = self._hide(layer) if self._is_hiding(seen) else ()
        action = self._action(seen, was_alive, was_directory)
        if action is None or (action == "hidden" and not was_alive):
            return
        because = None if seen.because == self.path else seen.because
        self.touches.append(Touch(layer, action, seen.attributes, seen.how, because, hides))
        if seen.attributes is not None:
            self.alive.append(len(self.touches) - 1)
            self.is_directory = seen.is_directory

    def _is_hiding(self, seen: _Seen) -> bool:
        """Return whether lower layers are hidden; an opaque directory itself continues."""
        if seen.because == self.path and seen.how == "opaque" and self.is_directory:
            return seen.marks is None or not seen.marks.implied
        if seen.attributes is not None and not (seen.is_directory and self.is_directory):
            return True
        return bool(seen.how)

    def _hide(self, layer: int) -> tuple[int, ...]:
        hidden = tuple(self.touches[place].layer for place in self.alive)
        for place in self.alive:
            self.touches[place] = replace(self.touches[place], hidden_by=layer)
        self.alive.clear()
        self.is_directory = False
        return hidden

    def _action(self, seen: _Seen, was_alive: bool, was_directory: bool) -> Action | None:
        if seen.attributes is None:
            if not seen.how:
                return None
            return "deleted" if seen.because == self.path else "hidden"
        is_here = seen.how == "opaque" and seen.because == self.path
        goes_on = seen.is_directory and was_directory and (not seen.how or is_here)
        if goes_on and seen.marks is not None and seen.marks.implied:
            return "mentioned"
        return "changed" if was_alive else "added"


def trace(tree: Tree, path: bytes) -> tuple[bytes, list[Touch]]:
    """Return the path, and what each layer that touched it did, newest first.

    Symlinks in directories of the path are followed as the image shows them. Raise ENOENT if no
    layer has the path.
    """
    path = _settled(tree, path)
    with core.LayerTrees(tree) as trees:
        found = _Trace(path)
        for layer in range(len(tree)):
            found.take(layer, _look(trees, layer, path))
    if not any(touch.attributes is not None or touch.hides for touch in found.touches):
        raise FileNotFoundError(errno.ENOENT, "no layer has this path")
    return path, found.touches[::-1]


def _settled(tree: Tree, path: bytes) -> bytes:
    """Return the path with symlinks in its directories resolved if they exist."""
    names = [name for name in path.split(b"/") if name not in (b"", b".")]
    for end in range(len(names), 0, -1):
        try:
            found = follow(tree, b"/".join(names[:end]), last=end < len(names))
        except OSError as error:
            if error.errno not in _ABSENT:
                raise
            continue
        return b"/".join([*filter(None, [found.path]), *names[end:]])
    return b"/".join(names)


def _look(trees: LayerTrees, layer: int, path: bytes) -> _Seen:
    """Return what a layer holds at a path: the topmost mark that hides it, and the path itself."""
    at = trees.lookup(core.ROOT, b"%d" % layer)
    names, how, because = path.split(b"/") if path else [], "", None
    for number in range(len(names) + 1):
        here = b"/".join(names[:number])
        marks = trees.marks(at.node) if stat.S_ISDIR(at.mode) else None
        own = _hiding(at, marks)
        if own == "file" and number == len(names):
            return _Seen(at, None, how, because)
        if own and not how:
            how, because = own, here
        if marks is None:
            return _Seen(None, None, how, because)
        if number == len(names):
            return _Seen(at, marks, how, because)
        try:
            at = trees.lookup(at.node, names[number])
        except FileNotFoundError:
            break
    return _Seen(None, None, how, because)


def _hiding(found: Attributes, marks: Marks | None) -> str:
    """Return how a name hides lower layers; empty if it does not."""
    if marks is None:
        is_whiteout = stat.S_ISCHR(found.mode) and not found.major and not found.minor
        return "whiteout" if is_whiteout else "file"
    return "replaced" if marks.replaces else "opaque" if marks.opaque else ""
