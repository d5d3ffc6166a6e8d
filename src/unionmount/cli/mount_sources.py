"""The preparation of a mount: an open image, and a place for its changes."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from unionmount.cli.open_image import open_kept, open_trusted, progress_line, warn_if_foreign
from unionmount.errors import MountError, NotFoundError, UsageError
from unionmount.system.os_errors import raising
from unionmount.system.text import printable

if TYPE_CHECKING:
    from unionmount.cli.options import RegistryOptions
    from unionmount.cli.settings import Settings
    from unionmount.images.opened import OpenImage
    from unionmount.images.platform import Platform
    from unionmount.mounting.records import MountTable
    from unionmount.mounting.upper_directory import UpperPlan
    from unionmount.sources import Location
    from unionmount.store.containers import Containers, HeldContainer
    from unionmount.store.leases import Lease
    from unionmount.transfer.pull import Policy


_NEW_ROOT = 0o755  # the mode of the root of an image without layers


@dataclass(frozen=True, slots=True)
class MountArguments:
    """The arguments of ``mount``, except for the source and the mount point."""

    platform: Platform | None
    verify: bool
    read_only: bool
    name: str | None
    upper: str | None
    work: str | None
    ephemeral: bool
    volatile: bool
    pull: Policy
    registry: RegistryOptions
    layer: int | None = None
    layers: bool = False
    upper_open: bool = False
    fstab: bool = False  # whether the options are those of fstab

    @property
    def only_layers(self) -> bool:
        """Whether layers are shown as they are, without changes."""
        return self.layer is not None or self.layers

    @property
    def shows_only(self) -> bool:
        """Whether the mount is read-only."""
        return self.read_only or self.only_layers

    def spelling(self, option: str) -> str:
        """Return an option as the user writes it, who may do so in fstab."""
        if not self.fstab:
            return option
        equals = "=" if option in ("--name", "--upper", "--work", "--layer", "--platform") else ""
        return option.removeprefix("--").replace("-", "_") + equals

    def check(self) -> None:
        """Raise UsageError if options are empty or cannot be combined."""
        spelling = self.spelling
        for option, value in (("--upper", self.upper), ("--work", self.work)):
            if value == "":  # Path("") would be the working directory
                raise UsageError(f"{spelling(option)} is empty")
        changing = {
            "--name": self.name,
            "--ephemeral": self.ephemeral,
            "--volatile": self.volatile,
        }
        given = [spelling(option) for option, value in changing.items() if value]
        upper, ro = spelling("--upper"), spelling("--ro")
        if self.only_layers and (given or self.upper):
            option = given[0] if given else upper
            shows = spelling("--layers" if self.layers else "--layer")
            raise UsageError(f"{option} cannot be combined with {shows}, which mounts read-only")
        if self.layers and self.layer is not None:
            raise UsageError("--layers cannot be combined with --layer: choose all layers or one")
        if self.read_only and given:
            raise UsageError(
                f"{given[0]} cannot be combined with {ro}: a read-only mount keeps no changes"
            )
        if self.upper and (self.name or self.ephemeral):
            other = spelling("--name" if self.name else "--ephemeral")
            raise UsageError(
                f"{other} cannot be combined with {upper}, which keeps changes outside "
                "of containers"
            )
        for option, needs_upper in (("--work", self.work), ("--upper-open", self.upper_open)):
            if needs_upper and not self.upper:
                raise UsageError(f"{spelling(option)} needs {upper}")

    def check_for_container(self, name: str) -> None:
        """Raise UsageError if there are options that only new containers have."""
        new = {
            "--name": self.name,
            "--upper": self.upper,
            "--ephemeral": self.ephemeral,
            "--platform": self.platform,
        }
        given = [self.spelling(option) for option, value in new.items() if value]
        if given:
            raise UsageError(f"'{name}' is an existing container; {given[0]} is for new ones only")


@dataclass(slots=True)
class Prepared:
    """An open image, and for a writable mount the place of its changes."""

    source: str
    image: OpenImage
    plan: UpperPlan | None
    lease: Lease  # protects the layers
    made: ExitStack  # undoes what was made for this mount
    new_name: str = ""  # of a container whose name was chosen here
    held: HeldContainer | None = None  # the container; None if changes are kept elsewhere
    is_new: bool = False  # whether the container was made for this mount

    def warn_if_foreign(self) -> None:
        """Warn on standard error if the image is for another kind of machine."""
        warn_if_foreign(self.image.name, self.image.image.config.platform)

    def announced(self) -> None:
        """Keep everything that was created; print the name of a new container."""
        self.made.pop_all()
        if self.new_name:
            with suppress(OSError):  # a closed standard error is no reason to undo the mount
                print(f"container: {self.new_name}", file=sys.stderr)


@contextmanager
def prepared(
    settings: Settings,
    wanted: MountArguments,
    source: str,
    table: MountTable,
    *,
    warns: bool = True,
) -> Iterator[Prepared]:
    """Open an image, and create or find the place of its changes.

    Everything that was created is removed again unless ``announced`` is called. ``warns`` is
    whether to warn of an image for another kind of machine.
    """
    from unionmount.browse.open import container_named
    from unionmount.cli.run_transfer import find_or_pull
    from unionmount.sources import Location
    from unionmount.store.containers import Containers

    store = settings.store()
    known = Containers(store)
    known.clean()
    with (
        store.lease("mount", f"about to mount {printable(source)}") as lease,
        ExitStack() as opened,
        ExitStack() as made,
    ):
        opener = _Opener(settings, wanted, known, lease, opened, made)
        name = container_named(store, known, source)
        if name is None:
            known.check_new(wanted.name)  # fail before anything is fetched
            location = find_or_pull(
                *(settings, wanted.registry, Location.parse(source), wanted.pull, wanted.platform),
                lease=lease,
            )
            found = opener.open(location)
        else:
            found = opener.open_container(name, table)
        if warns:
            found.warn_if_foreign()
        yield found


@dataclass(frozen=True, slots=True)
class _Opener:
    """The ways to prepare a mount; the caller owns both stacks of resources."""

    settings: Settings
    wanted: MountArguments
    known: Containers
    lease: Lease
    opened: ExitStack
    made: ExitStack

    def open(self, location: Location) -> Prepared:
        """Prepare an image, with a place for its changes if it is to be writable."""
        wanted = self.wanted
        if wanted.upper:
            return self._with_upper(location, wanted.upper)
        if wanted.only_layers or wanted.read_only:
            return self._read_only(self._open(location), location.absolute())
        return self._with_container(location)

    def open_container(self, name: str, table: MountTable) -> Prepared:
        """Prepare an existing container, or only the layers of its image."""
        from unionmount.browse.open import open_lowers

        self.wanted.check_for_container(name)
        if not self.wanted.only_layers:
            return self._again(name, table)
        container = self.known.find(name)
        image = open_lowers(self.settings.store(), container, verify=self.wanted.verify)
        self.opened.enter_context(image)
        return self._read_only(image, container.image.source)

    def _read_only(self, image: OpenImage, source: str) -> Prepared:
        if self.wanted.layer is not None:
            image.cut(self.wanted.layer)
        return Prepared(source, image, None, self.lease, self.made)

    def _again(self, name: str, table: MountTable) -> Prepared:
        """Prepare an existing container."""
        from unionmount.browse.open import is_unpacked
        from unionmount.cli.container_words import in_use
        from unionmount.store.containers import ContainerInUse
        from unionmount.transfer.load import open_stored

        try:
            held = self.opened.enter_context(self.known.hold(name))
        except ContainerInUse:
            raise in_use(table, self.settings.store_root(), name) from None
        self._clean_dead(name, table)
        found, store = held.container.image, self.settings.store()
        if is_unpacked(store, found):
            from unionmount.browse.open import open_lowers

            image = open_lowers(store, held.container, verify=self.wanted.verify)
        else:
            with progress_line() as progress:
                image = open_stored(
                    store,
                    found.stored,
                    found.name,
                    verify=self.wanted.verify,
                    progress=progress,
                    lease=self.lease,
                )
        self.opened.enter_context(image)
        self._hold(image)
        plan = self._plan_of(held, image)
        return Prepared(found.source, image, plan, self.lease, self.made, held=held)

    def _clean_dead(self, name: str, table: MountTable) -> None:
        """Remove what daemons left, which are dead as this process holds the container's lock."""
        from unionmount.cli.take_away import clean
        from unionmount.mounting.mount_words import mounts_of

        for one in mounts_of(table, self.settings.store_root(), name):
            if not one.alive:
                with suppress(MountError):  # 'ps' still lists it
                    clean(table, one)

    def _with_container(self, location: Location) -> Prepared:
        """Prepare an image with a new container."""
        from unionmount.store.containers import ContainerImage

        wanted = self.wanted
        self.known.check_new(wanted.name)
        # An ephemeral container is mounted only once, so plain layers may stay in their archive.
        stays = wanted.ephemeral or location.is_unpacked
        image = self._open(location, open_trusted if stays else open_kept)
        source, found = location.absolute(), image.image
        facts = ContainerImage(
            *(source, printable(image.name), found.id, found.manifest.digest),
            unpacked=image.is_unpacked,
        )
        if location.is_unpacked and not wanted.ephemeral:
            self._keep_documents(image)
        held = self.known.create(facts, wanted.name, ephemeral=wanted.ephemeral)
        self.opened.enter_context(held)
        remove = partial(_remove, self.known, held)
        self.made.callback(remove)
        plan = self._plan_of(held, image)
        if wanted.ephemeral:
            return Prepared(source, image, replace(plan, ended=remove), self.lease, self.made)
        new_name = held.container.name if wanted.name is None else ""
        return Prepared(source, image, plan, self.lease, self.made, new_name, held, is_new=True)

    def _with_upper(self, location: Location, upper: str) -> Prepared:
        """Prepare an image with an upper directory that the user named."""
        directory = Path(os.path.realpath(upper))
        work = Path(os.path.realpath(self.wanted.work or f"{directory}.work"))
        image = self._open(location)
        is_new = self._make_directory(directory)
        self._make_directory(work)
        plan = replace(
            self._plan(directory, work, image),
            others="accepted" if self.wanted.upper_open else "refused",
            accepting=self.wanted.spelling("--upper-open"),
            root_mode=_NEW_ROOT if is_new else None,
        )
        if self.wanted.upper_open:
            _warn_of_others(directory, work)
        return Prepared(location.absolute(), image, plan, self.lease, self.made)

    def _make_directory(self, path: Path) -> bool:
        """Make a directory that is removed again if the mount fails; return False if it exists."""
        with raising(MountError, f"directory {path}"):
            try:
                path.mkdir(0o700)  # the root of the mount has a mode of its own
            except FileExistsError:
                return False
        self.made.callback(_remove_empty, path)
        return True

    def _open(
        self, location: Location, opener: Callable[..., OpenImage] = open_trusted
    ) -> OpenImage:
        wanted = self.wanted
        image = opener(
            self.settings,
            location,
            platform=wanted.platform,
            verify=wanted.verify,
            lease=self.lease,
        )
        self.opened.enter_context(image)
        self._hold(image)
        if wanted.layers:
            image.require_indexes()
        if not wanted.shows_only:
            _refuse_marked(image)
        return image

    def _hold(self, image: OpenImage) -> None:
        """Have another tool keep its image, until the mount ends or fails."""
        if image.is_unpacked:
            from unionmount.cli.unpacked_images import hold

            self.made.callback(hold(self.settings.store().root, image))

    def _keep_documents(self, image: OpenImage) -> None:
        """Keep manifest and config of a container's image, whose layers are another tool's."""
        store, documents = self.settings.store(), image.image
        self.lease.protect(documents.manifest.digest, documents.id)
        store.put_blob(documents.manifest.raw, documents.manifest.digest)
        store.put_blob(documents.config.raw, documents.id)

    def _plan_of(self, held: HeldContainer, image: OpenImage) -> UpperPlan:
        container = held.container
        plan = self._plan(container.upper, container.work, image)
        return replace(plan, container=container.name, root_mode=_NEW_ROOT)

    def _plan(self, upper: Path, work: Path, image: OpenImage) -> UpperPlan:
        from unionmount.mounting.upper_directory import UpperPlan

        ids = None
        if image.is_unpacked:
            from unionmount.cli.unpacked_images import namespace_of

            ids = namespace_of(image)
        return UpperPlan(
            upper,
            work,
            lowers=image.lowers,
            adopt_root=bool(image.layers),
            volatile=self.wanted.volatile or self.wanted.ephemeral,
            others="refused",
            own_root=True,
            ids=ids,
            follow_namespace=True,
        )


def _refuse_marked(image: OpenImage) -> None:
    """Raise UsageError if an upper cannot hold all names of a root file system."""
    names = [printable(name) for layer in image.layers for name in layer.marked]
    if names:
        raise UsageError(
            f"{printable(image.name)}: has names that changes cannot be kept beside, as they mark "
            f"deletions ('{names[0]}'); mount it with --ro"
        )


def _remove(known: Containers, held: HeldContainer) -> None:
    with suppress(NotFoundError):  # the daemon or its starter has removed it
        known.discard(held)


def _warn_of_others(upper: Path, work: Path) -> None:
    """Warn if other users can reach an upper that was accepted with --upper-open."""
    from unionmount.system.access import is_closed

    for what, path in (("upper", upper), ("work", work)):
        try:
            fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError:  # the next one to open it reports the error
            continue
        try:
            is_open = not is_closed(fd)
        finally:
            os.close(fd)
        if is_open:
            message = f"warning: {what} directory {printable(str(path))}: other users can reach it"
            print(f"unionmount: {message}", file=sys.stderr)


def _remove_empty(path: Path) -> None:
    with suppress(OSError):
        path.rmdir()
