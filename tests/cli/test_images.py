"""``images`` and ``inspect``: lists, filters, names, and what there is to say of an image.

Tables are recorded from the docker CLI 28.2.2 for the same images; test_docker_cli.py asks it again
where there is one.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.image_files import (
    MadeImage,
    docker_archive,
    gzipped,
    oci_layout,
    small_image,
    write_tar,
)
from support.listed_images import (
    BASE,
    DIGEST,
    NAMELESS,
    PLAIN,
    TIMELESS,
    TOP,
    WEB,
    DescribedImage,
    fill,
    put,
)

from unionmount.cli import main
from unionmount.cli.image_filters import matches
from unionmount.errors import InvalidReference
from unionmount.images.reference import Reference
from unionmount.store.store import Store

Capture = pytest.CaptureFixture[str]


class Line:
    """Our command line on one store."""

    def __init__(self, root: Path, capsys: Capture) -> None:
        self.root = root
        self._capsys = capsys

    def run(self, *arguments: str, status: int = 0) -> str:
        assert main(["--root", str(self.root), *arguments]) == status
        captured = self._capsys.readouterr()
        self.error = captured.err
        return captured.out

    def names(self, *arguments: str) -> list[str]:
        form = "{{.Repository}}:{{.Tag}}"
        return self.run("images", "--format", form, *arguments).split()


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fill(tmp_path_factory.mktemp("filled") / "store").root


@pytest.fixture
def line(filled: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> Line:
    monkeypatch.setenv("TZ", "UTC")
    shutil.copytree(filled, tmp_path / "store")
    return Line(tmp_path / "store", capsys)


def short(image: MadeImage) -> str:
    return image.id.removeprefix("sha256:")[:12]


# ---- the list ------------------------------------------------------------------------------------


def test_the_table(line: Line) -> None:
    rows = [re.split(" {3,}", row) for row in line.run("images").splitlines()]
    assert rows[0] == ["REPOSITORY", "TAG", "IMAGE ID", "CREATED", "SIZE"]
    assert [[*row[:3], row[4]] for row in rows[1:]] == [
        ["nginx", "1.25", short(WEB), "6.23kB"],
        ["nginx", "latest", short(WEB), "6.23kB"],
        ["localhost:5000/my/web", "1", short(WEB), "6.23kB"],
        ["<none>", "<none>", short(NAMELESS), "1.23kB"],
        ["ghcr.io/a/b", "2.0", short(PLAIN), "5kB"],
        ["quay.io/x/y", "<none>", rows[6][2], "6.23kB"],
        ["old", "1", short(TIMELESS), "0B"],
    ]
    assert rows[7][3] == "N/A"


def test_digests(line: Line) -> None:
    head, first, *_, last_but_one, _ = line.run("images", "--digests").splitlines()
    assert head.split()[:4] == ["REPOSITORY", "TAG", "DIGEST", "IMAGE"]
    assert first.split()[:3] == ["nginx", "1.25", DIGEST]
    assert last_but_one.split()[:3] == ["quay.io/x/y", "<none>", DIGEST]
    assert line.names(f"nginx@{DIGEST}") == ["nginx:<none>"]


def test_a_table_of_docker(tmp_path: Path, capsys: Capture) -> None:
    """Columns have ten characters at least, and the last one no spaces behind it."""
    made = DescribedImage((BASE,), ("a:1",), more={"created": "2012-01-01T00:00:00Z"})
    put(Store(tmp_path), made)
    lines = Line(tmp_path, capsys).run("images").splitlines()
    assert lines == [
        "REPOSITORY   TAG       IMAGE ID       CREATED        SIZE",
        f"a            1         {short(made)}   {_years(2012)} years ago   5kB",
    ]


def _years(since: int) -> int:
    then = time.mktime((since, 1, 1, 0, 0, 0, 0, 0, 0))
    return int((time.time() - then) / 3600) // 24 // 365


@pytest.mark.parametrize(
    ("filters", "names"),
    [
        (["dangling=true"], ["<none>:<none>", "quay.io/x/y:<none>"]),
        (["dangling=true", "label=x"], []),
        (["label=maintainer"], ["nginx:1.25", "nginx:latest", "localhost:5000/my/web:1"]),
        (["label=org.example.x-y=z", "reference=nginx"], ["nginx:1.25", "nginx:latest"]),
        (["label=org.example.x-y=other"], []),
        (["reference=nginx:1*"], ["nginx:1.25"]),
        (["reference=*/*/*"], ["localhost:5000/my/web:1", "ghcr.io/a/b:2.0", "quay.io/x/y:<none>"]),
        (["reference=old", "reference=ghcr.io/a/b"], ["ghcr.io/a/b:2.0", "old:1"]),
        (["reference=docker.io/library/nginx:latest"], ["nginx:latest"]),
        (["before=ghcr.io/a/b:2.0"], ["quay.io/x/y:<none>", "old:1"]),
        (["since=ghcr.io/a/b:2.0", "dangling=true"], ["<none>:<none>"]),
        (["until=2022-06-01"], ["quay.io/x/y:<none>", "old:1"]),
        (["until=1640995201"], ["quay.io/x/y:<none>", "old:1"]),
        (["until=1h30m", "reference=old"], ["old:1"]),
        (
            ["until=9000h", "before=nginx", "dangling=false"],
            ["ghcr.io/a/b:2.0", "quay.io/x/y:<none>", "old:1"],
        ),
    ],
    ids=str,
)
def test_filters(line: Line, filters: list[str], names: list[str]) -> None:
    assert line.names(*(f"--filter={one}" for one in filters)) == names


@pytest.mark.parametrize(
    "text", ["x", "color=red", "dangling=perhaps", "until=tomorrow", "until=1x"]
)
def test_filters_that_make_no_sense(line: Line, text: str) -> None:
    line.run("images", "-f", text, status=2)
    assert line.error.count("\n") == 1


def test_names(line: Line) -> None:
    assert line.names("nginx") == ["nginx:1.25", "nginx:latest"]
    assert line.names("nginx:1.25") == ["nginx:1.25"]
    assert line.names("ng*") == ["nginx:1.25", "nginx:latest"]
    assert line.names("my/web") == []
    assert line.names("nothing") == []


# As Go's path.Match on the names that distribution's FamiliarMatch tries.
@pytest.mark.parametrize(
    ("pattern", "matching"),
    [
        ("nginx", True),
        ("nginx:1.25", True),
        ("*", True),
        ("*:1.2?", True),
        ("ngin[a-x]", True),
        ("ngin[!x]", False),
        ("docker.io/library/*", True),
        ("library/nginx", False),
        ("n", False),
        ("nginx:1", False),
        ("[", False),
        ("nginx(", False),
    ],
)
def test_patterns(pattern: str, matching: bool) -> None:
    assert matches(Reference.parse("nginx:1.25"), pattern) is matching


def test_an_ambiguous_id_names_the_candidates(line: Line) -> None:
    store = Store(line.root)
    known: dict[str, MadeImage] = {}
    for number in range(4000):
        made = DescribedImage((BASE,), (f"many:{number}",), more={"author": str(number)})
        twin = known.setdefault(made.id[7:11], made)
        if twin is not made:
            break
    else:
        pytest.fail("no two IDs begin alike")
    put(store, twin)
    put(store, made)
    line.run("history", made.id[7:11], status=1)
    for one in (twin, made):
        assert f"{short(one)} ({one.names[0]})" in line.error
    assert line.error.count("\n") == 1
    with pytest.raises(InvalidReference, match="2 images"):
        store.find_image(f"sha256:{made.id[7:11]}")


def test_forms(line: Line) -> None:
    rows = json.loads(line.run("images", "--format", "json"))
    assert rows[0]["repository"] == "nginx"
    assert rows[0]["digest"] == DIGEST
    assert rows[3]["digest"] is None
    assert [json.loads(one) for one in line.run("images", "--format=jsonl").splitlines()] == rows
    assert line.run("images", "-q", "--no-trunc").split()[0] == WEB.id


def test_a_bad_template_is_found_without_images(tmp_path: Path, capsys: Capture) -> None:
    line = Line(tmp_path, capsys)
    line.run("images", "--format", "{{.ID", status=1)
    assert line.error == ("unionmount: template parsing error: template: :1: unclosed action\n")


# ---- inspect -------------------------------------------------------------------------------------


def inspected(line: Line, *arguments: str) -> Any:
    (found,) = json.loads(line.run("inspect", *arguments))
    return found


def test_keys_are_those_of_docker_in_its_order(line: Line) -> None:
    """``docker image inspect`` of an API before 1.50, without GraphDriver; ``Layers`` is ours."""
    found = inspected(line, "nginx:1.25")
    assert list(found) == [
        *("Id", "RepoTags", "RepoDigests", "Parent", "Comment", "Created", "DockerVersion"),
        *("Author", "Config", "Architecture", "Os", "Size", "RootFS", "Metadata", "Layers"),
    ]
    assert list(found["Config"]) == [
        *("Hostname", "Domainname", "User", "AttachStdin", "AttachStdout", "AttachStderr"),
        *("ExposedPorts", "Tty", "OpenStdin", "StdinOnce", "Env", "Cmd", "Healthcheck", "Image"),
        *("Volumes", "WorkingDir", "Entrypoint", "OnBuild", "Labels", "StopSignal"),
    ]


def test_what_is_said_of_an_image(line: Line) -> None:
    found = inspected(line, "nginx")
    config = WEB.more["config"]
    assert found["Id"] == WEB.id
    assert found["RepoTags"] == list(WEB.names)
    assert found["RepoDigests"] == [f"nginx@{DIGEST}"]
    assert found["Created"] == WEB.more["created"]
    assert {key: found["Config"][key] for key in config} == config
    assert found["RootFS"] == {"Type": "layers", "Layers": WEB.diff_ids}
    assert found["Size"] == 6234
    assert re.fullmatch(r"20..-..-..T..:..:..Z", found["Metadata"]["LastTagTime"])


def test_where_layers_live_and_who_shares_them(line: Line) -> None:
    base, top = inspected(line, "nginx")["Layers"]
    assert Path(base["Path"]).read_bytes() == BASE
    assert (base["Size"], base["TarSize"], base["Offset"]) == (5000, len(BASE), 0)
    assert base["SharedWith"][0] == "ghcr.io/a/b:2.0"
    assert len(base["SharedWith"]) == 2
    assert NAMELESS.id in top["SharedWith"]
    assert "ghcr.io/a/b:2.0" not in top["SharedWith"]


def test_an_archive_is_inspected_where_it_is(line: Line, sample: Path) -> None:
    found = inspected(line, str(sample))
    assert found["RepoTags"] == []
    layer = found["Layers"][1]
    with sample.open("rb") as file:
        file.seek(layer["Offset"])
        data = file.read(layer["TarSize"])
    assert layer["Path"] == str(sample)
    assert layer["DiffID"] == "sha256:" + hashlib.sha256(data).hexdigest()


def test_documents_as_they_are(line: Line) -> None:
    assert line.run("inspect", "--config", "nginx") == WEB.config.decode()
    raw = line.run("inspect", "--raw", "nginx")
    assert json.loads(raw)["config"]["digest"] == WEB.id
    line.run("inspect", "--raw", "--config", "nginx", status=2)
    line.run("inspect", "--raw", "nginx", "old:1", status=2)


def test_of_several_the_missing_ones_are_named(line: Line) -> None:
    found = json.loads(line.run("inspect", "nginx", "none\x1b[1m", "old:1", status=1))
    assert [one["Id"] for one in found] == [WEB.id, TIMELESS.id]
    assert line.error == "unionmount: no image 'none\\x1b[1m' in the store\n"
    assert line.run("inspect", "none", status=1) == "[]\n"
    assert line.run("inspect", "-f", "{{.Id}}", "none", "nginx", status=1) == f"{WEB.id}\n"


def test_a_terminal_is_told_nothing(line: Line) -> None:
    shown = line.run("inspect", "nginx")
    assert "\x1b" not in shown
    assert json.loads(shown)[0]["Config"]["Labels"]["é"] == "\x1b[1m"


def test_one_line_forms(line: Line) -> None:
    assert json.loads(line.run("inspect", "-f", "json", "nginx", "old:1"))[1]["Id"] == TIMELESS.id
    lines = line.run("inspect", "-f", "jsonl", "nginx", "old:1").splitlines()
    assert [json.loads(one)["Id"] for one in lines] == [WEB.id, TIMELESS.id]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("Env", "A=b\x00"),
        ("Env", [1]),
        ("Cmd", {"a": 1}),
        ("Labels", {"a": 1}),
        ("Labels", []),
        ("ExposedPorts", "80"),
        ("User", 7),
        ("Tty", "yes"),
        ("Healthcheck", ["x"]),
        ("Healthcheck", {"Interval": 2**70}),
        ("StopTimeout", 1.5),
    ],
    ids=str,
)
def test_a_config_of_wrong_types_is_an_error(line: Line, name: str, value: Any) -> None:
    made = DescribedImage((BASE,), ("odd:1",), more={"config": {name: value}})
    put(Store(line.root), made)
    if (name, value) == ("Env", "A=b\x00"):  # one string stands for a list of one
        assert inspected(line, "odd:1")["Config"]["Env"] == [value]
        return
    line.run("inspect", "odd:1", status=1)
    assert made.id in line.error
    assert line.error.count("\n") == 1


def test_a_nameless_comment_is_that_of_the_last_step(line: Line) -> None:
    history = [{"comment": "first"}, {"comment": "last", "empty_layer": True}]
    put(Store(line.root), DescribedImage((TOP,), ("c:1",), more={"history": history}))
    assert inspected(line, "c:1")["Comment"] == "last"


# -- load


def test_load_says_what_this_archive_holds(tmp_path: Path, capsys: Capture) -> None:
    """A name that the image has in the store from elsewhere is none of the archive's."""
    line = Line(tmp_path / "root", capsys)
    image = small_image(names=("one:1",))
    archive = write_tar(tmp_path / "a.tar", docker_archive(image, replace(image, names=("two:2",))))
    names = ["docker.io/library/one:1", "docker.io/library/two:2"]
    told = "".join(f"Loaded image: {name}\n" for name in names)
    assert line.run("load", "-i", str(archive)) == told
    line.run("tag", "one:1", "mine:3")
    assert line.run("load", "-i", str(archive)) == told
    assert line.run("load", "-q", "-i", str(archive)) == f"{image.id}\n"
    nameless = write_tar(tmp_path / "b.tar", docker_archive(replace(image, names=())))
    assert line.run("load", "-i", str(nameless)) == f"Loaded image ID: {image.id}\n"
    assert line.run("images", "-q", "--no-trunc", "mine:3") == f"{image.id}\n"


def test_load_says_each_name_once(tmp_path: Path, capsys: Capture) -> None:
    """An archive may give one name to two images: the later one has it."""
    line = Line(tmp_path / "root", capsys)
    first, second = small_image("1", names=("a:1", "b:1")), small_image("2", names=("a:1",))
    archive = write_tar(tmp_path / "a.tar", docker_archive(first, second))
    told = line.run("load", "-i", str(archive))
    assert told.splitlines().count("Loaded image: docker.io/library/a:1") == 1
    assert line.run("images", "-q", "--no-trunc", "a:1") == f"{second.id}\n"


# -- one image by several routes


@pytest.fixture
def twice(tmp_path: Path, capsys: Capture) -> tuple[Line, MadeImage]:
    """An image from an archive, and again with compressed layers: two manifests, one ID."""
    line = Line(tmp_path / "root", capsys)
    image = small_image(names=("one:1",))
    archive = write_tar(tmp_path / "a.tar", docker_archive(image))
    layout = write_tar(
        tmp_path / "b.tar",
        oci_layout(replace(image, names=("example.org/two:2",)), compress=gzipped),
    )
    for path in (archive, layout):
        line.run("load", "-i", str(path))
    store = Store(line.root)
    assert len({one.manifest for one in store.directory.images()}) == 2
    return line, image


def test_it_is_listed_and_counted_once(twice: tuple[Line, MadeImage]) -> None:
    line, image = twice
    (found,) = Store(line.root).list_images()
    assert sorted(found.names) == ["docker.io/library/one:1", "example.org/two:2"]
    assert sorted(line.names()) == ["example.org/two:2", "one:1"]
    for name in ("one:1", "example.org/two:2", image.id):
        (inspected,) = json.loads(line.run("inspect", name))
        assert sorted(inspected["RepoTags"]) == ["example.org/two:2", "one:1"]
        assert [layer["SharedWith"] for layer in inspected["Layers"]] == [[], []]
    table = line.run("df", "-v")
    assert table.count(image.id.removeprefix("sha256:")[:12]) == 1
    (row,) = [one for one in line.run("df").splitlines() if one.startswith("Images")]
    assert row.split()[1] == "1"


def test_its_names_are_those_of_one_image_when_it_goes(twice: tuple[Line, MadeImage]) -> None:
    line, image = twice
    line.run("rmi", image.id, status=1)
    assert line.run("rmi", "one:1") == "Untagged: one:1\n"
    assert line.names() == ["example.org/two:2"]
    line.run("prune")
    assert line.names() == ["example.org/two:2"]
    told = line.run("rmi", "example.org/two:2").splitlines()
    assert told.count(f"Deleted: {image.id}") == 1
    assert Store(line.root).directory.images() == []
    assert list((line.root / "layers/sha256").iterdir()) == []


def test_an_entry_without_a_name_is_none_of_an_image_with_one(
    twice: tuple[Line, MadeImage], tmp_path: Path
) -> None:
    line, image = twice
    other = small_image("other", names=("one:1",))
    line.run("load", "-i", str(write_tar(tmp_path / "c.tar", docker_archive(other))))
    assert len(Store(line.root).directory.images()) == 3
    assert line.run("images", "-q", "-f", "dangling=true") == ""
    assert "Deleted" not in line.run("prune")
    assert line.run("images", "-q", "--no-trunc", "example.org/two") == f"{image.id}\n"
    told = line.run("rmi", "example.org/two:2").splitlines()
    assert told.count(f"Deleted: {image.id}") == 1
    assert line.names() == ["one:1"]
    every = line.run("prune", "-a").splitlines()
    assert every.count(f"Deleted: {other.id}") == 1


def test_the_last_tag_of_a_repository_takes_its_digests_of_all_entries(
    twice: tuple[Line, MadeImage],
) -> None:
    """One entry has the digest, another one the tag: for a user they are of one image."""
    line, image = twice
    store = Store(line.root)
    compressed = store.find_image("example.org/two:2")
    digest = Reference.parse(f"docker.io/library/one@{compressed.manifest}")
    store.put_image([], store.read_image(compressed), digests=[digest])
    assert line.run("rmi", "one:1") == f"Untagged: one:1\nUntagged: {digest.familiar}\n"
    told = line.run("rmi", "example.org/two:2").splitlines()
    assert told.count(f"Deleted: {image.id}") == 1
    assert store.directory.images() == []
