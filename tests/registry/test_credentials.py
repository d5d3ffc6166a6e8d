"""Who the user is: which file counts, what may stand in one, helpers; skopeo has the last word."""

from __future__ import annotations

import base64
import json
import os
import stat
import subprocess
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from unionmount.errors import FormatError, LimitExceeded, NotFoundError, RegistryError
from unionmount.registry import Credentials, Login
from unionmount.registry.credential_helper import CredentialHelper

Write = Callable[[str, str], None]


def auth(user: str, password: str = "secret") -> dict[str, str]:
    return {"auth": base64.b64encode(f"{user}:{password}".encode()).decode()}


class Places:
    """The directories that auth files may be in."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.bin = directory / "bin"
        self.bin.mkdir()
        (directory / "run").mkdir()
        self.environment = {
            "HOME": str(directory / "home"),
            "XDG_RUNTIME_DIR": str(directory / "run"),
            "PATH": f"{self.bin}:{os.environ['PATH']}",
        }

    def write(self, place: str, document: Mapping[str, Any]) -> Path:
        path = self.directory / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(document))
        return path

    def load(self, **options: Any) -> Credentials:
        return Credentials.load(self.environment, **options)

    def user(self, registry: str, repository: str = "", **options: Any) -> str | None:
        login = self.load(**options).find(registry, repository)
        return login.username if login is not None else None

    def helper(self, name: str, script: str) -> Path:
        path = self.bin / f"docker-credential-{name}"
        path.write_text(f"#!/bin/sh\n{script}")
        path.chmod(0o755)
        return path


@pytest.fixture
def places(tmp_path: Path) -> Places:
    return Places(tmp_path)


RUN, CONFIG = "run/containers/auth.json", "home/.config/containers/auth.json"
DOCKER = "home/.docker/config.json"


def test_the_first_place_that_knows_counts(places: Places) -> None:
    for place, user in ((DOCKER, "docker"), (CONFIG, "config"), (RUN, "run")):
        assert places.user("r.io") != user
        places.write(place, {"auths": {"r.io": auth(user), f"only-{user}.io": auth(user)}})
        assert places.user("r.io") == user
    assert places.user("docker.io") is None
    assert places.user("only-config.io") == "config"
    explicit = places.write("explicit.json", {"auths": {"r.io": auth("explicit")}})
    places.environment["REGISTRY_AUTH_FILE"] = str(explicit)
    assert places.user("r.io") == "explicit"
    assert places.user("only-config.io") is None  # no other file counts then
    other = places.write("other.json", {"auths": {"r.io": auth("other")}})
    assert places.user("r.io", authfile=other) == "other"
    assert places.user("r.io", authfile=other, creds=("given", "x")) == "given"


def test_dockers_directory_may_be_elsewhere(places: Places) -> None:
    places.write("elsewhere/config.json", {"auths": {"r.io": auth("elsewhere")}})
    places.write(DOCKER, {"auths": {"r.io": auth("home")}})
    places.environment["DOCKER_CONFIG"] = str(places.directory / "elsewhere")
    assert places.user("r.io") == "elsewhere"


def test_a_file_that_is_named_must_be_there(places: Places) -> None:
    with pytest.raises(NotFoundError, match=r"nowhere\.json: no such file"):
        places.load(authfile=places.directory / "nowhere.json")


# What docker and podman really write, with the secrets changed.
DOCKER_CONFIG = {
    "auths": {
        "https://index.docker.io/v1/": auth("hub"),
        "quay.io": {"auth": auth("quay", "with:colon")["auth"], "email": "x@y"},
        "https://registry.example.com/v2/": auth("old"),
        "token.azurecr.io": {
            "auth": base64.b64encode(b"00000000-0000-0000-0000-000000000000:").decode(),
            "identitytoken": "an identity token",
        },
        "empty.io": {},
        "plain.io": {"username": "plain", "password": "x"},
        "nul.io": {"auth": base64.b64encode(b"nul:secret\0\0").decode()},
    },
    "HttpHeaders": {"User-Agent": "Docker-Client/19.03.12 (linux)"},
    "detachKeys": "ctrl-e,e",
    "currentContext": "default",
}
SPELLINGS = {  # of other tools: lines of base64(1), and places that end in a slash
    "auths": {
        "wrapped.io": {"auth": base64.encodebytes(b"wrapped:" + b"s" * 90).decode()},
        "returns.io": {"auth": auth("returns")["auth"] + "\r\n"},
        "slash.io/": auth("slash"),
        "slash.io/team/": auth("team"),
        "http://scheme.io/": auth("scheme"),
        "twice.io/": auth("other"),
        "twice.io": auth("exact"),
    }
}
PODMAN_AUTH = {
    "auths": {
        "r.io": auth("all"),
        "r.io/team": auth("team"),
        "r.io/team/app/image": auth("image"),
        "docker.io/library": auth("library"),
    }
}


@pytest.mark.parametrize(
    ("document", "registry", "repository", "expected"),
    [
        (DOCKER_CONFIG, "docker.io", "library/nginx", Login("hub", "secret")),
        (DOCKER_CONFIG, "index.docker.io", "", Login("hub", "secret")),
        (DOCKER_CONFIG, "quay.io", "a/b", Login("quay", "with:colon")),
        (DOCKER_CONFIG, "registry.example.com", "a", Login("old", "secret")),
        (
            DOCKER_CONFIG,
            "token.azurecr.io",
            "a",
            Login("00000000-0000-0000-0000-000000000000", "", "an identity token"),
        ),
        (DOCKER_CONFIG, "empty.io", "a", None),
        (DOCKER_CONFIG, "plain.io", "a", Login("plain", "x")),
        (DOCKER_CONFIG, "nul.io", "a", Login("nul", "secret")),
        (DOCKER_CONFIG, "quay.io.evil.com", "a", None),
        (SPELLINGS, "wrapped.io", "a", Login("wrapped", "s" * 90)),
        (SPELLINGS, "returns.io", "a", Login("returns", "secret")),
        (SPELLINGS, "slash.io", "a", Login("slash", "secret")),
        (SPELLINGS, "slash.io", "team/app", Login("team", "secret")),
        (SPELLINGS, "slash.io", "teams/app", Login("slash", "secret")),
        (SPELLINGS, "scheme.io", "a", Login("scheme", "secret")),
        (SPELLINGS, "twice.io", "a", Login("exact", "secret")),
        (PODMAN_AUTH, "r.io", "team/app/image", Login("image", "secret")),
        (PODMAN_AUTH, "r.io", "team/app", Login("team", "secret")),
        (PODMAN_AUTH, "r.io", "teams/app", Login("all", "secret")),
        (PODMAN_AUTH, "r.io", "", Login("all", "secret")),
        (PODMAN_AUTH, "docker.io", "library/nginx", Login("library", "secret")),
        (PODMAN_AUTH, "docker.io", "other/nginx", None),
    ],
)
def test_entries(
    places: Places, document: Any, registry: str, repository: str, expected: Login | None
) -> None:
    places.write(CONFIG, document)
    assert places.load().find(registry, repository) == expected


def test_secrets_are_not_in_representations() -> None:
    shown = repr(Credentials((), Login("u", "hidden", "hidden"), {"A": "hidden"}))
    assert "hidden" not in shown


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        '{"auths": 5}',
        '{"auths": {"r.io": 5}}',
        '{"auths": {"r.io": {"auth": "c2VjcmV0"}}}',
        '{"auths": {"r.io": {"auth": "no base64: secret"}}}',
        '{"auths": {"r.io": {"auth": 5}}}',
        '{"credsStore": 5}',
        '{"credHelpers": [], "credsStore": "x"}'.replace("[]", "5"),
        '{"credHelpers": {"r.io": "../../bin/sh"}}',
        "[" * 100_000,
    ],
)
def test_broken_files_are_named_and_not_shown(places: Places, text: str) -> None:
    path = places.write(CONFIG, {})
    path.write_text(text)
    with pytest.raises(FormatError) as caught:
        places.load().find("r.io", "a")
    assert str(caught.value).startswith(f"{path}: ")
    assert "secret" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_has_a_limit(places: Places) -> None:
    path = places.write(CONFIG, {})
    path.write_bytes(b" " * (4 * 1024 * 1024 + 1))
    with pytest.raises(LimitExceeded, match=r"auth\.json: larger"):
        places.load().find("r.io")


# ---- helpers


STORE = """
file="$(dirname "$0")/secrets"
case $1 in
store) cat > "$file";;
get) read server
  grep -qs "$server" "$file" || { echo "credentials not found in native keychain"; exit 1; }
  cat "$file";;
erase) rm "$file";;
esac
"""


def test_a_helper_for_the_registry_comes_first(places: Places) -> None:
    places.helper(
        "one", """read server; echo "{\\"Username\\":\\"of $server\\",\\"Secret\\":\\"s\\"}" """
    )
    places.write(
        CONFIG,
        {
            "auths": {"r.io": auth("file"), "other.io": auth("file")},
            "credHelpers": {"r.io": "one", "docker.io": "one"},
        },
    )
    assert places.user("r.io", "a") == "of r.io"
    assert places.user("other.io", "a") == "file"
    assert places.user("docker.io", "a") == "of https://index.docker.io/v1/"
    places.write(CONFIG, {"auths": {"r.io/": auth("file")}, "credHelpers": {"r.io/": "one"}})
    assert places.user("r.io", "a") == "of r.io"


def test_a_general_helper_comes_last(places: Places) -> None:
    places.helper("all", """echo '{"Username":"<token>","Secret":"identity"}' """)
    places.write(DOCKER, {"auths": {"r.io": auth("file"), "o.io": {}}, "credsStore": "all"})
    assert places.user("r.io", "a") == "file"
    assert places.load().find("o.io", "a") == Login("<token>", "", "identity")


def test_a_helper_that_knows_nothing_is_no_error(places: Places) -> None:
    places.helper("none", "echo credentials not found in native keychain; exit 1")
    places.write(CONFIG, {"credHelpers": {"r.io": "none"}})
    places.write(DOCKER, {"auths": {"r.io": auth("later")}})
    assert places.user("r.io", "a") == "later"


def test_a_general_helper_may_be_missing(places: Places) -> None:
    places.write(CONFIG, {"credsStore": "desktop.exe"})
    assert places.user("r.io", "a") is None
    places.write(CONFIG, {"credHelpers": {"r.io": "desktop.exe"}})
    with pytest.raises(RegistryError, match=r"docker-credential-desktop\.exe: not installed"):
        places.user("r.io", "a")


@pytest.mark.parametrize(
    ("script", "text"),
    [
        ("echo broken; exit 3", "get r.io: broken"),
        ("exit 3", "get r.io: status 3"),
        ("echo nonsense", "the answer lacks Username or Secret"),
        ("echo '[]'", "the answer lacks Username or Secret"),
        ("""echo '{"Username":1,"Secret":2}'""", "Username or Secret is not a string"),
        ("yes", "wrote more than 65536 bytes"),
        ("exec sleep 1000", "no answer in 0.3 s"),
        ("exec >&-; exec sleep 1000", "no answer in 0.3 s"),
    ],
)
def test_helpers_that_go_wrong(places: Places, script: str, text: str) -> None:
    places.helper("bad", script)
    with pytest.raises(RegistryError, match=text):
        CredentialHelper("bad", "file", places.environment, timeout=0.3).get("r.io")


def test_a_helper_ends_when_it_is_not_wanted_any_more(places: Places) -> None:
    class NotWanted(Exception):
        pass

    started = places.directory / "started"
    places.helper("slow", f"echo $$ > {started}; exec sleep 1000")
    places.write(CONFIG, {"credHelpers": {"r.io": "slow"}})

    def check() -> None:
        if started.exists() and started.read_text():
            raise NotWanted

    with pytest.raises(NotWanted):
        places.load().find("r.io", "a", check=check)
    assert not Path(f"/proc/{int(started.read_text())}").exists()


# ---- writing


def test_logins_are_kept_for_their_owner_only(places: Places) -> None:
    document = {"auths": {"other.io": auth("other")}, "unknown": {"kept": [1]}}
    places.write(RUN, document)
    path = places.load().store("r.io", Login("me", "se:cret"))
    assert path == places.directory / RUN
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert json.loads(path.read_text()) == {
        "auths": {"other.io": auth("other"), "r.io": auth("me", "se:cret")},
        "unknown": {"kept": [1]},
    }
    assert places.load().find("r.io", "any") == Login("me", "se:cret")
    assert places.load().erase("r.io")
    assert json.loads(path.read_text()) == document
    assert not places.load().erase("r.io")
    assert [one.name for one in path.parent.iterdir()] == ["auth.json"]


def test_directories_are_made(places: Places) -> None:
    path = places.load().store("r.io/team", Login("me", "x"))
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert places.user("r.io", "team/app") == "me"
    assert places.user("r.io", "other") is None


def test_a_link_stays_one(places: Places) -> None:
    real = places.write("real/auth.json", {})
    link = places.directory / RUN
    link.parent.mkdir(parents=True)
    link.symlink_to(real)
    places.load().store("r.io", Login("me", "x"))
    assert link.is_symlink()
    assert "r.io" in json.loads(real.read_text())["auths"]


def test_old_spellings_are_replaced(places: Places) -> None:
    places.write(RUN, {"auths": {"https://index.docker.io/v1/": auth("old")}})
    places.load().store("docker.io", Login("new", "x"))
    assert list(json.loads((places.directory / RUN).read_text())["auths"]) == ["docker.io"]
    assert places.user("docker.io") == "new"


def test_many_logins_at_once_are_all_kept(places: Places) -> None:
    names = [f"r{i}.io" for i in range(20)]
    threads = [
        threading.Thread(target=places.load().store, args=(name, Login(name, "x")))
        for name in names
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [places.user(name) for name in names] == names


def test_helpers_keep_and_forget(places: Places) -> None:
    places.helper("keeper", STORE)
    path = places.write(RUN, {"credHelpers": {"r.io": "keeper"}})
    places.load().store("r.io", Login("me", "hidden"))
    assert "hidden" not in path.read_text()
    assert places.load().find("r.io", "a") == Login("me", "hidden")
    assert places.load().erase("r.io")
    assert places.load().find("r.io", "a") is None
    assert not places.load().erase("r.io")


def test_all_logins_are_forgotten(places: Places) -> None:
    places.helper("keeper", STORE)
    places.write(
        RUN,
        {"auths": {"a.io": auth("a"), "b.io/x": auth("b")}, "credHelpers": {"r.io": "keeper"}},
    )
    places.load().store("r.io", Login("me", "hidden"))
    assert places.load().erase_all() == 3
    for registry in ("a.io", "b.io", "r.io"):
        assert places.user(registry, "x") is None


# ---- what skopeo makes of the same files


@pytest.mark.needs("skopeo")
@pytest.mark.parametrize(
    "files",
    [
        {RUN: "run", CONFIG: "config", DOCKER: "docker"},
        {CONFIG: "config", DOCKER: "docker"},
        {DOCKER: "docker"},
        {"explicit.json": "explicit", RUN: "run"},
    ],
    ids=lambda files: "+".join(files.values()),
)
def test_skopeo_takes_the_same_file(places: Places, files: dict[str, str]) -> None:
    for place, user in files.items():
        path = places.write(place, {"auths": {"r.io": auth(user)}})
        if place == "explicit.json":
            places.environment["REGISTRY_AUTH_FILE"] = str(path)
    theirs = _skopeo_login(places, "r.io")
    assert theirs == next(iter(files.values())) == places.user("r.io")


@pytest.mark.needs("skopeo")
@pytest.mark.parametrize("registry", ["docker.io", "quay.io", "registry.example.com", "nul.io"])
def test_skopeo_takes_the_same_entry(places: Places, registry: str) -> None:
    places.write(DOCKER, DOCKER_CONFIG)
    assert _skopeo_login(places, registry) == places.user(registry)


@pytest.mark.needs("skopeo")
@pytest.mark.parametrize("registry", ["wrapped.io", "returns.io", "scheme.io"])
def test_skopeo_reads_the_same_spellings(places: Places, registry: str) -> None:
    places.write(DOCKER, SPELLINGS)
    assert _skopeo_login(places, registry) == places.user(registry)


@pytest.mark.needs("skopeo")
def test_skopeo_reads_what_we_write(places: Places) -> None:
    places.load().store("r.io", Login("me", "secret"))
    assert _skopeo_login(places, "r.io") == "me"


@pytest.mark.needs("skopeo")
def test_skopeo_asks_the_same_helper(places: Places) -> None:
    places.helper("one", """read s; echo "{\\"Username\\":\\"of $s\\",\\"Secret\\":\\"s\\"}" """)
    places.write(RUN, {"credHelpers": {"r.io": "one"}, "auths": {"r.io": auth("file")}})
    assert _skopeo_login(places, "r.io") == places.user("r.io") == "of r.io"


def _skopeo_login(places: Places, registry: str) -> str:
    done = subprocess.run(
        ["skopeo", "login", "--get-login", registry],
        env=places.environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()
