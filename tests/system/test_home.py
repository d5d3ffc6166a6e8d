"""The home directory of users whom the system knows, and of others."""

from __future__ import annotations

import os
import pwd
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.users import NOBODY, call_as, public_place

from unionmount.registry.registries_conf import Registries
from unionmount.system.home import NO_HOME, home_of
from unionmount.trust.places import policy_file, registries_directory
from unionmount.trust.registries_d import RegistriesD

OWN = pwd.getpwuid(os.geteuid()).pw_dir


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory that every user may search."""
    with tempfile.TemporaryDirectory(dir=public_place()) as name:
        Path(name).chmod(0o755)
        yield Path(name)


def unknown_user() -> int:
    known = {one.pw_uid for one in pwd.getpwall()}
    return next(uid for uid in range(54321, 60000) if uid not in known)


@pytest.mark.parametrize(
    ("environment", "home"),
    [({"HOME": "/somewhere"}, "/somewhere"), ({"HOME": ""}, OWN), ({}, OWN), ({"HOME": "x"}, OWN)],
)
def test_the_environment_comes_first(environment: dict[str, str], home: str) -> None:
    assert home_of(environment) == Path(home)


@pytest.mark.needs("root")
def test_a_user_whom_no_database_knows(place: Path) -> None:
    """As in a container that runs under any number: only the files of the machine count."""
    (place / "policy.json").touch()

    def look() -> tuple[Path, Path | None, str]:
        Registries.load({}, system=place)
        return home_of({}), policy_file({}, place), RegistriesD.load({}, place).builtin

    home, policy, signatures = call_as(unknown_user(), look)
    assert home == NO_HOME
    assert not home.exists()
    assert policy == place / "policy.json"
    assert signatures == "file:///nonexistent/.local/share/containers/sigstore"


@pytest.mark.needs("root")
def test_the_home_of_somebody_else(place: Path) -> None:
    """After "su" without "-", say: all files of trust are those of the machine."""
    home, system = place / "home", place / "etc"
    for top in (home / ".config/containers", system):
        (top / "registries.d").mkdir(parents=True)
        (top / "policy.json").touch()
    home.chmod(0o700)
    environment = {"HOME": str(home)}

    def look() -> list[Path | None]:
        return [found(environment, system) for found in (policy_file, registries_directory)]

    own = home / ".config/containers"
    assert look() == [own / "policy.json", own / "registries.d"]
    assert call_as(NOBODY, look) == [system / "policy.json", system / "registries.d"]
