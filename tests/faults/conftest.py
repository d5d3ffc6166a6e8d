"""Fixtures of the tests that break something; no loop device is left behind, either."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from support.commands import Commands

from faults.control import Control


def _loops_below(place: Path) -> list[str]:
    """The loop devices whose files are below a directory, or were."""
    backings = Path("/sys/block").glob("loop*/loop/backing_file")
    found = []
    for backing in backings:
        with suppress(OSError):  # it was let go of just now
            found.append(f"{backing.parts[3]}: {backing.read_text().strip()}")
    return [line for line in found if str(place) in line]


@pytest.fixture(scope="session", autouse=True)
def _no_loop_devices_left(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Temporary files of the run, file systems among them, are in one place that is watched."""
    place = tmp_path_factory.mktemp("temporary").resolve()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tempfile, "tempdir", os.fspath(place))
        yield
    assert _loops_below(place) == []
    assert list(place.iterdir()) == []


@pytest.fixture(scope="module")
def commands(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Commands]:
    """The command line, with a store and a runtime directory of the module's own."""
    place = tmp_path_factory.mktemp("unionmount")
    names = {"UNIONMOUNT_ROOT": "store", "UNIONMOUNT_RUNTIME_DIR": "runtime"}
    with pytest.MonkeyPatch.context() as patch:
        for variable, name in names.items():
            (place / name).mkdir()
            patch.setenv(variable, os.fspath(place / name))
        made = Commands()
        yield made
        made.close()


@pytest.fixture(scope="module")
def control(tmp_path_factory: pytest.TempPathFactory) -> Control:
    return Control(tmp_path_factory.mktemp("control") / "control")


@pytest.fixture(scope="module")
def fragile(
    commands: Commands, control: Control, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Commands]:
    """The command line, whose daemons can be hit."""
    library = tmp_path_factory.mktemp("crash") / "crash.so"
    source = Path(__file__).with_name("crash.c")
    warnings = ("-std=c17", "-D_GNU_SOURCE", "-Wall", "-Wextra", "-Werror")
    subprocess.run(["cc", *warnings, "-O1", "-shared", "-fPIC", source, "-o", library], check=True)
    places = sorted(tmp_path_factory.getbasetemp().glob("control*"))
    environment = {"LD_PRELOAD": str(library), "FAULTS_CONTROL": str(places[-1] / "control")}
    made = Commands(environment)
    yield made
    made.close()
