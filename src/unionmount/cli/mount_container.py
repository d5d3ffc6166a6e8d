"""The mount of a container that is to run: with a scaffold, and with what config.json needs."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unionmount.errors import MountError

if TYPE_CHECKING:
    from unionmount.cli.mount_sources import MountArguments, Prepared
    from unionmount.cli.settings import Settings
    from unionmount.core import BrowsableTree
    from unionmount.mounting.options import MountOptions
    from unionmount.runtime.assembly import Assembly, Surroundings, Wanted
    from unionmount.runtime.host import HostFile


@dataclass(frozen=True, slots=True)
class MountedContainer:
    """A container whose root directory is mounted."""

    root: Path
    document: dict[str, Any]  # config.json
    files: list[HostFile]


@contextmanager
def mount_container(
    settings: Settings,
    source: str,
    bundle: Path,
    wanted: Wanted,
    given: dict[str, Any],
    *,
    rootless: bool,
) -> Iterator[MountedContainer]:
    """Mount a container; it stays mounted if the block succeeds.

    ``given`` are the options of ``MountArguments`` on the command line; ``bundle`` is the directory
    that config.json will be in.
    """
    from unionmount.cli.mount_sources import prepared
    from unionmount.cli.mountpoint import clean_dead
    from unionmount.cli.start_mount import MountStarter
    from unionmount.runtime.limits import check

    around, options = surroundings(rootless=rootless)
    check(wanted.limits, rootless=around.rootless)
    start = MountStarter(settings, options, None, foreground=False, private=True)
    clean_dead(start.table)
    with ExitStack() as undo:
        roots: list[str] = []
        with prepared(settings, arguments_of(given), source, start.table) as found:
            assembly = assembled(found, wanted, around, bundle)
            _check_access(options, assembly)
            document = assembly.document("", bundle)  # before anything is mounted or kept

            def announce(path: str) -> None:
                roots.append(path)
                undo.callback(_unmount, path)
                found.announced()

            start.run(found.image, found.source, found.plan, announce, found.lease)
        document["root"]["path"] = roots[0]
        yield MountedContainer(Path(roots[0]), document, assembly.host_files)
        undo.pop_all()


def arguments_of(given: dict[str, Any]) -> MountArguments:
    """Return the arguments of the mount of a container, checked."""
    from unionmount.cli.mount_sources import MountArguments

    arguments = MountArguments(
        **given, verify=False, read_only=False, upper=None, work=None, volatile=False
    )
    arguments.check()
    return arguments


def assembled(
    found: Prepared,
    wanted: Wanted | Callable[[BrowsableTree], Wanted],
    around: Surroundings,
    bundle: Path,
    *,
    runs_here: bool = False,
) -> Assembly:
    """Decide what the container will be, and put the scaffold on top of its image.

    With ``runs_here``, raise NotExecutable if its program is for another kind of machine.
    """
    from unionmount.runtime.assembly import Assembly
    from unionmount.runtime.scaffold import open_scaffold

    image = found.image
    with _shown(found) as files:
        decided = wanted(files) if callable(wanted) else wanted
        assembly = Assembly(image.image.config, image.name, files, decided, around)
        if runs_here:
            assembly.check_program(files)
        scaffold = open_scaffold(image.tree(), assembly.places(bundle))
    if scaffold is not None:
        image.put_on_top(scaffold)
    with _shown(found) as files:
        assembly.leave_out_hidden(files)
    return assembly


@contextmanager
def _shown(found: Prepared) -> Iterator[BrowsableTree]:
    """Yield the files of the container as they are now."""
    from unionmount.browse.open import view_of_upper

    tree = found.image.tree()
    if found.plan is None or not any(found.plan.upper.iterdir()):
        yield tree
        return
    with view_of_upper(tree, found.plan.upper) as view:
        yield view


def surroundings(*, rootless: bool) -> tuple[Surroundings, MountOptions]:
    """Return facts about this user, and the options of the mount, for a bundle."""
    from unionmount.mounting.options import MountOptions
    from unionmount.runtime.assembly import Surroundings

    if rootless:
        return _rootless()
    if os.geteuid():
        raise MountError("a runtime of an ordinary user makes a user namespace; add --rootless")
    return Surroundings(), MountOptions(suid=True)


def own_surroundings(runtime: str) -> tuple[Surroundings, MountOptions]:
    """Return the facts for a runtime that is called here, by root or in ``enter_namespace``."""
    from unionmount.mounting.options import MountOptions
    from unionmount.runtime.assembly import Surroundings
    from unionmount.runtime.host import is_known
    from unionmount.runtime.limits import check_mounted
    from unionmount.runtime.subordinate_ids import SubordinateIds

    around = Surroundings(unknown_runtime=not is_known(runtime))
    if os.geteuid() == 0:
        check_mounted()
        return around, MountOptions(suid=True)
    ids = SubordinateIds.of_user()
    if not ids.complete:
        _warn_of_one_id()
    groups = max(one.stored + one.size for one in ids.groups)
    return replace(around, rootless=True, groups=groups), MountOptions(suid=True)


def enter_namespace(runtime_directory: Path) -> None:
    """Enter a user namespace in which this user may be many, with the same runtime directory."""
    from unionmount.cli.unpacked_images import remember_user
    from unionmount.runtime.subordinate_ids import SubordinateIds, lines
    from unionmount.system.user_namespace import enter_alone, enter_mapped

    os.environ["UNIONMOUNT_RUNTIME_DIR"] = str(runtime_directory)
    remember_user()
    ids = SubordinateIds.of_user()
    if ids.complete:
        enter_mapped(lines(ids.users), lines(ids.groups))
    else:
        enter_alone()


def _rootless() -> tuple[Surroundings, MountOptions]:
    from unionmount.mounting.options import MountOptions, MountView
    from unionmount.runtime.assembly import Surroundings
    from unionmount.runtime.spec import UserNamespace
    from unionmount.runtime.subordinate_ids import SubordinateIds
    from unionmount.system.id_map import IdMap

    ids = SubordinateIds.of_user()
    if not ids.complete:
        _warn_of_one_id()
    groups = max(one.stored + one.size for one in ids.groups)
    around = Surroundings(True, UserNamespace(ids.users, ids.groups), groups)
    options = MountOptions(allow_other=_others_are_permitted(), default_permissions=True)
    return around, replace(options, view=MountView(IdMap(ids.users), IdMap(ids.groups)))


def _others_are_permitted(path: Path = Path("/etc/fuse.conf")) -> bool:
    """Return whether fusermount3 lets users open their mounts to others."""
    try:
        lines = path.read_bytes().splitlines()
    except OSError:
        return False
    return any(line.strip() == b"user_allow_other" for line in lines)


def _check_access(options: MountOptions, assembly: Assembly) -> None:
    """Raise MountError if the user of a container could not enter its root directory."""
    if options.allow_other is False and assembly.user.uid:
        raise MountError(
            f"the container runs as user {assembly.user.uid}, whom your mounts are closed to; use "
            "'unionmount run' or --user 0, or let an administrator add 'user_allow_other' to "
            "/etc/fuse.conf"
        )


def _warn_of_one_id() -> None:
    print(
        "unionmount: warning: /etc/subuid and /etc/subgid have no range for this user, so the "
        "container has one user, root; 'usermod --add-subuids 100000-165535 --add-subgids "
        "100000-165535 USER' gives it more",
        file=sys.stderr,
    )


def _unmount(path: str) -> None:
    from unionmount.mounting.fuse_mount import unmount_fuse

    unmount_fuse(Path(path), lazy=True)
