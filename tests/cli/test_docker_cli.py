"""The docker client as the oracle: told of our images by a daemon of ours, it prints what we do.

What docker's daemon would answer is made of what we know of the images, in the API's words; what is
compared is everything that the client does: columns, widths, cuts, ages, sizes, templates, errors.
Where there is no docker, test_images.py and test_history.py have some of its output, recorded.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.dockerd import Docker, answering
from support.listed_images import DIGEST, fill

from unionmount.cli import main
from unionmount.cli.output import human_duration, human_size
from unionmount.store.store import Store

pytestmark = [pytest.mark.needs("docker-cli"), pytest.mark.slow]
Capture = pytest.CaptureFixture[str]
_NAMES = ("nginx:1.25", "ghcr.io/a/b:2.0", "old:1")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return fill(tmp_path_factory.mktemp("listed") / "store")


def seconds(created: str | None) -> int:
    if not created:
        return 0
    return int(datetime.fromisoformat(created).timestamp())


class Ours:
    """Our command line on the same store."""

    def __init__(self, store: Store, capsys: Capture) -> None:
        self._store = store
        self._capsys = capsys

    def run(self, *arguments: str) -> tuple[int, str, str]:
        self._capsys.readouterr()
        status = main(["--root", str(self._store.root), *arguments])
        captured = self._capsys.readouterr()
        return status, captured.out, captured.err

    def json(self, *arguments: str) -> Any:
        return json.loads(self.run(*arguments)[1])


@pytest.fixture
def ours(store: Store, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> Ours:
    monkeypatch.setenv("TZ", "UTC")
    return Ours(store, capsys)


def answers(ours: Ours) -> dict[str, Any]:
    """What a daemon with our images would say."""
    found: dict[str, Any] = {}
    summaries = []
    ids = dict.fromkeys(ours.run("images", "-q", "--no-trunc")[1].split())
    for image_id in ids:
        (document,) = ours.json("inspect", image_id)
        for name in {image_id, *document["RepoTags"]}:
            found[f"/images/{name}/json"] = document
        summaries.append(
            {
                "Id": document["Id"],
                "RepoTags": document["RepoTags"],
                "RepoDigests": document["RepoDigests"],
                "Created": seconds(document.get("Created")),
                "Size": document["Size"],
                "SharedSize": -1,
                "Containers": -1,
            }
        )
    found["/images/json"] = summaries
    for name in _NAMES:
        found[f"/images/{name}/history"] = [
            {
                "Id": row["id"] or "<missing>",
                "Created": seconds(row["created"]),
                "CreatedBy": row["created_by"],
                "Size": row["size"],
                "Comment": row["comment"],
            }
            for row in ours.json("history", "--format", "json", name)
        ]
    return found


@pytest.fixture
def docker(ours: Ours, tmp_path: Path) -> Iterator[Docker]:
    with answering(tmp_path, answers(ours)) as client:
        yield client


def same_lines(ours: str, theirs: str, *, ordered: bool = True) -> None:
    mine, its = ours.splitlines(), theirs.splitlines()
    if not ordered:  # docker goes over the names of an image in the order of a Go map: any
        mine, its = sorted(mine), sorted(its)
    assert mine == its


# ---- history -------------------------------------------------------------------------------------


def test_history(docker: Docker, ours: Ours) -> None:
    for name in _NAMES:
        for flags in (
            [],
            ["--no-trunc"],
            ["-q"],
            ["-q", "--no-trunc"],
            ["-H=false"],
            ["--format", "{{json .}}"],
            ["--format", "{{.ID}}: {{.CreatedBy}} {{.CreatedAt}}"],
            ["--format", r"table {{.ID}}\t{{.CreatedSince}}|{{upper .Size}}"],
            ["--format", "table"],
            ["--no-trunc", "--format", r"{{.CreatedBy}}\n--"],
        ):
            theirs = docker.run("history", *flags, name)
            status, output, _ = ours.run("history", *flags, name)
            assert (status, theirs.returncode) == (0, 0), theirs.stderr
            same_lines(output, theirs.stdout)


# ---- images --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "flags",
    [
        [],
        ["--digests"],
        ["--no-trunc"],
        ["-q"],
        ["-a", "-q", "--no-trunc"],
        ["--format", "{{json .}}"],
        ["--format", "{{.Repository}}:{{.Tag}} {{.ID}} {{.CreatedSince}} {{.Size}}"],
        ["--format", "{{.Repository}}@{{.Digest}}"],
        ["--format", r"table {{.Repository}}\t{{.Size}}"],
        ["--format", "table {{.ID}}: {{.CreatedAt}}"],
        ["--digests", "--format", "{{.Digest}}"],
    ],
    ids=" ".join,
)
def test_images(docker: Docker, ours: Ours, flags: list[str]) -> None:
    theirs = docker.run("images", *flags)
    status, output, _ = ours.run("images", *flags)
    assert (status, theirs.returncode) == (0, 0), theirs.stderr
    mine, its = output, theirs.stdout
    if "Digest" in str(flags) or "json" in str(flags):  # it has no digest there where that is all
        its = its.replace("quay.io/x/y@\n", f"quay.io/x/y@{DIGEST}\n")
        its = its.replace('"Digest":""', f'"Digest":"{DIGEST}"')
    same_lines(mine, its, ordered=False)


def test_an_empty_list(tmp_path: Path, capsys: Capture) -> None:
    with answering(tmp_path, {"/images/json": []}) as docker:
        theirs = docker.run("images").stdout
    assert main(["--root", str(tmp_path / "store"), "images"]) == 0
    assert capsys.readouterr().out == theirs


# ---- inspect -------------------------------------------------------------------------------------

_TEMPLATES = (
    *("{{.Id}}", "{{.ID}}", "{{.RepoTags}}", "{{.RepoDigests}}", "{{.Created}}", "{{.Size}}"),
    *("{{.Author}}", "{{.Os}}/{{.Architecture}}", "{{.Comment}}|", "{{.Parent}}|"),
    *("{{.Config.Env}}", "{{.Config.Cmd}}", "{{.Config.Entrypoint}}", "{{.Config.User}}"),
    *("{{.Config.ExposedPorts}}", "{{.Config.Volumes}}", "{{.Config.Labels}}"),
    *("{{.Config.WorkingDir}}", "{{.Config.StopSignal}}", "{{.Config.OnBuild}}"),
    *("{{.Config.Hostname}}|", "{{.Config.Image}}|", "{{json .Config.Cmd}}", "{{json .RootFS}}"),
    *("{{json .Config.ExposedPorts}}", "{{json .Config.Healthcheck}}", "{{json .RepoTags}}"),
    *("{{.Config.Healthcheck.Test}}", "{{json .Config.Labels}}", "{{json .Config.Volumes}}"),
    *("{{index .RepoTags 0}}", "{{index .RepoTags 7}}", "{{index .RepoDigests 0}}"),
    *('{{index .Config.Labels "maintainer"}}', '{{index .Config.Labels "no"}}|'),
    *("{{range .Config.Env}}{{println .}}{{end}}", "{{len .RootFS.Layers}}"),
    *("{{range $p, $c := .Config.ExposedPorts}}{{$p}} {{$c}};{{end}}", "{{.RootFS}}"),
    *('{{join .Config.Env ","}}', '{{join .RepoTags "\\n"}}', "{{.RootFS.Layers}}"),
    *("{{if .Config.Healthcheck}}{{.Config.Healthcheck.Interval}}{{end}}", "{{.Foo}}"),
    *("{{.Config.Foo}}", "{{.Id.Foo}}", "{{.Config.Cmd.Foo}}", "{{.Config.Env | len}}"),
    *('{{printf "%.19s %d" .ID .Size}}', "{{if gt .Size 6000}}big{{else}}small{{end}}"),
    *(
        "{{upper .Os}} {{title .Os}}",
        '{{.Id | printf "%s" | len}}',
        "{{with .Config}}{{.User}}{{end}}",
    ),
    *("{{nope}}", "{{.Id", "{{if .Id}}", "{{.GraphDriver.Foo}}", "{{slice .Id 7 19}}"),
    *('{{range .Config.Env}}{{$p := split . "="}}{{index $p 0}}={{index $p 1}} {{end}}',),
)


def test_inspect_with_templates(docker: Docker, ours: Ours) -> None:
    for name in ("nginx:1.25", "old:1"):
        for template in _TEMPLATES:
            theirs = docker.run("image", "inspect", "--format", template, name)
            status, output, error = ours.run("inspect", "--format", template, name)
            assert (status == 0) == (theirs.returncode == 0), (template, error, theirs.stderr)
            if theirs.returncode == 0:
                assert output == theirs.stdout, template
            else:
                assert error == f"unionmount: {theirs.stderr}".rstrip("\n") + "\n", template


def test_inspect(docker: Docker, ours: Ours) -> None:
    """The client prints what its daemon says; ours escapes what a terminal would obey."""
    for name in _NAMES:
        theirs = docker.run("image", "inspect", name)
        assert ours.run("inspect", name)[1] == theirs.stdout


# ---- sizes and ages ------------------------------------------------------------------------------


@settings(max_examples=4, suppress_health_check=list(HealthCheck))
@given(st.lists(st.integers(0, 2**62), min_size=150, max_size=150))
def test_sizes(tmp_path: Path, sizes: list[int]) -> None:
    sizes = [size for size in sizes if "e+" not in f"{_mantissa(size):.3g}"]  # 1e+03kB there
    rows = [{"Id": "<missing>", "Created": 1, "Size": size} for size in sizes]
    with answering(tmp_path, {"/images/x/history": rows}) as docker:
        theirs = docker.run("history", "--format", "{{.Size}}", "x")
    assert [human_size(size) for size in sizes] == theirs.stdout.split()


def _mantissa(size: float) -> float:
    while size >= 1000:
        size /= 1000
    return size


def test_ages(tmp_path: Path) -> None:
    """At each moment it is the word of when the client was asked, or of a bit later."""
    day = 86400
    ages = [30, 75, 200, 3500, 3800, 5300, 5500, 9000, 47 * 3600, 49 * 3600, 3 * day, 13 * day]
    ages += [15 * day, 40 * day, 59 * day, 61 * day, 100 * day, 400 * day, 729 * day, 731 * day]
    ages += [1000 * day, 1100 * day, 5000 * day, 9000 * day]
    now = int(datetime.now().timestamp())  # noqa: DTZ005
    rows = [{"Id": "<missing>", "Created": now - age, "Size": 0} for age in ages]
    with answering(tmp_path, {"/images/x/history": rows}) as docker:
        theirs = docker.run("history", "--format", "{{.CreatedSince}}", "x").stdout.splitlines()
    late = datetime.now().timestamp() - now  # noqa: DTZ005
    for age, shown in zip(ages, theirs, strict=True):
        assert shown in {f"{human_duration(age + part)} ago" for part in (0, late)}
