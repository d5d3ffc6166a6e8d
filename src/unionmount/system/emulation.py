"""Programs of other processors: what a file is for, and whether the kernel runs it here.

Linux hands such programs to an emulator (qemu-user-static) that is registered in binfmt_misc. That
file system is often not mounted in a container although its registrations hold there, so the
kernel is asked by executing a header.
"""

from __future__ import annotations

import errno
import os
import struct
from functools import cache

from unionmount.system.files import write_all

ADVICE = "install the package qemu-user-static, which registers an emulator with the kernel"

_HEADER = 64  # bytes of an ELF header of 64 bits
_MACHINE, _BEGIN = 18, 20  # the offsets of e_machine and of its end
_PATIENCE = 10  # seconds for an emulator to refuse a header
_LITTLE, _BIG = 1, 2
_EXECUTABLE = 2  # e_type
# Go's name: EI_CLASS, EI_DATA, e_machine of elf(5)
_MACHINES = {
    "386": (1, _LITTLE, 3),
    "amd64": (2, _LITTLE, 62),
    "arm": (1, _LITTLE, 40),
    "arm64": (2, _LITTLE, 183),
    "loong64": (2, _LITTLE, 258),
    "ppc64le": (2, _LITTLE, 21),
    "riscv64": (2, _LITTLE, 243),
    "s390x": (2, _BIG, 22),
}


def architecture_of(begin: bytes) -> str | None:
    """Return the architecture that a program is for, in Go's spelling, from its first bytes.

    None if they do not begin an ELF file, or one for a processor that is not known here.
    """
    if len(begin) < _BEGIN or not begin.startswith(b"\x7fELF"):
        return None
    (machine,) = struct.unpack_from(">H" if begin[5] == _BIG else "<H", begin, _MACHINE)
    kind = (begin[4], begin[5], machine)
    return next((name for name, known in _MACHINES.items() if known == kind), None)


@cache
def kernel_runs(architecture: str) -> bool | None:
    """Return whether the kernel starts programs for an architecture that is not its own.

    None if that cannot be found out: the architecture is not known here, or nothing may be executed
    from memory.
    """
    import subprocess  # noqa: PLC0415 - only images of other processors need it

    if architecture not in _MACHINES:
        return None
    try:
        fd = _header_file(architecture)
    except OSError:
        return None
    try:
        subprocess.run(
            [f"/proc/self/fd/{fd}"],
            pass_fds=[fd],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=_PATIENCE,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return True  # something was started
    except OSError as error:
        return False if error.errno == errno.ENOEXEC else None
    finally:
        os.close(fd)
    return True


def _header_file(architecture: str) -> int:
    """Return a descriptor of a file with nothing but a header; nobody has it open for writing."""
    writer = os.memfd_create("header", os.MFD_CLOEXEC)
    try:
        write_all(writer, _header(architecture))
        return os.open(f"/proc/self/fd/{writer}", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        os.close(writer)


def _header(architecture: str) -> bytes:
    """Return an ELF header that an emulator takes for its own, and then refuses: it has no code."""
    bits, data, machine = _MACHINES[architecture]
    begin = bytes([*b"\x7fELF", bits, data, 1]).ljust(16, b"\0")
    words = struct.pack(">HH" if data == _BIG else "<HH", _EXECUTABLE, machine)
    return (begin + words).ljust(_HEADER, b"\0")
