"""Calls of an OCI runtime (crun, runc, youki), by its command line.

Source: the runtime command line interface of OCI, and the manuals of crun(1) and runc(8).
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from unionmount.errors import UnionmountError
from unionmount.runtime.relay import Start, run_detached, run_relayed, run_with_our_streams
from unionmount.system import libc
from unionmount.system.files import write_all
from unionmount.system.pass_signals import passing_signals
from unionmount.system.text import printable

FAILED, NOT_EXECUTABLE, NOT_FOUND = 125, 126, 127
"""Exit statuses of ``run`` when no program was started, as Docker has them."""

# The monitor ignores some; a program that is executed would ignore them as well.
_DEFAULT_SIGNALS = (
    *(signal.SIGPIPE, signal.SIGXFSZ, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM),
    signal.SIGHUP,
)
_UNIFIED = Path("/sys/fs/cgroup/unified")
_PATIENCE = 30  # seconds for a call that does not wait for the container
_MAX_MESSAGE = 4096
_MAX_LOG = 1024 * 1024
_NOT_FOUND = re.compile(r"no such file or directory|not found", re.IGNORECASE)
_NOT_EXECUTABLE = re.compile(
    r"permission denied|exec format error|is a directory|not a directory|operation not permitted"
    r"|too many levels of symbolic links|file name too long|argument list too long",
    re.IGNORECASE,
)
# What crun's child, which is to become the program, says on the terminal about a failure.
_OF_CHILD = re.compile(rb"\x1b\[1;31m\d{4}-\d\d-\d\dT[0-9:.]+Z: ")
_FAILURES = (1, 255)  # exit statuses of crun itself
_ABOUT_PROGRAM = re.compile(r"exec|executable|starting container process", re.IGNORECASE)


class RuntimeFailed(UnionmountError):
    """A runtime has refused; ``exit_code`` is what ``run`` exits with."""

    def __init__(self, name: str, message: str) -> None:
        super().__init__(f"{name}: {message}")
        self.exit_code = _status_of(message)


def _status_of(message: str) -> int:
    if _ABOUT_PROGRAM.search(message):
        if _NOT_EXECUTABLE.search(message):
            return NOT_EXECUTABLE
        if _NOT_FOUND.search(message):
            return NOT_FOUND
    return FAILED


@dataclass(frozen=True, slots=True)
class Inside:
    """The processes whose user and mount namespaces a runtime is called in; 0: our own."""

    users: int = 0
    mounts: int = 0


@dataclass(frozen=True, slots=True)
class OciRuntime:
    """A runtime; ``state`` is the directory in which it keeps its containers."""

    path: str
    state: Path
    rootless: bool = False
    inside: Inside = Inside()

    @property
    def name(self) -> str:
        """The name of the program."""
        return os.path.basename(self.path)  # noqa: PTH119

    def create(self, name: str, bundle: Path, pid_file: Path, streams: Streams) -> None:
        """Create a container, whose process waits for ``start``."""
        words = ["create", "--bundle", str(bundle), "--pid-file", str(pid_file)]
        if streams.console is not None:
            words += ["--console-socket", str(streams.console)]
        errors = streams.errors if streams.errors is not None else subprocess.PIPE
        self._call([*words, name], stdin=streams.input, stdout=streams.output, stderr=errors)

    def start(self, name: str) -> None:
        """Let the process of a container execute its program."""
        self._call(["start", name])

    def kill(self, name: str, number: int) -> None:
        """Send a signal to the first process of a container."""
        self._call(["kill", name, str(number)])

    def delete(self, name: str) -> None:
        """Remove what the runtime keeps of a container, and end its processes."""
        with suppress(RuntimeFailed):  # it knows no such container
            self._call(["delete", "--force", name])

    def run(self, name: str, bundle: Path, *, terminal: bool) -> int:
        """Run a container with our streams until it has ended; return its exit status.

        If the program is not started, the runtime says why, and the status is 125 to 127.
        """
        run = run_with_our_streams if terminal else partial(run_relayed, reads=True)
        return self._joined("run", ["--bundle", str(bundle)], name, run=run, terminal=terminal)

    def exec(self, name: str, process: int, *, detach: bool, terminal: bool, reads: bool) -> int:
        """Run another program in a container, with our streams; return its exit status.

        ``process`` is a descriptor of the process's part of a config.json. Without ``reads`` the
        program's standard input is empty, and with ``detach`` its output is discarded, but for a
        program with a terminal. If the program is not started, the runtime says why on standard
        error, and the status is 125 to 127.
        """
        words = ["--process", _path_of(process), *(["--detach"] if detach else [])]
        run: Callable[[Start], int] = partial(run_relayed, reads=reads)
        if terminal:
            run = run_with_our_streams
        elif detach:
            run = run_detached
        return self._joined("exec", words, name, process, run=run, terminal=terminal)

    def _joined(
        self,
        verb: str,
        options: Sequence[str],
        name: str,
        *passed: int,
        run: Callable[[Start], int],
        terminal: bool,
    ) -> int:
        """Call the runtime with streams that ``run`` provides."""
        with _log_file() as log, passing_signals() as processes:
            line = [*self._base(), "--log", _path_of(log), verb, *options, name]

            def start(*streams: int) -> subprocess.Popen[bytes]:
                child = subprocess.Popen(
                    line,
                    stdin=streams[0],
                    stdout=streams[1],
                    stderr=streams[2],
                    preexec_fn=self.prepare,  # noqa: PLW1509 - there are no threads
                    pass_fds=(*passed, log),
                )
                processes.append(child)
                return child

            try:
                status = run(start)
            except OSError as error:
                raise RuntimeFailed(self.name, error.strerror or str(error)) from None
            rest = terminal_output(os.pread(log, _MAX_LOG, 0), status)
            if self.name == "crun" and terminal and rest is not None:
                # a terminal of ours is no longer in raw mode, and adds CR itself
                write_all(1, rest.replace(b"\r\n", b"\n") if os.isatty(1) else rest)
            elif status and os.fstat(log).st_size:
                return RuntimeFailed(self.name, _message(log, None)).exit_code
        return 128 - status if status < 0 else status

    def _base(self) -> list[str]:
        words = [self.path, "--root", str(self.state)]
        if self.name == "crun" and self.rootless:
            words.append("--cgroup-manager=disabled")
        return words

    def _call(
        self,
        words: Sequence[str],
        stdin: int = subprocess.DEVNULL,
        stdout: int = subprocess.DEVNULL,
        stderr: int = subprocess.PIPE,
    ) -> None:
        with _log_file() as log:
            try:
                done = subprocess.run(
                    [*self._base(), "--log", _path_of(log), *words],
                    check=False,
                    stdin=stdin,
                    stdout=stdout,
                    stderr=stderr,
                    timeout=_PATIENCE,
                    preexec_fn=self.prepare,
                    pass_fds=(log,),
                )
            except subprocess.TimeoutExpired:
                message = f"'{words[0]}' did not end in {_PATIENCE} s"
                raise RuntimeFailed(self.name, message) from None
            except OSError as error:
                raise RuntimeFailed(self.name, error.strerror or str(error)) from None
            except subprocess.SubprocessError as error:  # of ``prepare``
                raise RuntimeFailed(self.name, str(error)) from None
            if done.returncode:
                raise RuntimeFailed(self.name, _message(log, done.stderr))

    def prepare(self) -> None:
        """Prepare the process that becomes the runtime.

        crun refuses to run where a hierarchy of version 2 is mounted beside those of version 1, so
        it gets a mount namespace in which that one is covered.
        """
        for number in _DEFAULT_SIGNALS:
            signal.signal(number, signal.SIG_DFL)
        self._enter()
        if self.name == "crun" and _is_hybrid():
            libc.call("unshare", libc.CLONE_NEWNS)
            libc.call("mount", None, b"/", None, libc.MS_REC | libc.MS_SLAVE, None)
            libc.call("mount", b"none", os.fsencode(_UNIFIED), b"tmpfs", 0, None)

    def _enter(self) -> None:
        wanted = (
            (self.inside.users, "user", libc.CLONE_NEWUSER),
            (self.inside.mounts, "mnt", libc.CLONE_NEWNS),
        )
        opened = [
            (os.open(f"/proc/{pid}/ns/{kind}", os.O_RDONLY | os.O_CLOEXEC), flag)
            for pid, kind, flag in wanted
            if pid
        ]
        for fd, flag in opened:
            libc.call("setns", fd, flag)
            os.close(fd)


@dataclass(frozen=True, slots=True)
class Streams:
    """The standard streams of a new container: descriptors, or the socket for its terminal."""

    input: int = subprocess.DEVNULL
    output: int = subprocess.DEVNULL
    errors: int | None = None
    console: Path | None = None


def _is_hybrid() -> bool:
    """Return whether control groups of version 2 are mounted beside those of version 1."""
    return os.path.ismount(_UNIFIED)


@contextmanager
def _log_file() -> Iterator[int]:
    """Yield a file for the messages of a runtime; it is nowhere, and so cannot be left behind."""
    log = os.memfd_create("runtime.log", os.MFD_CLOEXEC)
    try:
        yield log
    finally:
        os.close(log)


def _path_of(fd: int) -> str:
    """Return a path by which a process opens a descriptor that it inherits."""
    return f"/proc/self/fd/{fd}"


def _message(log: int, errors: bytes | None) -> str:
    """Return what a runtime said: in its log, or else on its standard error."""
    begin = max(0, os.fstat(log).st_size - _MAX_MESSAGE)
    text = os.pread(log, _MAX_MESSAGE, begin).decode(errors="replace")
    if not text and errors:
        text = errors.decode(errors="replace")[-_MAX_MESSAGE:]
    lines = [line for line in text.splitlines() if line.strip()]
    return printable(_plain(lines[-1])) if lines else "it failed without a message"


def terminal_output(log: bytes, status: int) -> bytes | None:
    """Return the end of a program's output that crun has put into its log; None for messages.

    When a program ends that has a terminal, crun moves what it has not yet passed on to its log, in
    chunks with a newline behind each (``flush_fd_to_err``). A terminal ends lines with CR LF, crun
    does not.
    """
    if _OF_CHILD.search(log) or (status in _FAILURES and b"\r" not in log):
        return None
    return re.sub(rb"(?<!\r)\n", b"", log)


def _plain(line: str) -> str:
    """Return the message of a line of a log: behind time and level, or in ``msg="…"``."""
    found = re.search(r'level=\w+ msg="((?:[^"\\]|\\.)*)"', line)
    if found is not None:
        return found[1].replace('\\"', '"')
    return re.sub(r"^\d{4}-\d\d-\d\dT\S+: ", "", line)
