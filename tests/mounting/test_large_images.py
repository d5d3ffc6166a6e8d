"""Images with very many files, and with files of several gigabytes; GNU tar is the oracle.

The short form has the sizes by which kinds of numbers differ: more files than a directory's first
reply has, and a file beyond 2^31 bytes; the long form has a million files, and a file beyond the
8 GiB that an octal field of a tar can say.
"""

from __future__ import annotations

import os
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.effort import amount
from support.mounting import COMMAND, CommandLine, own_places, unmounting

pytestmark = [pytest.mark.slow, pytest.mark.needs("fuse", "tar", "find")]

FILES = amount(50_000, 1_000_000)
IN_DIRECTORY = 1000
LARGE = amount(3, 9) << 30
END = b"the end\n"
_MEGABYTE = 1 << 20


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A tar of many small files and of one that is large; the disk has holes for its zeros."""
    path = tmp_path_factory.mktemp("large") / "large.tar"
    with path.open("wb") as out:
        for number in range(FILES):
            if number % IN_DIRECTORY == 0:
                out.write(_member(f"d/{number // IN_DIRECTORY:04}", 0, tarfile.DIRTYPE))
            data = b"%d\n" % number
            name = f"d/{number // IN_DIRECTORY:04}/{number:07}"
            out.write(_member(name, len(data)) + data.ljust(512, b"\0"))
        out.write(_member("large", LARGE))
        out.seek(LARGE - len(END), os.SEEK_CUR)
        out.write(END + bytes(1024))
    yield path
    path.unlink()


def _member(name: str, size: int, kind: bytes = tarfile.REGTYPE) -> bytes:
    info = tarfile.TarInfo(name)
    info.size, info.type, info.mode = size, kind, 0o755
    return info.tobuf(tarfile.GNU_FORMAT)


@pytest.fixture
def line(tmp_path: Path) -> Iterator[CommandLine]:
    """A command line with a store of its own."""
    with unmounting(CommandLine((), own_places(tmp_path))) as made:
        yield made


def _counted(*command: str | Path) -> int:
    """How many lines a program prints."""
    counting = subprocess.Popen(["wc", "-l"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    subprocess.run(command, stdout=counting.stdin, check=True)
    return int(counting.communicate()[0])


def _status(pid: int, file: str, field: str) -> int:
    lines = Path(f"/proc/{pid}/{file}").read_text(encoding="ascii").splitlines()
    (value,) = [row.split()[1] for row in lines if row.startswith(f"{field}:")]
    return int(value)


def _index(store: Path) -> tuple[int, int, int]:
    (path,) = store.glob("inplace/*.idx")
    found = path.stat()
    return found.st_ino, found.st_mtime_ns, found.st_size


def test_many_files(line: CommandLine, archive: Path, tmp_path: Path) -> None:
    expected = _counted("tar", "-tf", archive)
    assert expected == FILES + FILES // IN_DIRECTORY + 1
    where = tmp_path / "mounted"
    where.mkdir()
    line.run("mount", "--ro", archive, where)
    made = _index(tmp_path / "store")
    line.run("umount", where)
    line.run("mount", "--ro", archive, where)
    assert _index(tmp_path / "store") == made  # opened again, and not made again
    pid = int(line.run("ps", "--format", "{{.Pid}}").stdout)
    assert _counted("find", where, "-mindepth", "1", "!", "-path", f"{where}/d") == expected
    last = f"d/{(FILES - 1) // IN_DIRECTORY:04}/{FILES - 1:07}"
    assert (where / last).read_text(encoding="ascii") == f"{FILES - 1}\n"
    # names cost the server neither memory nor reading in the tar
    assert _status(pid, "status", "RssAnon") * 1024 < 64 * _MEGABYTE
    assert _status(pid, "io", "rchar") < 16 * _MEGABYTE < archive.stat().st_size
    line.run("umount", where)


def test_many_files_without_a_mount(line: CommandLine, archive: Path) -> None:
    expected = _counted("tar", "-tf", archive)
    found = line.run("find", archive, "-mindepth", "1", "!", "-path", "/d").stdout
    assert found.count("\n") == expected
    (number, path) = (FILES - 7, f"d/{(FILES - 7) // IN_DIRECTORY:04}/{FILES - 7:07}")
    assert line.run("grep", "-rlx", str(number), archive, "/d").stdout == f"/{path}\n"
    assert line.run("cat", f"{archive}:/{path}").stdout == f"{number}\n"


def test_a_large_file(line: CommandLine, archive: Path, tmp_path: Path) -> None:
    where = tmp_path / "mounted"
    where.mkdir()
    line.run("mount", "--ro", archive, where)
    pid = int(line.run("ps", "--format", "{{.Pid}}").stdout)
    large = where / "large"
    with large.open("rb") as file:
        assert file.seek(0, os.SEEK_END) == LARGE == large.stat().st_size
        file.seek(-len(END) - 3, os.SEEK_END)
        assert file.read() == bytes(3) + END
    assert _status(pid, "io", "rchar") < 16 * _MEGABYTE
    line.run("umount", where)
    shown = line.run("find", archive, "-size", "+1G", "-printf", "%s %p\n").stdout
    assert shown == f"{LARGE} /large\n"
    with (
        subprocess.Popen(["tar", "-xOf", archive, "large"], stdout=subprocess.PIPE) as reading,
        subprocess.Popen(
            [*COMMAND, "cat", f"{archive}:/large"],
            stdout=subprocess.PIPE,
            env=line.environment,
        ) as ours,
    ):
        assert ours.stdout is not None
        command = ["cmp", "-", f"/dev/fd/{ours.stdout.fileno()}"]
        compared = subprocess.run(
            command, stdin=reading.stdout, pass_fds=[ours.stdout.fileno()], check=False
        )
    assert (compared.returncode, reading.returncode, ours.returncode) == (0, 0, 0)


def test_limits_name_their_variables(line: CommandLine, archive: Path) -> None:
    line.environment["UNIONMOUNT_MAX_INDEX_MEMORY"] = "1M"
    assert "UNIONMOUNT_MAX_INDEX_MEMORY changes it" in line.error("ls", archive)
    line.environment["UNIONMOUNT_MAX_INDEX_MEMORY"] = "512M"
    line.environment["UNIONMOUNT_MAX_LAYER_SIZE"] = "1G"
    told = line.error("import", "-q", archive, "large:1")
    assert "more than 1073741824 bytes uncompressed (the limit; UNIONMOUNT_MAX_LAYER_SIZE" in told
    assert line.run("images", "-q").stdout == ""
    assert line.run("ls", archive).stdout == "d\nlarge\n"
