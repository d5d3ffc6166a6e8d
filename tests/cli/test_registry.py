"""login, logout, tags and search, as a user types them."""

from __future__ import annotations

import io
import json
import stat
import subprocess
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from registry.test_authorization import certs
from registry.test_client import HUB, Pages
from support.image_files import (
    MadeImage,
    docker_archive,
    gzipped,
    oci_layout,
    small_image,
    write_directory,
    write_tar,
)
from support.registry_fixtures import PASSWORD, USER
from support.servers import Authority, DockerRegistry, FaultProxy, TokenServer
from support.servers.proxy import Reply

from unionmount.cli import main
from unionmount.store.store import Store

pytestmark = pytest.mark.needs("docker-registry", "skopeo", "htpasswd", "openssl")

Capture = pytest.CaptureFixture[str]
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> Run:
    """A function that runs a command line as a user without any configuration."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "run"))
    monkeypatch.setenv("CONTAINERS_REGISTRIES_CONF", str(tmp_path / "registries.conf"))
    for name in ("XDG_CONFIG_HOME", "DOCKER_CONFIG", "REGISTRY_AUTH_FILE"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "registries.conf").touch()
    (tmp_path / "run").mkdir()

    def run(*words: str | Path, stdin: str = "") -> tuple[int, str, str]:
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(stdin.encode())))
        status = main([str(word) for word in words])
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return run


def with_image(registry: str, repository: str, skopeo: Callable[..., str], tmp_path: Path) -> None:
    layout = tmp_path / "layout"
    write_directory(layout, oci_layout(small_image(names=("one",)), compress=gzipped))
    for tag in ("1.9", "1.10", "1.10-rc1", "latest"):
        target = f"docker://{registry}/{repository}:{tag}"
        skopeo("copy", "--dest-tls-verify=false", f"oci:{layout}:one", target)


# ---- tags and search


def test_tags(
    registry: DockerRegistry, skopeo: Callable[..., str], tmp_path: Path, run: Run
) -> None:
    with_image(registry.address, "cli/tags", skopeo, tmp_path)
    name = f"{registry.address}/cli/tags"
    ordered = ["1.9", "1.10-rc1", "1.10", "latest"]
    assert run("tags", name) == (0, "".join(f"{tag}\n" for tag in ordered), "")
    rows = [{"repository": name, "tag": tag} for tag in ordered]
    assert json.loads(run("tags", "--format", "json", name)[1]) == rows
    lines = run("tags", "--format=jsonl", name)[1].splitlines()
    assert [json.loads(line) for line in lines] == rows
    theirs = json.loads(skopeo("list-tags", "--tls-verify=false", f"docker://{name}"))
    assert sorted(theirs["Tags"]) == sorted(ordered)


def test_tags_of_a_short_name(
    registry: DockerRegistry, skopeo: Callable[..., str], tmp_path: Path, run: Run
) -> None:
    with_image(registry.address, "cli/short", skopeo, tmp_path)
    (tmp_path / "registries.conf").write_text(
        f'unqualified-search-registries = ["127.0.0.1:9", "{registry.address}"]\n'
        f'[aliases]\nshort = "{registry.address}/cli/short"\n'
    )
    assert run("tags", "short")[0] == 0
    assert run("tags", "cli/short")[1].startswith("1.9\n")
    status, out, err = run("tags", "cli/none")
    assert (status, out) == (1, "")
    assert err.startswith(f"unionmount: {registry.address}/cli/none: tags: ")
    assert "404" in err


def test_names_from_outside_are_printable(proxy: FaultProxy, run: Run) -> None:
    proxy.fault(Pages(["1\x1b[31m", "2\n3"], "tags"), kind="tags", times=9)
    status, out, _ = run("tags", f"{proxy.address}/cli/x")
    assert status == 0
    assert sorted(out.splitlines()) == ["1\\x1b[31m", "2\\n3"]


def test_search(proxy: FaultProxy, tmp_path: Path, run: Run) -> None:
    results = [*HUB["results"], {"name": "long", "description": "a\n" * 50, "star_count": 3}]  # type: ignore[misc]
    body = json.dumps({"results": results}).encode()
    proxy.fault(Reply(200, body=body), kind="other", times=9)
    (tmp_path / "registries.conf").write_text(
        f'unqualified-search-registries = ["{proxy.address}"]\n'
    )
    status, out, err = run("search", "nginx")
    width = len(proxy.address) + len("/bitnami/nginx")
    lines = [
        ("NAME", "DESCRIPTION", "STARS", "OFFICIAL"),
        (f"{proxy.address}/nginx", "Official build of Nginx.", "20401", "[OK]"),
        (f"{proxy.address}/bitnami/nginx", "Bitnami container image for NGINX", "201", ""),
        (f"{proxy.address}/long", "a " * 22 + "…", "3", ""),
    ]
    assert (status, err) == (0, "")
    assert out.splitlines() == [
        f"{name:{width}}   {text:45}   {stars:5}   {official}".rstrip()
        for name, text, stars, official in lines
    ]
    assert ("a " * 50).strip() in run("search", "--no-trunc", "nginx")[1]
    found = json.loads(run("search", "--format", "json", "--limit", "1", f"{proxy.address}/x")[1])
    assert found == [
        {
            "name": f"{proxy.address}/nginx",
            "description": "Official build of Nginx.",
            "stars": 20401,
            "official": True,
        }
    ]


def test_no_search(proxy: FaultProxy, run: Run) -> None:
    proxy.fault(Reply(404), kind="other", times=9)
    proxy.fault(Reply(404), kind="catalog", times=9)
    status, out, err = run("search", f"{proxy.address}/x")
    assert (status, out) == (1, "")
    assert "offers neither a search nor a list of its repositories" in err
    assert err.count("\n") == 1


# ---- login and logout


def test_login_and_logout(
    tls_registry: DockerRegistry, authority: Authority, tmp_path: Path, run: Run
) -> None:
    place = tls_registry.address
    certificates = ("--cert-dir", certs(tmp_path / "certs", authority))
    login = ("login", *certificates, "-u", USER, "--password-stdin", f"https://{place}/")
    authfile = tmp_path / "run/containers/auth.json"
    status, out, err = run(*login, stdin="wrong\n")
    assert (status, out) == (1, "")
    assert f"{place}: {place} answers 401" in err
    assert not authfile.exists()
    assert run(*login, stdin=f"{PASSWORD}\n") == (0, "", f"Logged in to {place} as {USER}\n")
    assert stat.S_IMODE(authfile.stat().st_mode) == 0o600
    assert run("login", "--get-login", place) == (0, f"{USER}\n", "")
    assert run("search", *certificates, f"{place}/x")[0] == 0
    done = subprocess.run(
        [
            *("skopeo", "list-tags", "--authfile", authfile, "--cert-dir", tmp_path / "certs"),
            f"docker://{place}/none",
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert "404" in done.stderr  # and not "unauthorized"
    assert run("logout", place) == (0, "", f"Logged out of {place}\n")
    assert run("logout", place) == (1, "", f"unionmount: not logged in to {place}\n")
    assert run("login", "--get-login", place)[0] == 1
    assert run("search", *certificates, f"{place}/x")[0] == 1


def test_login_with_tokens(
    token_registry: DockerRegistry, token_server: TokenServer, tmp_path: Path, run: Run
) -> None:
    place = token_registry.address
    authfile = tmp_path / "own.json"
    status, _, err = run("login", "--creds", f"{USER}:wrong", "--authfile", authfile, place)
    assert status == 1
    assert "wrong password" in err
    assert not authfile.exists()
    assert run("login", "--creds", f"{USER}:{PASSWORD}", "--authfile", authfile, place)[0] == 0
    assert run("login", "--get-login", "--authfile", authfile, place)[1] == f"{USER}\n"
    assert run("login", "--creds", f"{USER}:{PASSWORD}", f"{place}/team")[0] == 0
    assert run("login", "--get-login", f"{place}/team/app")[0] == 0
    assert run("login", "--get-login", place)[0] == 1
    assert run("logout", "--all") == (0, "", "Logged out of 1 registries\n")
    assert run("login", "--get-login", f"{place}/team/app")[0] == 1


def test_another_file_that_still_logs_in_is_named(tmp_path: Path, run: Run) -> None:
    docker = tmp_path / "home/.docker/config.json"
    docker.parent.mkdir(parents=True)
    docker.write_text('{"auths": {"r.io": {"auth": "YTpi"}}}')
    status, out, err = run("logout", "r.io")
    assert (status, out) == (1, "")
    assert err.endswith(f"auth.json, but by {docker}\n")


def test_debug_shows_requests_without_secrets(
    tls_registry: DockerRegistry, authority: Authority, tmp_path: Path, run: Run
) -> None:
    name = f"{tls_registry.address}/cli/none"
    words = ("--creds", f"{USER}:{PASSWORD}", "--tls-verify", "false", name)
    status, out, err = run("--debug", "tags", *words)
    assert (status, out) == (1, "")
    assert f"> GET {tls_registry.url}/v2/cli/none/tags/list?n=1000" in err
    assert "authorization: Basic [hidden]" in err
    assert PASSWORD not in err


@pytest.mark.parametrize(
    "words",
    [
        ["login"],
        ["login", "--password-stdin", "r.io"],
        ["login", "r.io"],
        ["login", "-u", "x", "r.io"],
        ["login", "-u", "x", "--creds", "x:y", "r.io"],
        ["login", "-u", "x", "--password-stdin", "r.io"],
        ["login", "-u", "x:y", "--password-stdin", "r.io"],
        ["login", "--creds", "x:\udcff", "r.io"],
        ["login", "--creds", "x:y", "not a registry"],
        ["login", "--creds", "x:y", "r.io/a:tag"],
        ["logout"],
        ["logout", "-a", "r.io"],
        ["tags"],
        ["tags", "nginx:1"],
        ["tags", "--creds", ":x", "nginx"],
        ["tags", "--creds", "x", "nginx"],
        ["tags", "--format", "xml", "nginx"],
        ["tags", "--cert-dir", "/nonexistent", "nginx"],
        ["tags", "--tls-verify", "perhaps", "nginx"],
        ["search"],
        ["search", "r.io/"],
        ["search", "--limit", "0", "x"],
    ],
    ids=" ".join,
)
def test_wrong_usage(words: list[str], run: Run) -> None:
    status, out, err = run(*words)
    assert (status, out) == (2, "")
    assert err.count("\n") == 1
    assert "--help)" in err


@pytest.mark.parametrize("password", [b"", b"\n", b"\xff\n", b"x" * 20_000])
def test_passwords_that_are_none(
    password: bytes, run: Run, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(password)))
    assert main(["login", "-u", "x", "--password-stdin", "127.0.0.1:9"]) == 2
    assert "the password" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["tags", "Nginx"], "'Nginx' is not an image name"),
        (["tags", "--authfile", "/nonexistent", "nginx"], "/nonexistent: no such file"),
        (["login", "--get-login", "r.io"], "not logged in to r.io"),
    ],
)
def test_errors(words: list[str], text: str, run: Run) -> None:
    status, out, err = run(*words)
    assert (status, out) == (1, "")
    assert text in err
    assert err.count("\n") == 1


# ---- one image, pulled and loaded


@pytest.fixture
def both(
    registry: DockerRegistry,
    skopeo: Callable[..., str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    run: Run,
) -> tuple[MadeImage, str, str]:
    """An image that was pulled, and loaded from an archive; with its two names."""
    monkeypatch.setenv("UNIONMOUNT_ROOT", str(tmp_path / "store"))
    with_image(registry.address, "both", skopeo, tmp_path)
    image, pulled, loaded = small_image(names=("one",)), f"{registry.address}/both:1.9", "loaded:1"
    assert run("pull", pulled)[0] == 0
    archive = write_tar(tmp_path / "a.tar", docker_archive(replace(image, names=(loaded,))))
    assert run("load", "-i", archive)[0] == 0
    assert len({one.manifest for one in Store(tmp_path / "store").directory.images()}) == 2
    return image, pulled, loaded


def test_what_was_pulled_and_loaded_is_one_image(
    both: tuple[MadeImage, str, str], run: Run, tmp_path: Path
) -> None:
    image, *names = both
    ids = run("images", "--no-trunc", "--format", "{{.ID}}")[1].split()
    assert set(ids) == {image.id}
    assert run("images", "-q", "--no-trunc")[1].split() == ids
    (row,) = [one for one in run("df")[1].splitlines() if one.startswith("Images")]
    assert row.split()[1] == "1"
    for word in (*names, image.id):
        (told,) = json.loads(run("inspect", word)[1])
        assert sorted(told["RepoTags"]) == sorted(names)
        assert [one["SharedWith"] for one in told["Layers"]] == [[], []]
    assert run("rmi", names[1])[1] == f"Untagged: {names[1]}\n"
    assert "Deleted" not in run("prune")[1]
    (told,) = json.loads(run("inspect", names[0])[1])
    assert told["RepoTags"] == names[:1]
    assert run("rmi", names[0])[1].splitlines().count(f"Deleted: {image.id}") == 1
    assert list((tmp_path / "store/layers/sha256").iterdir()) == []


def test_prune_counts_one_image_once(both: tuple[MadeImage, str, str], run: Run) -> None:
    image, *_ = both
    assert run("prune", "-a")[1].splitlines().count(f"Deleted: {image.id}") == 1
    assert run("images", "-q")[1] == ""


def test_one_image_is_saved_once_with_all_its_names(
    both: tuple[MadeImage, str, str], run: Run, tmp_path: Path, skopeo: Callable[..., str]
) -> None:
    image, *names = both
    archive = tmp_path / "saved.tar"
    assert run("save", *names, "-o", archive)[0] == 0
    with tarfile.open(archive) as opened:
        members = [one.name for one in opened]
        document = opened.extractfile("manifest.json")
        assert document is not None
        (item,) = json.load(document)
    assert len(members) == len(set(members))
    assert sorted(item["RepoTags"]) == sorted(names)
    for name in names:
        told = json.loads(
            skopeo("inspect", "--config", "--raw", f"docker-archive:{archive}:{name}")
        )
        assert told == json.loads(image.config)


def test_one_image_is_one_manifest_of_an_oci_archive(
    both: tuple[MadeImage, str, str], run: Run, tmp_path: Path, skopeo: Callable[..., str]
) -> None:
    image, *names = both
    archive = tmp_path / "saved.tar"
    assert run("save", *names, "--format", "oci-archive", "-o", archive)[0] == 0
    with tarfile.open(archive) as opened:
        members = [one.name for one in opened]
        document = opened.extractfile("index.json")
        assert document is not None
        index = json.load(document)["manifests"]
    assert len(members) == len(set(members))
    assert len({one["digest"] for one in index}) == 1
    references = [one["annotations"]["org.opencontainers.image.ref.name"] for one in index]
    assert len(set(references)) == 2
    for name in references:
        told = json.loads(skopeo("inspect", "--config", "--raw", f"oci-archive:{archive}:{name}"))
        assert told == json.loads(image.config)
