"""One run: the same steps on all sides, every outcome compared, and the trees at the end.

The expected outcome of a step is that of the plain directory; where the kernel's overlayfs gives
another, `deviations` must say which of the two is right. What a failing run prints can be repeated
with `replay`.
"""

from __future__ import annotations

import os
import shutil
import stat
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, NoReturn

from support.compare import Item, Snapshot, differences, snapshot
from support.idmapped import idmapped

from differential import lowers
from differential.deviations import (
    KNOWN_DEVIATIONS,
    NOW,
    Case,
    Deviation,
    Either,
    explain,
    is_not_empty,
)
from differential.lowers import Stack
from differential.maps import Maps, stored_stack
from differential.sides import KernelOverlay, Layout, PlainDirectory, Side, Subject
from differential.worker import Identity, Outcome, Zygote

Step = tuple[str, str, dict[str, Any]]
"""Who, what, and with which arguments. Nobody ("") compares the trees or remounts."""

ROOT = Identity("root", 0, 0)
USER = Identity("user", 65534, 65534, (65534, 100, 4242))
MEMBER = Identity("member", 1000, 1000, (1000, 100))
OBSERVER = Identity("observer", 0, 0)


class Difference(AssertionError):
    """A side does not do what it should; the text has the script that shows it."""


@dataclass(frozen=True)
class Variant:
    """What is compared, and as whom."""

    name: str
    subject: Callable[[], Subject]
    identities: tuple[Identity, ...] = (ROOT, USER, MEMBER)
    observer: Identity = OBSERVER
    owner: int = 0
    """Whose upper it is."""
    image: bool = False
    """The subject mounts an image of the lowers."""
    marks: str = lowers.KERNEL_MARKS
    """How the subject's lower directories spell whiteouts."""
    owned_lowers: bool = False
    """Everything in the lowers belongs to ``owner``."""
    acls: bool = True
    """The subject has POSIX ACLs."""
    nameless: bool = True
    """The subject has O_TMPFILE."""
    mount_flags: int = 0
    """Flags of the plain directory's mount and overlayfs', where the subject's has to have them."""
    maps: Maps | None = None
    """How the owners on disk are shown."""
    deviations: tuple[Deviation, ...] = KNOWN_DEVIATIONS
    excuse: Callable[[Case], bool] = lambda _case: False
    """A known limit of the subject: `Case.kernel` is what it says, `Case.plain` what it should."""


@dataclass
class Place:
    """Where runs put their directories, and what they share."""

    lowers: Path
    uppers: Path
    zygote: Zygote
    steps: Counter[str] = field(default_factory=Counter)
    runs: int = 0
    current: Run | None = None
    """The run that is not closed yet."""
    report: Callable[[str], object] | None = None
    """Is told of the first difference, before Hypothesis makes it small, which takes minutes."""

    def abandon(self) -> None:
        """Close what an interrupt has left open."""
        if self.current:
            self.current.close()

    def fresh(self) -> tuple[Path, Path]:
        """Directories for the lowers and for the rest of one run."""
        self.runs += 1
        made = self.lowers / f"lowers-{self.runs}", self.uppers / f"run-{self.runs}"
        for directory in made:
            directory.mkdir()
            directory.chmod(0o755)
        return made


class Run:
    """Sides over one stack of lowers. To be closed."""

    def __init__(self, place: Place, variant: Variant, stack: Stack, *, look: bool = True) -> None:
        self.place, self.variant = place, variant
        place.current = self
        self.stack = lowers.owned_by(stack, variant.owner) if variant.owned_lowers else stack
        if not variant.acls:
            self.stack = lowers.without(self.stack, "system.")
        self.steps: list[Step] = []
        self._handles: dict[int, str] = {}
        self._maps: dict[int, str] = {}
        self._lower_base, self._base = place.fresh()
        self._started = time.time_ns() - 10**9  # the kernel's clock may be a little behind
        self.sides: list[Side] = []
        self._shown = ExitStack()
        """Idmapped mounts of the lowers and of overlayfs' upper."""
        try:
            self._set_up(look)
        except BaseException:
            self.close()
            raise

    def _set_up(self, look: bool) -> None:
        base, maps = self._lower_base, self.variant.maps
        stack = stored_stack(self.stack, maps) if maps else self.stack
        own = self._build(base / "own", stack, self.variant.marks)
        kernels = self._build(base / "kernel", lowers.reduced(stack), lowers.KERNEL_MARKS)
        archive = None
        if self.variant.image:
            archive = lowers.image(stack, base / "image.tar", self.variant.owner)
        self._before = {path: snapshot(path) for path in {*own, *kernels}}
        plain = PlainDirectory(self.variant.mount_flags, maps)
        self.plain = self._side(plain, kernels)
        self.kernel: Side | None = None
        if maps is None or maps.has_root():
            self.kernel = self._kernel_side(kernels)
        self.subject = self._side(self.variant.subject(), own, archive, self.variant.owner)
        for side in self.sides:
            side.enter()
        self.plain.hold()
        self._numbers: dict[int, int] = {}
        if look:
            self.compare()

    def _kernel_side(self, lower_dirs: tuple[Path, ...]) -> Side:
        kernel = KernelOverlay()
        kernel.flags = self.variant.mount_flags
        side = self._side(kernel, lower_dirs)
        if self.variant.maps:
            base = side.layout.upper.parent
            below, above = (self._show(one) for one in (lower_dirs[0].parent, base))
            side.layout = replace(
                side.layout,
                lowers=tuple(below / path.name for path in lower_dirs),
                upper=above / "upper",
                work=above / "work",
            )
        return side

    def _show(self, directory: Path) -> Path:
        """An idmapped mount of a directory."""
        assert self.variant.maps is not None
        where = self._base / f"shown-{directory.name}"
        where.mkdir()
        return self._shown.enter_context(idmapped(directory, where, *self.variant.maps.ranges()))

    def _build(self, base: Path, stack: Stack, marks: str) -> tuple[Path, ...]:
        base.mkdir()
        made = tuple(base / str(number) for number in range(len(stack)))
        for layer, path in zip(stack, made, strict=True):
            lowers.build(layer, path, marks)
            lowers.finish_root(path, *self._root_owner())
        return made

    def _side(
        self,
        subject: Subject,
        lower_dirs: tuple[Path, ...],
        archive: Path | None = None,
        owner: int = 0,
    ) -> Side:
        base = self._base / f"{len(self.sides)}"
        names = ("upper", "work", "mnt", "state")
        base.mkdir()
        for name in names:
            (base / name).mkdir()
            os.chown(base / name, *(self._root_owner() if name != "state" else (owner, owner)))
        lowers.finish_root(base / "upper", *self._root_owner())
        upper, work, mountpoint, state = (base / name for name in names)
        layout = Layout(lower_dirs, upper, work, mountpoint, state, archive)
        identities, observer = self.variant.identities, self.variant.observer
        side = Side(subject, layout, self.place.zygote, identities, observer)
        self.sides.append(side)
        return side

    def _root_owner(self) -> tuple[int, int]:
        owner = self.variant.owner
        return self.variant.maps.stored(owner, owner) if self.variant.maps else (owner, owner)

    # ---- steps

    def step(self, who: str, name: str, /, **arguments: Any) -> Outcome:
        """Do it on all sides; the outcome on the plain directory."""
        self.steps.append((who, name, arguments))
        self.place.steps[name] += 1
        plain = self._do(self.plain, who, name, arguments)
        kernel = self._do(self.kernel, who, name, arguments) if self.kernel else plain
        found = self._do(self.subject, who, name, arguments)
        if self.kernel and kernel[0] == "lost":
            self._fail(f"{self.kernel.name}: {kernel[1]}")
        expected = self._expected(name, arguments, kernel, plain)
        if not _agree(found, expected) and not self._excused(name, arguments, found, expected):
            self._fail(
                f"{who}: {name}: {self.subject.name} says {_shown(found)}, "
                f"expected {_shown(expected)} (plain directory: {_shown(plain)}, "
                f"overlayfs: {_shown(kernel) if self.kernel else 'not asked'})"
            )
        self._keep_track(who, name, arguments, plain)
        return plain

    def _do(self, side: Side, who: str, name: str, arguments: dict[str, Any]) -> Outcome:
        kind, value = side.do(who, name, arguments)
        if kind == "ok" and isinstance(value, dict) and "mtime" in value:
            value = value | {"mtime": self._time(value["mtime"])}
        elif kind == "ok" and name == "utimens":
            value = (value[0], self._time(value[1]))
        return kind, value

    def _time(self, ns: int) -> int:
        return NOW if ns >= self._started else ns

    def _expected(
        self, name: str, arguments: dict[str, Any], kernel: Outcome, plain: Outcome
    ) -> Any:
        if kernel == plain:
            return plain
        both = (kernel[1], plain[1])
        if kernel[0] == plain[0] == "ok" and all(isinstance(one, dict) for one in both):
            merged = {
                key: self._settle(
                    Case(name, key, arguments, kernel[1][key], plain[1][key], plain[1]["mode"])
                )
                for key in plain[1]
            }
            return "ok", merged
        return self._settle(Case(name, "", arguments, kernel, plain))

    def _settle(self, case: Case) -> Any:
        """Whose answer counts."""
        if case.kernel == case.plain:
            return case.plain
        deviation = explain(case, self.variant.deviations)
        if deviation is None:
            self._fail(
                f"the oracles disagree: {case.operation} {case.field}: overlayfs says "
                f"{_shown(case.kernel)}, the plain directory {_shown(case.plain)}"
            )
        if deviation.lasting and self.kernel:
            self.place.steps[f"overlayfs left out: {deviation.name}"] += 1
            self.kernel.abandon()
            self.kernel = None
        answers = {"kernel": case.kernel, "plain": case.plain}
        return answers.get(deviation.right, Either((case.kernel, case.plain)))

    def _excused(self, name: str, arguments: dict[str, Any], found: Outcome, want: Any) -> bool:
        if isinstance(want, Either):
            return False
        if found[0] == want[0] == "ok" and isinstance(found[1], dict):
            return all(
                found[1][key] == want[1][key]
                or self._is_excused(
                    Case(name, key, arguments, found[1][key], want[1][key], want[1]["mode"])
                )
                for key in want[1]
            )
        case = Case(name, "", arguments, found, want)
        return self._is_excused(case) or is_not_empty(case)

    def _is_excused(self, case: Case) -> bool:
        """Whether the subject may say so; without overlayfs, it may be as overlayfs may be."""
        if self.variant.excuse(case):
            return True
        deviation = None if self.kernel else explain(case, self.variant.deviations)
        return deviation is not None and deviation.right == "either"

    def _keep_track(self, who: str, name: str, arguments: dict[str, Any], done: Outcome) -> None:
        if done[0] != "ok":
            return
        match name:
            case "open" | "open_at":
                self._handles[arguments["handle"]] = who
            case "close":
                del self._handles[arguments["handle"]]
            case "map":
                self._maps[arguments["mapping"]] = who
            case "unmap":
                del self._maps[arguments["mapping"]]

    def is_open(self, handle: int) -> bool:
        """Whether a handle was opened and not closed yet."""
        return handle in self._handles

    def is_mapped(self, mapping: int) -> bool:
        """Whether a mapping was made and not undone yet."""
        return mapping in self._maps

    def close_all(self) -> None:
        """Let go of all handles and mappings."""
        for mapping, who in list(self._maps.items()):
            self.step(who, "unmap", mapping=mapping)
        for handle, who in list(self._handles.items()):
            self.step(who, "close", handle=handle)

    def remount(self) -> None:
        """Unmount, mount again, and compare."""
        self.close_all()
        self.steps.append(("", "remount", {}))
        self.place.steps["remount"] += 1
        for side in self.sides:
            if side is not self.plain and side.mounted:
                side.leave()
                self._check_log(side)
                side.enter()
        for identity in self.variant.identities:  # the new processes begin with this one
            self.plain.do(identity.name, "umask", {"mask": 0o022})
        self.compare(quiet=True)

    def finish(self) -> None:
        """Compare, remount, compare; and the lowers must be what they were."""
        self.compare()
        self.remount()
        self.subject.leave()
        self._check_log(self.subject)
        self._check_work()
        for path, before in self._before.items():
            lines = differences(before, snapshot(path))
            if lines:
                self._fail("\n".join([f"the lower directory {path.name} was changed:", *lines]))

    def _check_log(self, side: Side) -> None:
        if side.subject.log():
            self._fail(f"{side.name} says: {side.subject.log()}")

    def _check_work(self) -> None:
        left = [path.name for path in self.subject.layout.work.rglob("#*")]
        if left:
            self._fail(f"left in the work directory: {left}")

    # ---- trees

    def compare(self, *, quiet: bool = False) -> None:
        """Compare the whole trees."""
        if not quiet:
            self.steps.append(("", "compare", {}))
        plain = self._normal(self._seen(self.plain))
        expected = plain
        if self.kernel:
            expected = self._expected_tree(self._normal(self._seen(self.kernel)), plain)
        found = self._normal(self._seen(self.subject), own=True)

        def excuse(path: bytes, name: str, wanted: object, got: object) -> bool:
            if isinstance(wanted, Either):
                return got in wanted
            return self._is_excused(
                Case("tree", name, {"path": path}, got, wanted, plain[path].kind)
            )

        lines = differences(expected, found, excuse)
        if lines:
            self._fail("\n".join([f"the tree of {self.subject.name}:", *lines]))
        self._check_numbers(plain)

    def _seen(self, side: Side) -> Snapshot:
        try:
            return side.snapshot()
        except AssertionError as error:
            self._fail(str(error))

    def _normal(self, found: Snapshot, *, own: bool = False) -> Snapshot:
        """Times of the run are one; link counts of directories are what they should be."""
        below = Counter(
            path.rpartition(b"/")[0]
            for path, item in found.items()
            if path and item.kind == stat.S_IFDIR
        )
        return {
            path: replace(
                item,
                mtime_ns=self._time(item.mtime_ns),
                nlink=_links(item, below[path], own),
            )
            for path, item in found.items()
        }

    def _expected_tree(self, kernel: Snapshot, plain: Snapshot) -> Snapshot:
        kernel = {  # overlayfs says 1 for directories that merge
            path: replace(item, nlink=plain[path].nlink)
            if item.kind == stat.S_IFDIR and path in plain
            else item
            for path, item in kernel.items()
        }
        if kernel.keys() != plain.keys():
            lines = differences(plain, kernel)
            self._fail("\n".join(["the oracles disagree: the tree of overlayfs:", *lines]))
        return {
            path: item
            if item == kernel[path]
            else Item(
                **{
                    name: self._settle(_tree_case(path, name, kernel[path], item))
                    for name in (one.name for one in fields(Item))
                }
            )
            for path, item in plain.items()
        }

    def _check_numbers(self, kinds: Snapshot) -> None:
        """An object has one inode number for good; the plain directory says what one object is."""
        plain, found = self.plain.numbers(), self.subject.numbers()
        self.plain.hold()
        for path, (_, number, listed) in found.items():
            if listed != number:
                self._fail(f"{path!r} is listed as inode {listed}, but has {number}")
            known = self._numbers.get(plain[path][1], number)
            kind = kinds[path].kind
            if known != number and not self.variant.excuse(
                Case("tree", "ino", {"path": path}, number, known, kind)
            ):
                self._fail(f"{path!r} had inode {known} and now has {number}")
            self._numbers[plain[path][1]] = number

    # ---- ends

    def script(self) -> str:
        """The run as Python, to be repeated by `replay`."""
        lines = [f"STACK = {lowers.describe(self.stack)}", "STEPS = ["]
        lines += [f"    ({who!r}, {name!r}, {_arguments(more)})," for who, name, more in self.steps]
        return "\n".join([*lines, "]"])

    def _fail(self, text: str) -> NoReturn:
        difference = f"{text}\n{self.subject.subject.log()}\n{self.script()}"
        if self.place.report:
            self.place.report(difference)
            self.place.report = None
        raise Difference(difference)

    def close(self) -> None:
        """Undo everything, whatever happened."""
        for side in self.sides:
            side.abandon()
        self._shown.close()
        for base in (self._lower_base, self._base):
            shutil.rmtree(base)
        self.place.current = None


def _links(item: Item, subdirectories: int, own: bool) -> Any:
    if own or item.kind != stat.S_IFDIR:
        return item.nlink
    # btrfs does not count, and then nobody has to
    return Either((1, 2 + subdirectories)) if item.nlink == 1 else 2 + subdirectories


def _tree_case(path: bytes, name: str, kernel: Item, plain: Item) -> Case:
    both = getattr(kernel, name), getattr(plain, name)
    return Case("tree", name, {"path": path}, *both, plain.kind)


def _agree(found: Outcome, expected: Outcome | Either) -> bool:
    if isinstance(expected, Either):
        return found in expected
    if found[0] == expected[0] == "ok" and isinstance(expected[1], dict):
        both = [(found[1][key], value) for key, value in expected[1].items()]
        return all(one in want if isinstance(want, Either) else one == want for one, want in both)
    return found == expected


def _shown(outcome: Any) -> str:
    if isinstance(outcome, tuple) and outcome and outcome[0] == "error":
        return f"{_errno_name(outcome[1])}"
    if isinstance(outcome, Either):
        return " or ".join(map(_shown, outcome.answers))
    text = repr(outcome)
    return text if len(text) < 400 else f"{text[:400]}…"


def _errno_name(number: int) -> str:
    import errno  # noqa: PLC0415 - for messages only

    return errno.errorcode.get(number, str(number))


def _arguments(arguments: dict[str, Any]) -> str:
    octal = ("mode", "mask")
    shown = (
        f"{key!r}: {oct(value) if key in octal else repr(value)}"
        for key, value in arguments.items()
    )
    return "{" + ", ".join(shown) + "}"


def replay(place: Place, variant: Variant, stack: Stack, steps: Sequence[Step]) -> None:
    """Do the steps of a script."""
    look = bool(steps) and steps[0][1] == "compare"
    run = Run(place, variant, stack, look=look)
    try:
        for who, name, arguments in steps[look:]:
            repeat(run, who, name, arguments)
        run.finish()
    finally:
        run.close()


def repeat(run: Run, who: str, name: str, arguments: dict[str, Any]) -> None:
    """Do one step, unless it needs a handle that is not open."""
    keys = {"at", "reader", "writer"} | (set() if name.startswith("open") else {"handle"})
    mapping = arguments.get("mapping")
    if not all(run.is_open(arguments[key]) for key in keys & arguments.keys()):
        return
    if name != "map" and mapping is not None and not run.is_mapped(mapping):
        return
    if who:
        run.step(who, name, **arguments)
    else:
        {"compare": run.compare, "remount": run.remount}[name]()
