"""A file descriptor with an owner, which may hand it on."""

from __future__ import annotations

import os

from unionmount.system.closing import Closing


class FileDescriptor(Closing):
    """A file descriptor that is closed at the end unless somebody has taken it over."""

    def __init__(self, fd: int) -> None:
        self.fd = fd  # -1: it is not ours any more

    def take(self) -> int:
        """Return the descriptor; the caller owns it from now on."""
        fd, self.fd = self.fd, -1
        return fd

    def close(self) -> None:
        """Close the descriptor; a second call does nothing."""
        if self.fd >= 0:
            os.close(self.take())
