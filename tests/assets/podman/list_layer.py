"""List a layer from standard input: a line for each entry, with everything but times.

Whiteouts are listed by name. The names of one file are listed together, whichever of them a tar
has first. ``list_layer.py PATTERN`` leaves out the names that the pattern matches as a whole.
"""

from __future__ import annotations

import hashlib
import re
import sys
import tarfile

_KINDS = {
    tarfile.DIRTYPE: "d",
    tarfile.SYMTYPE: "l",
    tarfile.CHRTYPE: "c",
    tarfile.BLKTYPE: "b",
    tarfile.FIFOTYPE: "p",
}
_XATTR = "SCHILY.xattr."


def described(tar: tarfile.TarFile, entry: tarfile.TarInfo) -> str:
    """Return a line without the name."""
    kind = _KINDS.get(entry.type, "-")
    words = [kind, f"{entry.mode & 0o7777:04o}", f"{entry.uid}:{entry.gid}"]
    if kind == "-":
        file = tar.extractfile(entry)
        assert file is not None
        words += [str(entry.size), hashlib.sha256(file.read()).hexdigest()[:16]]
    if kind in "bc":
        words.append(f"{entry.devmajor},{entry.devminor}")
    if kind == "l":
        words.append(f"-> {entry.linkname}")
    for key, value in sorted(entry.pax_headers.items()):
        if key.startswith(_XATTR):
            data = value.encode("utf-8", "surrogateescape").hex()
            words.append(f"{key.removeprefix(_XATTR)}={data}")
    return " ".join(words)


def main(pattern: str) -> None:
    """List."""
    lines: list[str] = []
    files: dict[str, str] = {}
    names: dict[str, list[str]] = {}
    with tarfile.open(fileobj=sys.stdin.buffer, mode="r|") as tar:
        for entry in tar:
            name = entry.name.removeprefix("./").rstrip("/")
            if name in ("", ".") or re.fullmatch(pattern, name):
                continue
            if ".wh." in name:
                lines.append(f"{name}: whiteout")
            elif entry.islnk():
                names[entry.linkname.removeprefix("./")].append(name)
            else:
                files[name] = described(tar, entry)
                names[name] = [name]
    lines += [f"{' = '.join(sorted(names[name]))}: {text}" for name, text in files.items()]
    print("\n".join(sorted(lines)))  # noqa: T201


main(sys.argv[1])
