"""Being root of a user namespace for a while."""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

_CLONE_NEWNS, _CLONE_NEWUSER = 0x20000, 0x10000000
_libc = ctypes.CDLL(None, use_errno=True)


@contextmanager
def user_namespace(numbers: str) -> Iterator[Callable[[], None]]:
    """What a child calls to be root of a user namespace that knows these users."""
    asked, answered = os.pipe(), os.pipe()
    mapped = threading.Event()

    def answer() -> None:
        pid = int(os.read(asked[0], 32))
        for kind in ("uid_map", "gid_map"):
            Path(f"/proc/{pid}/{kind}").write_text(numbers)
        os.write(answered[1], b"x")
        mapped.set()

    def enter() -> None:
        assert _libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNS) == 0
        os.write(asked[1], b"%d" % os.getpid())
        os.read(answered[0], 1)

    thread = threading.Thread(target=answer)
    thread.start()
    try:
        yield enter
    finally:
        thread.join()
        for fd in (*asked, *answered):
            os.close(fd)
    assert mapped.is_set()
