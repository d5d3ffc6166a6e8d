"""The state machine that makes up operations.

Names are few, so that operations meet; each family of operations is a rule of its own, because
Hypothesis leaves whole rules out of some runs and so goes deeper with the others.
"""

from __future__ import annotations

import os
import stat
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    multiple,
    precondition,
    rule,
)

from differential import lowers, maps
from differential.lowers import (
    ACCESS,
    CAPABILITY,
    DEFAULT,
    OLD,
    Stack,
    acl,
    namespaced_capability,
)
from differential.run import Place, Run, Variant
from differential.sides import OVERLAYFS_ESCAPES
from differential.worker import RENAME_EXCHANGE, RENAME_NOREPLACE

# ---- what arguments are drawn from -------------------------------------------------------------

_TOP = ["a", "b", "c", "d"]
_SECOND = [f"{one}/{two}" for one in "abcd" for two in "abc"]
_THIRD = [f"{one}/{two}/{three}" for one in "abd" for two in "ab" for three in "abc"]
_RICH = [path for layer in lowers.RICH for path, _ in layer]
PATH_MAX = "./" * 2046 + "aaa"  # 4095 bytes
_LONG, _TOO_LONG = "n" * 255, "n" * 256
_ODD = [
    *("", ".", "..", "/", "a/", "a/.", "a/..", "./b", "b//a", "a/../b", "a/b/", "c/", "/d/a"),
    *(
        "../a",
        PATH_MAX,
        PATH_MAX + "/a",
        "a/b/c/d",
        "\udcff",
        "a/\udcff",
        "é",
        "-",
        " ",
        "a\nb",
        "...",
        "h",
        "h/a",
        "e",
        "e/",
    ),
    *(_LONG, f"a/{_LONG}", _TOO_LONG, f"b/{_TOO_LONG}", f"{_TOO_LONG}/a", f"{_LONG}/a"),
    *("m" * 255 + "/a", "m" * 255),
]
paths = st.one_of(
    st.sampled_from(_TOP),
    st.sampled_from(_SECOND),
    st.sampled_from(_TOP + _SECOND + _THIRD),
    st.sampled_from(_RICH + _SECOND),
    st.sampled_from(_TOP + _SECOND + _THIRD + _ODD),
)
file_paths = st.sampled_from(["a", "b", "a/a", "a/b", "b/b", "d/b", "d/a/a", "f", "g/a"])
names = st.sampled_from(["a", "b", "c", ".", "..", "a/b", _LONG, _TOO_LONG])
targets = st.sampled_from(
    ["a", "b", "../a", "a/b", "/a", "/b/a", ".", "..", "nowhere", "c/", "/", "d/d", "t" * 4095]
)

file_modes = st.sampled_from([0o666, 0o644, 0o600, 0o777, 0o444, 0o4755, 0o2755, 0o6777, 0o200, 0])
directory_modes = st.sampled_from([0o777, 0o755, 0o700, 0o1777, 0o2777, 0o2770, 0o3775, 0o500, 0])
all_modes = st.one_of(file_modes, directory_modes)
owners = st.sampled_from([-1, 0, 65534, 1000, 4242])
groups = st.sampled_from([-1, 0, 65534, 100, 4242, 1000])
times = st.sampled_from(
    [OLD, OLD + 123_456_789, 0, 1, 999_999_999, -1, -(10**9), 2**33 * 10**9 // 4, "now", "omit"]
)
sizes = st.sampled_from([0, 1, 10, 100, 4095, 4096, 4097, 10_000, 70_001, 300_000])
offsets = st.sampled_from([0, 1, 5, 100, 4095, 4096, 5000, 8192, 70_000, 140_000])
contents = st.sampled_from([b"", b"x", b"0123456789", b"AB" * 100, b"z" * 4096, b"y" * 9999])
access_modes = [os.O_RDONLY, os.O_WRONLY, os.O_RDWR]


@st.composite
def _flags(draw: st.DrawFn) -> int:
    flags: int = draw(st.sampled_from(access_modes))
    more = [0, 0, os.O_TRUNC, os.O_APPEND, os.O_NOFOLLOW, os.O_DIRECTORY, os.O_PATH]
    creating = [0, os.O_CREAT, os.O_CREAT, os.O_CREAT | os.O_EXCL]
    for choices in (creating, more, [0, 0, 0, os.O_TRUNC, os.O_APPEND, os.O_SYNC]):
        flags |= draw(st.sampled_from(choices))
    return flags


flags = st.one_of(
    st.sampled_from([os.O_RDWR, os.O_RDONLY, os.O_RDWR | os.O_CREAT, os.O_PATH, os.O_WRONLY]),
    _flags(),
)

nameless_flags = st.sampled_from(
    [os.O_TMPFILE | more for more in (os.O_RDWR, os.O_WRONLY, os.O_RDWR | os.O_EXCL, os.O_RDONLY)]
)

_USER_XATTRS = [("user.a", b"1"), ("user.a", b"another"), ("user.b", b""), ("user.c", b"v" * 900)]
_ROOT_XATTRS = [
    *(("trusted.t", b"\0\xff"), ("trusted.u", b""), ("security.capability", CAPABILITY)),
    *(("security.capability", namespaced_capability(root)) for root in (1000, 4242)),
]
# what overlayfs keeps marks in, and escapes
_MARKS = [
    *(("user.overlay.opaque", b"y"), ("user.overlay.overlay.x", b"1")),
    *(("trusted.overlay.opaque", b"y"), ("trusted.overlay.overlay.redirect", b"/a")),
]
if OVERLAYFS_ESCAPES:
    _USER_XATTRS += _MARKS[:2]
    _ROOT_XATTRS += _MARKS[2:]
_ACLS = [
    (ACCESS, acl(6, 6, 4)),
    (ACCESS, acl(7, 4, 0, named=1000)),
    (ACCESS, acl(7, 0, 7, user=6)),
    (ACCESS, acl(7, 6, 1, named=4242)),
    (DEFAULT, acl(7, 5, 1)),
    (DEFAULT, acl(6, 7, 0, user=2, named=1000)),
    (DEFAULT, acl(7, 7, 5, named=4242)),
    (DEFAULT, b""),
    (ACCESS, b"\2\0\0\0"),
    (ACCESS, b"rubbish"),
]
xattrs = st.sampled_from(_USER_XATTRS + _ACLS + _ROOT_XATTRS + [("odd", b"x"), ("user.", b"x")])
xattr_names = st.sampled_from(
    [*sorted({name for name, _ in _USER_XATTRS + _ROOT_XATTRS + _ACLS}), "user." + "n" * 250, "odd"]
)
xattr_flags = st.sampled_from([0, 0, 0, 1, 2])  # XATTR_CREATE, XATTR_REPLACE
devices = st.sampled_from(
    [(1, 3), (1, 3), (60, 7), (60, 7), (120, 70_000), (120, 70_000), (0, 1), (0, 1), (0, 0)]
)
kinds = st.sampled_from([stat.S_IFIFO, stat.S_IFCHR, stat.S_IFBLK, stat.S_IFREG, stat.S_IFSOCK])
rename_flags = st.sampled_from([0, 0, 0, RENAME_NOREPLACE, RENAME_EXCHANGE, RENAME_EXCHANGE, 3])
masks = st.sampled_from([0o022, 0, 0o077, 0o027, 0o777])

# ---- the machine -------------------------------------------------------------------------------

Handle = tuple[str, int]
"""Whose it is, and its number."""


class Machine(RuleBasedStateMachine):
    """To be made by a function that knows the place and the variant."""

    handles: Bundle[Handle] = Bundle("handles")
    mappings: Bundle[Handle] = Bundle("mappings")

    def __init__(self, place: Place, variant: Variant) -> None:
        super().__init__()
        self._place, self._variant = place, variant
        self._run: Run | None = None
        self._count = 0
        self._dirty: dict[int, str] = {}  # mappings written through, and not synced, and whose
        self._failed = False

    @property
    def run(self) -> Run:
        assert self._run is not None
        return self._run

    @initialize(stack=st.one_of(lowers.stacks, st.just("RICH")), look=st.booleans())
    def start(self, stack: Stack | str, look: bool) -> None:
        stack = lowers.RICH if isinstance(stack, str) else stack
        self._failed = True  # until it is known not to
        self._run = self.make_run(stack, look)
        self._failed = False

    def make_run(self, stack: Stack, look: bool) -> Run:
        """A run of the kind that this machine makes."""
        return Run(self._place, self._variant, stack, look=look)

    def _who(self, index: int) -> str:
        identities = self._variant.identities
        return identities[index % len(identities)].name

    def _do(self, who: str | int, name: str, /, **arguments: Any) -> bool:
        if not self._variant.acls and str(arguments.get("name", "")).startswith("system."):
            return False
        if isinstance(who, int):
            who = self._who(who)
        self._failed = True
        kind, _ = self.run.step(who, name, **arguments)
        self._failed = False
        return kind == "ok"

    def _number(self) -> int:
        self._count += 1
        return self._count

    people = st.integers(0, 2)

    # -- handles

    @rule(target=handles, who=people, path=paths, flags=flags, mode=file_modes)
    def open(self, who: int, path: str, flags: int, mode: int) -> Any:
        handle = self._number()
        if self._do(who, "open", handle=handle, path=path, flags=flags, mode=mode):
            return (self._who(who), handle)
        return multiple()

    @rule(target=handles, path=file_paths, flags=st.sampled_from(access_modes), make=st.booleans())
    def open_simply(self, path: str, flags: int, make: bool) -> Any:
        """As most programs do: without this, few runs would get far with handles."""
        return self.open(0, path, flags | (os.O_CREAT if make else 0), 0o666)

    @rule(target=handles, who=people, path=paths, flags=nameless_flags, mode=file_modes)
    def open_nameless(self, who: int, path: str, flags: int, mode: int) -> Any:
        return self.open(who, path, flags, mode) if self._variant.nameless else multiple()

    @rule(target=handles, path=st.sampled_from(["a", "b", "d", "."]), new=file_paths)
    def open_nameless_simply(self, path: str, new: str) -> Any:
        """As who uses it does."""
        if not self._variant.nameless:
            return multiple()
        handle = self.open(0, path, os.O_TMPFILE | os.O_RDWR, 0o666)
        if isinstance(handle, tuple):
            self._with(handle, "write", data=b"nameless")
            self.link_handle(handle, new)
        return handle

    @rule(target=handles, at=handles, path=names, flags=flags, mode=file_modes)
    def open_at(self, at: Handle, path: str, flags: int, mode: int) -> Any:
        who, directory = at
        if not self.run.is_open(directory):
            return multiple()
        handle = self._number()
        arguments = {"handle": handle, "at": directory, "path": path, "flags": flags, "mode": mode}
        return (who, handle) if self._do(who, "open_at", **arguments) else multiple()

    @rule(handle=consumes(handles))
    def close(self, handle: Handle) -> None:
        if self.run.is_open(handle[1]):  # a remount may have closed it
            self._do(handle[0], "close", handle=handle[1])

    def _with(self, handle: Handle, name: str, /, **arguments: Any) -> bool:
        return self.run.is_open(handle[1]) and self._do(
            handle[0], name, handle=handle[1], **arguments
        )

    @rule(handle=handles, size=sizes)
    def read(self, handle: Handle, size: int) -> None:
        self._with(handle, "read", size=size)

    @rule(handle=handles, offset=offsets, size=sizes)
    def pread(self, handle: Handle, offset: int, size: int) -> None:
        self._with(handle, "pread", offset=offset, size=size)

    @rule(handle=handles, data=contents)
    def write(self, handle: Handle, data: bytes) -> None:
        self._with(handle, "write", data=data)

    @rule(handle=handles, offset=offsets, data=contents)
    def pwrite(self, handle: Handle, offset: int, data: bytes) -> None:
        self._with(handle, "pwrite", offset=offset, data=data)

    @rule(handle=handles, offset=offsets, whence=st.integers(0, 2))
    def lseek(self, handle: Handle, offset: int, whence: int) -> None:
        self._with(handle, "lseek", offset=-offset if whence == 2 else offset, whence=whence)

    @rule(handle=handles, size=sizes)
    def ftruncate(self, handle: Handle, size: int) -> None:
        self._with(handle, "ftruncate", size=size)

    @rule(handle=handles, data_only=st.booleans())
    def fsync(self, handle: Handle, data_only: bool) -> None:
        self._with(handle, "fsync", data_only=data_only)

    @rule(handle=handles)
    def fstat(self, handle: Handle) -> None:
        self._sync_mappings()
        self._with(handle, "fstat")

    @rule(handle=handles)
    def flist(self, handle: Handle) -> None:
        self._with(handle, "flist")

    @rule(handle=handles, mode=all_modes)
    def fchmod(self, handle: Handle, mode: int) -> None:
        self._with(handle, "fchmod", mode=mode)

    @rule(handle=handles, uid=owners, gid=groups)
    def fchown(self, handle: Handle, uid: int, gid: int) -> None:
        self._with(handle, "fchown", uid=uid, gid=gid)

    @rule(handle=handles, atime=times, mtime=times)
    def futimens(self, handle: Handle, atime: int | str, mtime: int | str) -> None:
        self._sync_mappings()
        self._with(handle, "futimens", atime=atime, mtime=mtime)

    @rule(handle=handles, xattr=xattrs)
    def fsetxattr(self, handle: Handle, xattr: tuple[str, bytes]) -> None:
        self._with(handle, "fsetxattr", name=xattr[0], value=xattr[1])

    @rule(handle=handles, name=xattr_names)
    def fgetxattr(self, handle: Handle, name: str) -> None:
        self._with(handle, "fgetxattr", name=name)

    @rule(at=handles, path=names, mode=directory_modes)
    def mkdir_at(self, at: Handle, path: str, mode: int) -> None:
        if self.run.is_open(at[1]):
            self._do(at[0], "mkdir_at", at=at[1], path=path, mode=mode)

    @rule(at=handles, path=names)
    def unlink_at(self, at: Handle, path: str) -> None:
        if self.run.is_open(at[1]):
            self._do(at[0], "unlink_at", at=at[1], path=path)

    @rule(reader=handles, writer=handles, size=sizes, one=offsets, other=offsets)
    def copy_file_range(
        self, reader: Handle, writer: Handle, size: int, one: int, other: int
    ) -> None:
        same = reader[0] == writer[0]  # descriptors of one process
        if same and self.run.is_open(reader[1]) and self.run.is_open(writer[1]):
            arguments = {"reader": reader[1], "writer": writer[1], "size": size}
            where = {"read_offset": one, "write_offset": other}
            self._do(reader[0], "copy_file_range", **arguments, **where)

    # -- mappings

    @rule(target=mappings, handle=handles, write=st.booleans())
    def map(self, handle: Handle, write: bool) -> Any:
        mapping = self._number()
        if self._with(handle, "map", mapping=mapping, write=write):
            return (handle[0], mapping, write)
        return multiple()

    @rule(mapping=mappings, offset=offsets, size=sizes)
    def map_read(self, mapping: Any, offset: int, size: int) -> None:
        if self.run.is_mapped(mapping[1]):
            self._do(mapping[0], "map_read", mapping=mapping[1], offset=offset, size=size)

    @rule(mapping=mappings, offset=offsets, data=contents, sync=st.booleans())
    def map_write(self, mapping: Any, offset: int, data: bytes, sync: bool) -> None:
        who, number, write = mapping
        if write and self.run.is_mapped(number):
            self._do(who, "map_write", mapping=number, offset=offset, data=data)
            self._dirty[number] = who
            if sync:
                self._sync_mappings()

    def _sync_mappings(self) -> None:
        """The time of a file is that of writing, which is now or (with FUSE) when the kernel writes
        the page back. Then it would come after a time that is set in between, and stat(2) would not
        see it before (docs/explanation/upper.md).
        """
        for number, who in self._dirty.items():
            if self.run.is_mapped(number):
                self._do(who, "map_sync", mapping=number)
        self._dirty.clear()

    @rule(mapping=consumes(mappings))
    def unmap(self, mapping: Any) -> None:
        if self.run.is_mapped(mapping[1]):
            self._do(mapping[0], "unmap", mapping=mapping[1])

    # -- names

    @rule(who=people, path=paths, mode=directory_modes)
    def mkdir(self, who: int, path: str, mode: int) -> None:
        self._do(who, "mkdir", path=path, mode=mode)

    @rule(who=people, path=paths)
    def rmdir(self, who: int, path: str) -> None:
        self._do(who, "rmdir", path=path)

    @rule(who=people, path=paths, kind=kinds, mode=file_modes, device=devices)
    def mknod(self, who: int, path: str, kind: int, mode: int, device: tuple[int, int]) -> None:
        device = device if kind in (stat.S_IFCHR, stat.S_IFBLK) else (0, 0)
        self._do(who, "mknod", path=path, mode=kind | mode, device=device)

    @rule(who=people, to=targets, path=paths)
    def symlink(self, who: int, to: str, path: str) -> None:
        self._do(who, "symlink", target=to, path=path)

    @rule(who=people, path=paths, new=paths, follow=st.booleans())
    def link(self, who: int, path: str, new: str, follow: bool) -> None:
        self._do(who, "link", path=path, new=new, follow=follow)

    @rule(handle=handles, new=paths)
    def link_handle(self, handle: Handle, new: str) -> None:
        self._with(handle, "link_handle", new=new)

    @rule(who=people, path=paths)
    def unlink(self, who: int, path: str) -> None:
        self._do(who, "unlink", path=path)

    @rule(who=people, path=paths, new=paths, flags=rename_flags)
    def rename(self, who: int, path: str, new: str, flags: int) -> None:
        self._do(who, "rename", path=path, new=new, flags=flags)

    @rule(who=people, path=paths, new=paths, flags=rename_flags)
    def rename_again(self, who: int, path: str, new: str, flags: int) -> None:
        self._do(who, "rename", path=path, new=new, flags=flags)

    @rule(who=people, path=paths)
    def readlink(self, who: int, path: str) -> None:
        self._do(who, "readlink", path=path)

    @rule(who=people, path=paths)
    def list(self, who: int, path: str) -> None:
        self._do(who, "list", path=path)

    @rule(who=people, path=paths, mode=st.integers(0, 7), effective=st.booleans())
    def access(self, who: int, path: str, mode: int, effective: bool) -> None:
        self._do(who, "access", path=path, mode=mode, effective=effective)

    # -- attributes

    @rule(who=people, path=paths, follow=st.booleans())
    def stat(self, who: int, path: str, follow: bool) -> None:
        self._sync_mappings()
        self._do(who, "stat", path=path, follow=follow)

    @rule(who=people, path=paths, mode=all_modes)
    def chmod(self, who: int, path: str, mode: int) -> None:
        self._do(who, "chmod", path=path, mode=mode)

    @rule(who=people, path=paths, uid=owners, gid=groups, follow=st.booleans())
    def chown(self, who: int, path: str, uid: int, gid: int, follow: bool) -> None:
        self._do(who, "chown", path=path, uid=uid, gid=gid, follow=follow)

    @rule(who=people, path=paths, atime=times, mtime=times, follow=st.booleans())
    def utimens(
        self, who: int, path: str, atime: int | str, mtime: int | str, follow: bool
    ) -> None:
        self._sync_mappings()
        self._do(who, "utimens", path=path, atime=atime, mtime=mtime, follow=follow)

    @rule(who=people, path=paths, size=sizes)
    def truncate(self, who: int, path: str, size: int) -> None:
        self._do(who, "truncate", path=path, size=size)

    @rule(who=people, path=paths, xattr=xattrs, flags=xattr_flags, follow=st.booleans())
    def setxattr(
        self, who: int, path: str, xattr: tuple[str, bytes], flags: int, follow: bool
    ) -> None:
        name, value = xattr
        arguments = {"name": name, "value": value, "flags": flags, "follow": follow}
        self._do(who, "setxattr", path=path, **arguments)

    @rule(who=people, path=paths, name=xattr_names, follow=st.booleans())
    def getxattr(self, who: int, path: str, name: str, follow: bool) -> None:
        self._do(who, "getxattr", path=path, name=name, follow=follow)

    @rule(who=people, path=paths, name=xattr_names, follow=st.booleans())
    def removexattr(self, who: int, path: str, name: str, follow: bool) -> None:
        self._do(who, "removexattr", path=path, name=name, follow=follow)

    @rule(who=people, path=paths, follow=st.booleans())
    def listxattr(self, who: int, path: str, follow: bool) -> None:
        self._do(who, "listxattr", path=path, follow=follow)

    @rule(who=people, path=paths)
    def name_max(self, who: int, path: str) -> None:
        self._do(who, "name_max", path=path)

    @rule(who=people, mask=masks)
    def umask(self, who: int, mask: int) -> None:
        self._do(who, "umask", mask=mask)

    # -- what belongs to nobody, as its owner is in no range of the maps

    @precondition(lambda self: self._variant.maps is not None)
    @rule(who=people, path=st.sampled_from(maps.STRANGERS), follow=st.booleans())
    def stranger(self, who: int, path: str, follow: bool) -> None:
        self._do(who, "stat", path=path, follow=follow)
        self._do(who, "access", path=path, mode=os.R_OK)
        self._do(who, "list", path=path)
        self._do(who, "listxattr", path=path, follow=follow)
        handle = self._number()
        if self._do(who, "open", handle=handle, path=path, flags=os.O_RDONLY):
            self._do(who, "fstat", handle=handle)
            self._do(who, "close", handle=handle)

    # -- the mounts

    @precondition(lambda self: self._count % 5 == 4)
    @rule(again=st.booleans())
    def look(self, again: bool) -> None:
        """Compare the trees in the middle of a run, or mount again."""
        self._sync_mappings()
        self._failed = True
        if again:
            self.run.remount()
        else:
            self.run.compare()
        self._failed = False

    def teardown(self) -> None:
        run = self._run
        if run is None:
            return
        try:
            if not self._failed:
                self._sync_mappings()
                run.finish()
        finally:
            self._run = None
            run.close()
