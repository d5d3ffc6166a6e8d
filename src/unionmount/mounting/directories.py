"""Directories of the host, opened as layers of a mount."""

from __future__ import annotations

import os
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from unionmount import core
from unionmount.mounting.namespace import recorded_namespace
from unionmount.mounting.stat_marks import StatName, stat_name
from unionmount.system.closing import Closing
from unionmount.system.text import printable
from unionmount.system.trust import OverrideStat, has_identity, is_ours, reads_trusted

if TYPE_CHECKING:
    from collections.abc import Sequence

from unionmount.system.os_errors import naming


class OpenDirectory(Closing):
    """A live directory as a layer; owns its descriptors.

    ``fd`` is the directory on a private, read-only mount if this user can have one (``private``).
    The original descriptor stays open, too, so that the file system stays in use.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with ExitStack() as stack, naming(printable(str(path))):
            self.fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            stack.callback(os.close, self.fd)
            self.shown = self.fd
            self.closed = is_ours(
                self.fd
            )  # depends on the directories above, which a private mount lacks
            self.namespace = recorded_namespace(self.fd)
            private = stack.enter_context(core.private_directory(self.fd, read_only=True))
            self.private = private is not None
            if private is not None:
                self.fd = core.open_beneath(private, b".")
                stack.callback(os.close, self.fd)
            self._resources = stack.pop_all()

    def close(self) -> None:
        """Close the descriptors; a second call does nothing."""
        self.fd = -1
        self._resources.close()


class OpenDirectories(Closing):
    """Live directories as the layers of one tree, lowest first; owns them and the tree."""

    def __init__(
        self,
        paths: Sequence[Path],
        name: str,
        *,
        leads: bool = True,
        override_stat: OverrideStat = OverrideStat.OWN,
        hidden: Sequence[Path] = (),
        no_user_marks: bool = False,
        removable: bool = False,
    ) -> None:
        """Open ``paths``, absolute and lowest first; an OSError names the path it is about.

        Without ``leads``, redirects and metacopies are not followed, like with ``userxattr`` in the
        kernel. ``override_stat`` says which attributes of this kind are believed. The layers hide
        ``hidden``, the directories that take the changes, if they contain them. ``no_user_marks``:
        names below ``user.overlay.`` are no marks, as they are none for root's overlayfs.
        ``removable``: another program owns the directories, and may remove them.
        """
        self._no_user_marks = no_user_marks
        self._removable = removable
        self._hidden = tuple((status.st_dev, status.st_ino) for status in map(Path.stat, hidden))
        self.name = name
        self._leads = leads
        self._override_stat = override_stat
        with ExitStack() as stack:
            self.layers = tuple([stack.enter_context(OpenDirectory(path)) for path in paths])
            stack.pop_all()
        self._tree: core.Tree | None = None

    @property
    def paths(self) -> tuple[Path, ...]:
        """The paths of the directories, lowest first."""
        return tuple(layer.path for layer in self.layers)

    def tree(self) -> core.Tree:
        """Return the directories as one tree: the same object at every call, closed with this."""
        if self._tree is None:
            self._tree = core.Tree(self.for_tree())
        return self._tree

    def for_tree(self) -> list[core.DirectoryLayer]:
        """Return the layers for a tree that somebody else owns and closes before this."""
        return [
            core.DirectoryLayer(
                *(layer.fd, layer.private, layer.shown, self._belief_in(layer)),
                hidden=self._hidden,
                removable=self._removable,
            )
            for layer in self.layers
        ]

    def _belief_in(self, layer: OpenDirectory) -> core.Belief:
        """Return the marks in a directory that are believed."""
        trusted, known = reads_trusted(), has_identity()
        everywhere = self._override_stat is OverrideStat.ALWAYS
        name = stat_name(layer.shown, closed=layer.closed, trusting=everywhere)
        return core.Belief(
            trusted=self._leads and trusted,
            own=self._leads and known and not trusted,
            stat=self._override_stat in (OverrideStat.OWN, OverrideStat.PRIVILEGED) and known,
            any_stat=everywhere,
            stat_fuse=name is StatName.FUSE,
            stat_security=name is StatName.SECURITY,
            closed=layer.closed,
            no_user=self._no_user_marks or layer.namespace == "trusted",
        )

    def close(self) -> None:
        """Close tree and descriptors, in this order; a second call does nothing."""
        tree, self._tree = self._tree, None
        if tree is not None:
            tree.close()
        for layer in self.layers:
            layer.close()
