"""The mount against the kernel's overlayfs and a plain directory, step by step.

UNIONMOUNT_DIFFERENTIAL_RUNS is the number of runs of each test; `make soak` goes on for long.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import pytest
from support.backing import backing, kinds
from support.effort import amount
from support.users import fuse_for_all

from differential.deviations import KNOWN_DEVIATIONS
from differential.explore import explore
from differential.lowers import RICH
from differential.run import Difference, Place, Run, Step, replay
from differential.variants import MAPPED, OTHERS, VARIANTS, is_users
from differential.worker import Zygote

pytestmark = pytest.mark.needs("fuse", "overlayfs", "ordinary-user")

RUNS = int(os.environ.get("UNIONMOUNT_DIFFERENTIAL_RUNS", "3"))
STEPS = 80


@pytest.fixture(scope="module")
def zygote() -> Iterator[Zygote]:
    made = Zygote()
    yield made
    made.close()


@pytest.fixture(scope="module")
def device() -> Iterator[None]:
    """/dev/fuse open to ordinary users."""
    with fuse_for_all():
        yield


@contextmanager
def place_on(kind: str, zygote: Zygote) -> Iterator[Place]:
    """A file system for the uppers; the lowers are on it, too, where it is one of a disk's."""
    with ExitStack() as stack:
        top = stack.enter_context(backing(kind))
        below = top if kind in ("ext4", "xfs") else stack.enter_context(backing("ext4", 128))
        yield Place(below, top, zygote)


@pytest.mark.parametrize("kind", kinds())
@pytest.mark.parametrize("name", ["directories", "image"])
@pytest.mark.timeout(900)  # where it fails, it takes its time to say how little is needed
def test_the_mount_does_what_overlayfs_and_posix_say(
    name: str, kind: str, zygote: Zygote, require: Callable[..., None]
) -> None:
    require(f"backing-{kind}")
    with place_on(kind, zygote) as place:
        explore(place, VARIANTS[name], RUNS, STEPS)


@pytest.mark.needs("passthrough")
@pytest.mark.timeout(900)
def test_files_that_the_kernel_reads_and_writes_itself(zygote: Zygote) -> None:
    with place_on("ext4", zygote) as place:
        explore(place, VARIANTS["passthrough"], RUNS, STEPS)


@pytest.mark.parametrize("name", ["without-router", "one-thread"])
@pytest.mark.timeout(900)
def test_who_answers_makes_no_difference(name: str, zygote: Zygote) -> None:
    with place_on("tmpfs", zygote) as place:
        explore(place, VARIANTS[name], RUNS, STEPS)


@pytest.mark.parametrize(
    "name",
    [
        *("aufs-whiteouts", "powerless", "stat-marks", "privileged-stat-marks"),
        *("users-image", "users-directories"),
    ],
)
@pytest.mark.timeout(900)
@pytest.mark.usefixtures("device")
def test_other_lowers_and_ordinary_users(name: str, zygote: Zygote) -> None:
    with place_on("tmpfs", zygote) as place:
        explore(place, VARIANTS[name], RUNS, STEPS)


@pytest.mark.parametrize("name", [one.name for one in MAPPED])
@pytest.mark.timeout(900)
def test_maps_of_owners_do_what_idmapped_mounts_do(name: str, zygote: Zygote) -> None:
    with place_on("ext4", zygote) as place:
        explore(place, VARIANTS[name], amount(1, RUNS), STEPS)


@pytest.mark.parametrize("name", ["users-image", "users-directories"])
@pytest.mark.usefixtures("device")
def test_all_names_of_a_users_fifo_agree(name: str, zygote: Zygote) -> None:
    """It has another number once it is copied up; what the kernel was told before must not stay."""
    look: Step = ("", "compare", {})
    link: Step = ("owner", "link", {"path": "d/f", "new": "a/x", "follow": False})
    with place_on("tmpfs", zygote) as place:
        replay(place, VARIANTS[name], RICH, [look, link, look])


@pytest.mark.needs("fuse-overlayfs")
@pytest.mark.timeout(900)
def test_the_machinery_finds_what_is_wrong_elsewhere(zygote: Zygote) -> None:
    with place_on("tmpfs", zygote) as place:
        run = Run(place, OTHERS, RICH, look=False)
        try:
            with pytest.raises(Difference, match="STEPS = "):  # EXDEV there
                run.step("root", "rename", path="d/a", new="d/new")
        finally:
            run.close()


def test_every_known_deviation_has_a_reason() -> None:
    assert all(len(one.reason) > 20 for one in KNOWN_DEVIATIONS)
    assert {one.right for one in KNOWN_DEVIATIONS} <= {"plain", "kernel", "either"}


def test_variants_of_users_are_told_apart() -> None:
    assert sorted(name for name, one in VARIANTS.items() if is_users(one)) == [
        "users-directories",
        "users-image",
    ]
