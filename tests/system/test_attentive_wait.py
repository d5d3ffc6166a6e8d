"""Ctrl-C ends a wait for another thread, whichever thread the signal is delivered to."""

from __future__ import annotations

import subprocess
import sys

import pytest

# The C part of the handler runs in the other thread, so that nothing wakes the main one: as if the
# signal had come just before the main thread slept.
_PROGRAM = """
import signal, threading
from unionmount.system.attentive_wait import wait_for

asleep = threading.Event()

def interrupt():
    asleep.wait()
    signal.pthread_kill(threading.get_ident(), signal.SIGINT)

class Told(threading.Event):
    def wait(self, timeout=None):
        asleep.set()
        return super().wait(timeout)

signal.signal(signal.SIGINT, signal.default_int_handler)
threading.Thread(target=interrupt, daemon=True).start()
try:
    wait_for(Told())
except KeyboardInterrupt:
    print("interrupted")
"""


def test_a_signal_that_another_thread_gets_ends_the_wait() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout == "interrupted\n"


# The C library compiles this expression for longer than a minute. The signal comes meanwhile.
_COMPILING = """
import signal, sys, threading
from unionmount import core
from unionmount.core.path_regex import PathRegex

main = threading.main_thread()

def interrupt():
    while threading.active_count() < 3:
        pass
    signal.pthread_kill(main.ident, signal.SIGINT)

signal.signal(signal.SIGINT, signal.default_int_handler)
threading.Thread(target=interrupt, daemon=True).start()
try:
    if sys.argv[1] == "grep":
        setup = core.SearchSetup(EXPRESSION, "extended", core.SearchFlags(lines=True))
        core.Searcher(setup, core.Cancellation())
    else:
        PathRegex(EXPRESSION, "posix-extended")
except KeyboardInterrupt:
    print("interrupted")
""".replace("EXPRESSION", repr(b"^(p" + b"*" * 20 + b"+*+)$"))


@pytest.mark.parametrize("what", ["grep", "find"])
def test_a_signal_ends_the_compilation_of_an_expression(what: str) -> None:
    command = [sys.executable, "-c", _COMPILING, what]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "interrupted\n"
