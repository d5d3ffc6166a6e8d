"""What a runtime has put into its log."""

from __future__ import annotations

import pytest

from unionmount.runtime.oci_runtime import terminal_output

# Logs of crun 1.8.1; the last chunks of a terminal's output are followed by newlines of crun.
LONG = b"%s\r\n" % (b"x" * 300)


@pytest.mark.parametrize(
    ("log", "status", "output"),
    [
        (b"/dev/pts/0\r\n\n", 4, b"/dev/pts/0\r\n"),
        (b"/dev/pts/0\r\n\n", 1, b"/dev/pts/0\r\n"),
        (b"no newline\n", 4, b"no newline"),
        (LONG[:255] + b"\n" + LONG[255:] + b"\n", 1, LONG),
        (LONG[:301] + b"\n" + LONG[301:] + b"\n", 1, LONG),  # between CR and LF
        (b"", 4, b""),
        (b"executable file `nosuch` not found in $PATH: No such file or directory\n", 255, None),
        (b"error opening file `/run/oci/n/status`: No such file or directory\n", 1, None),
        (
            b"\x1b[1;31m2026-11-30T16:50:41.656928Z: executable file `nosuch` not found in $PATH: "
            b"No such file or directory\x1b[0m\r\n\ntcgetattr: Inappropriate ioctl for device\n",
            1,
            None,
        ),
    ],
)
def test_the_end_of_the_output_on_a_terminal(log: bytes, status: int, output: bytes | None) -> None:
    assert terminal_output(log, status) == output
