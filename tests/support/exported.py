"""An image with every kind of file, for tests of what takes files out and brings them in."""

from __future__ import annotations

from pathlib import Path

from support.archives import Layer, docker_archive, posix_acl

_NOBODY = -1 % 2**32
ACL = posix_acl((1, 7, _NOBODY), (2, 1, 1000), (4, 5, _NOBODY), (16, 5, _NOBODY), (32, 5, _NOBODY))
LONG = "deep/" + "/".join(letter * 60 for letter in "abcdefgh")
ODD_NAMES = (
    *("with space", "caf\udce9", "esc\x1b[1m", "new\nline", "-dash", "*star", "back\\slash"),
    *("x" * 255, "ümlaut"),
)


def layers() -> list[Layer]:
    """The layers: kinds, owners, times, attributes, links, sizes and odd names."""
    base = Layer().directory("etc", mode=0o750, owner=(3, 4))
    base.file("etc/motd", b"hello\n").file("etc/secret", b"token\n", mode=0o600)
    base.symlink("etc/link", "motd").symlink("etc/out", "../../../etc/motd")
    base.symlink("to-etc", "etc").symlink("absolute", "/etc/motd").symlink("dangling", "nowhere")
    base.directory("home", owner=(1000, 7))
    base.file("home/tool", b"#!", mode=0o4755, owner=(1000, 7), xattrs={"user.note": b"\x00\xff="})
    base.hard_link("tool", "home/tool").hard_link("home/again", "home/tool")
    base.directory("tmp", mode=0o1777).directory("srv", mode=0o2750, owner=(5, 6))
    base.file("big", bytes(range(256)) * 8000, mode=0o644).file("gone")
    base.file("acl", b"a", xattrs={"system.posix_acl_access": ACL}, mode=0o755)
    base.directory("closed", mode=0o500).file("closed/inside", b"in", mode=0o400)
    for name, mtime_ns in {"nul": 0, "old": -(10**9) - 5, "late": 2**33 * 10**9 + 1}.items():
        base.file(f"times/{name}", name.encode(), mtime_ns=mtime_ns)
    for size in (0, 1, 511, 512, 513, 131071, 131072, 131073, 1048577):
        base.file(f"sizes/{size}", bytes([size % 251]) * size)
    base.file("owner", owner=(2**21, 2**31)).file(f"{LONG}/file", b"far")
    base.symlink("far", LONG)
    base.add("dev/null", b"3", device=(1, 3), mode=0o666).add("dev/sda", b"4", device=(8, 255))
    base.add("dev/fifo", b"6", mode=0o600)
    for name in ODD_NAMES:
        base.file(f"odd/{name}", b"odd")
    top = Layer().file(".wh.gone").file("etc/new", b"new\n").file("etc/.wh.secret")
    top.directory("replaced").file("replaced/.wh..wh..opq").file("replaced/now", b"now")
    return [base, top, Layer().file("etc/motd", b"changed\n", mtime_ns=10**18 + 7)]


def archive_of_all_kinds(path: Path) -> Path:
    """Write the image as a docker-archive."""
    return docker_archive(path, layers(), name="kinds:1")
