"""README, the tutorial and the how-to pages show what the program really prints."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import click
import pytest
from support.documents import REGISTRY, Document, Place, agrees, parse, unmarked_blocks
from support.emulator import namespace_without_emulators, registration
from support.servers import DockerRegistry
from support.users import become_nobody, fuse_for_all

from unionmount.cli.program import cli
from unionmount.cli.settings import Settings

PROJECT = Path(__file__).parents[2]
HOW_TO = sorted(path.name for path in (PROJECT / "docs/how-to").glob("*.md"))
PAGES = ["README.md", "docs/tutorial.md", *(f"docs/how-to/{name}" for name in HOW_TO)]
EXAMPLES = {  # blocks that are not run, by page; what is not here has none
    "README.md": 2,
    "docs/tutorial.md": 1,
    "docs/how-to/accept-signed-images-only.md": 2,
    "docs/how-to/back-up-and-restore.md": 1,
    "docs/how-to/chroot.md": 1,
    "docs/how-to/import-a-root-file-system.md": 1,
    "docs/how-to/browse.md": 1,
    "docs/how-to/mirror-images.md": 2,
    "docs/how-to/mount-at-boot.md": 6,
    "docs/how-to/scan-an-image.md": 1,
    "docs/how-to/patch-and-push.md": 1,
    "docs/how-to/use-another-platform.md": 1,
    "docs/how-to/use-in-ci-and-containers.md": 7,
    "docs/how-to/use-with-podman.md": 6,
}


JOBS = {  # everyday jobs, and the pages that do them
    "what is in this image": ("look-into-an-image", "browse"),
    "find a leaked secret and its layer, take it out": ("find-a-leaked-secret",),
    "why is it so big": ("find-out-why-an-image-is-big",),
    "compare two releases": ("compare-two-releases", "list-packages"),
    "patch a file and push, pull with podman": ("patch-and-push",),
    "recover a file of a stopped container": ("recover-a-file", "copy-files-in-and-out"),
    "back up a tree with rsync and tar, restore, compare": (
        "back-up-the-files",
        "back-up-and-restore",
    ),
    "scan it": ("scan-an-image",),
    "chroot or bwrap, and install a package": ("chroot",),
    "mount at boot": ("mount-at-boot",),
    "script it": ("use-in-scripts", "use-in-ci-and-containers"),
    "share a store among users": ("share-a-store",),
    "remove everything": ("clean-up",),
    "all as an ordinary user": ("use-as-an-ordinary-user",),
    "an arm64 image on amd64": ("use-another-platform",),
    "very many files and several gigabytes": ("work-with-very-large-images",),
    "something died": ("recover-when-something-died",),
    "Python from a script": ("use-from-python",),
}


def read(page: str) -> str:
    return (PROJECT / page).read_text(encoding="utf-8")


@pytest.fixture
def place(
    public_tmp: Path, unionmount: Path, sample: Path, tmp_path: Path
) -> Iterator[Callable[[Document], Place]]:
    """A function that makes a place for a page, which is cleaned up when the test ends."""
    with ExitStack() as stack:

        def make(document: Document) -> Place:
            shutil.copy(sample, public_tmp / "sample.tar")
            made = Place.at(public_tmp, unionmount)
            if document.user == "ordinary":
                stack.enter_context(fuse_for_all())
                public_tmp.chmod(0o777)
                made = replace(made, prefix=become_nobody(in_shell=True))
            if document.user == "namespace":
                made = _in_namespace(made, stack)
            if any(REGISTRY in step.command for step in document.steps):
                running = stack.enter_context(DockerRegistry(tmp_path / "registry"))
                made = replace(made, registry=running.address)
            stack.callback(_unmount_all, made)
            return made

        yield make


def _in_namespace(place: Place, stack: ExitStack) -> Place:
    """The place in a user namespace without emulators; "register-emulator" registers one."""
    prefix = stack.enter_context(namespace_without_emulators(place.directory))
    line = shlex.quote(registration())
    tools = place.directory / "tools"
    tools.mkdir()
    script = f"#!/bin/sh\nprintf %s {line} >/proc/sys/fs/binfmt_misc/register\n"
    (tools / "register-emulator").write_text(script, encoding="utf-8")
    (tools / "register-emulator").chmod(0o755)
    # Go keeps what it compiled of its library where it always does
    cache = os.environ.get("GOCACHE", str(Path.home() / ".cache/go-build"))
    more = {"PATH": f"{place.environment['PATH']}:{tools}", "GOCACHE": cache}
    return replace(place, prefix=prefix, environment=place.environment | more)


def _unmount_all(place: Place) -> None:
    command = [*place.prefix, "unionmount", "umount", "--all"]
    subprocess.run(command, env=place.environment, check=False, capture_output=True)


@pytest.mark.needs("fuse", "getfattr")
@pytest.mark.parametrize("page", PAGES)
def test_it_shows_what_is_printed(
    page: str, place: Callable[[Document], Place], require: Callable[..., None]
) -> None:
    _check_output(parse(read(page)), place, require)


@pytest.mark.slow
@pytest.mark.needs("fuse", "getfattr", "root")
@pytest.mark.parametrize("page", [page for page in PAGES if not parse(read(page)).user])
def test_an_ordinary_user_gets_the_same(
    page: str, place: Callable[[Document], Place], require: Callable[..., None]
) -> None:
    """Pages that do not name a user are for everybody, and root runs them above."""
    _check_output(replace(parse(read(page)), user="ordinary"), place, require)


def _check_output(
    document: Document, place: Callable[[Document], Place], require: Callable[..., None]
) -> None:
    users = {"root": ("root",), "ordinary": ("ordinary-user",)}
    require(*document.needs, *users.get(document.user, ()))
    if any(REGISTRY in step.command for step in document.steps):
        require("docker-registry")
    there = place(document)
    for step in document.steps:
        output = there.run(step)
        assert step.is_true(output), f"$ {step.command}\n{output}"


@pytest.mark.parametrize("page", PAGES)
def test_every_block_is_run_or_marked_as_an_example(page: str) -> None:
    document = parse(read(page))
    assert len([step for step in document.steps if step.shown is not None]) >= 3
    assert document.examples == EXAMPLES.get(page, 0)
    if page != "README.md":  # whose others are two lines of installation
        assert unmarked_blocks(read(page)) == []


def test_readme_is_short() -> None:
    text = read("README.md")
    assert len(text.splitlines()) < 150
    commands = parse(text).steps
    assert sum(1 + (step.shown or "").count("\n") for step in commands) <= 40


def test_there_is_a_page_for_each_task() -> None:
    pages = [f"{page}.md" for wanted in JOBS.values() for page in wanted]
    assert {*pages} <= {*HOW_TO}
    index = read("docs/index.md")
    assert [page for page in HOW_TO if f"(how-to/{page})" not in index] == []
    assert len([step for page in PAGES for step in parse(read(page)).steps]) > 150


@pytest.mark.parametrize("page", PAGES)
def test_units_start_commands_that_there_are(page: str) -> None:
    lines = [line for line in read(page).splitlines() if line.startswith("Exec")]
    for line in lines:
        program, name, *words = shlex.split(line.partition("=")[2])
        if not program.endswith("/unionmount"):
            assert line.startswith("ExecStartPost=")
            continue
        context = click.Context(cli, obj=Settings(), **cli.context_settings)
        command = cli.get_command(context, name)
        assert command is not None
        command.make_context(name, words, parent=context)
    assert bool(lines) == page.endswith("mount-at-boot.md")


def _units() -> dict[str, str]:
    """The units of the page about the boot, by name."""
    text = read("docs/how-to/mount-at-boot.md")
    found = re.findall(r"`/etc/systemd/system/([\w.-]+)`:\*\n\n```ini\n(.*?)```", text, re.DOTALL)
    return dict(found)


def _verified(directory: Path, *units: str) -> str:
    """What systemd says of units; nothing where they are right."""
    command = ["systemd-analyze", "verify", "--man=no", *(str(directory / name) for name in units)]
    environment = os.environ | {"SYSTEMD_UNIT_PATH": f"{directory}:"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    failed = f"status {done.returncode}" if done.returncode else ""
    return done.stdout + done.stderr + failed


@pytest.mark.needs("systemd-analyze")
def test_systemd_takes_the_units(tmp_path: Path, unionmount: Path) -> None:
    units = _units()
    assert {*units} == {"srv-site.mount", "srv-site.automount", "site.service"}
    for name, text in units.items():
        # systemd looks whether the program is there
        there = text.replace("/usr/local/bin/unionmount", str(unionmount))
        (tmp_path / name).write_text(there, encoding="utf-8")
    assert _verified(tmp_path, *units) == ""
    (tmp_path / "srv-site.mount").write_text("[Mount]\nWher=/srv/site\n", encoding="ascii")
    assert "Wher" in _verified(tmp_path, "srv-site.mount")


@pytest.mark.needs("systemd-analyze", "/usr/lib/systemd/system-generators/systemd-fstab-generator")
def test_systemd_makes_units_of_the_lines_of_fstab(tmp_path: Path) -> None:
    (text,) = re.findall(r"```text\n(.*?)```", read("docs/how-to/mount-at-boot.md"), re.DOTALL)
    added = "site:1 /srv/auto unionmount noauto,x-systemd.automount,x-systemd.idle-timeout=10min\n"
    (tmp_path / "fstab").write_text(text + added, encoding="utf-8")
    generator = "/usr/lib/systemd/system-generators/systemd-fstab-generator"
    environment = os.environ | {"SYSTEMD_FSTAB": str(tmp_path / "fstab")}
    (tmp_path / "units").mkdir()
    subprocess.run([generator, *[str(tmp_path / "units")] * 3], check=True, env=environment)
    units = sorted(path.name for path in (tmp_path / "units").glob("*mount"))
    expected = ["srv-a.mount", "srv-auto.automount", "srv-auto.mount", "srv-site.mount"]
    assert units == [*expected, "srv-www.mount"]
    assert "Type=unionmount" in (tmp_path / "units/srv-www.mount").read_text(encoding="utf-8")
    assert _verified(tmp_path / "units", *units) == ""


@pytest.mark.parametrize(
    ("output", "shown", "expected"),
    [
        ("a  b\n", "a b\n", True),
        ("a\nb\n", "a\n", False),
        ("sha256:" + "0" * 64, "sha256:" + "1" * 64, True),
        ("ab3902a82141", "0123456789ab", False),
        ("took 3 s\nb", "took … s\nb", True),
        ("a\nb\nc\nd", "a\n…\nd", True),
        ("a\nb\nc\nd", "a…\nd", False),
    ],
)
def test_outputs_are_compared(output: str, shown: str, expected: bool) -> None:
    assert agrees(output, shown) is expected


def test_a_page_is_taken_apart() -> None:
    text = (
        "<!-- user: root -->\n<!-- needs: a, b -->\n<!-- prepare:\nmkdir x\n-->\n"
        "```console\n$ one \\\n> two\nout\n```\n"
        "*Example; needs a network:*\n\n```console\n$ no\n```\n"
        "```python\nprint(1)\n```\n\n```text\n1\n```\n"
    )
    document = parse(text)
    assert [(step.command, step.shown) for step in document.steps] == [
        ("mkdir x", None),
        ("one \\\ntwo", "out\n"),
        (f"{shlex.quote(sys.executable)} -c 'print(1)\n'", "1\n"),
    ]
    assert (document.examples, document.user, document.needs) == (1, "root", ("a", "b"))
    assert unmarked_blocks("```python\nx\n```\n\n```text\n1\n```\n") == []
    assert unmarked_blocks("```python\nx\n```\n") == ["x\n"]
    assert unmarked_blocks("```\nwhat\n```\n") == ["what\n"]


@pytest.mark.needs("fuse")
def test_the_picture_is_what_its_commands_print(project: Path, tmp_path: Path) -> None:
    drawn = tmp_path / "demo.svg"
    script = project / "scripts/make_picture.py"
    subprocess.run([sys.executable, str(script), str(drawn)], check=True, timeout=120)
    assert ET.parse(drawn).getroot().tag.endswith("svg")
    kept = (project / "docs/images/demo.svg").read_text(encoding="utf-8")
    assert drawn.read_text(encoding="utf-8") == kept, "run scripts/make_picture.py"
