"""registries.conf: what is read, what wins, and where a name leads; skopeo has the last word."""

from __future__ import annotations

import subprocess
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.servers import DockerRegistry, FaultProxy

from unionmount.errors import FormatError, InvalidReference, RegistryError
from unionmount.images.reference import Reference
from unionmount.registry import Registries

DIGEST = "sha256:" + "5" * 64

# The shape that Fedora and Debian ship, shortened.
SHORTNAMES = """
[aliases]
  # almalinux
  "almalinux" = "docker.io/library/almalinux"
  "skopeo" = "quay.io/skopeo/stable"
  "opensuse/leap" = "registry.opensuse.org/opensuse/leap"
  "ubi8/ubi" = "registry.access.redhat.com/ubi8/ubi"
"""

# containers-registries.conf(5), "EXAMPLE", with what else the page tells of.
EXAMPLE = """
unqualified-search-registries = ["example.com", "docker.io"]
short-name-mode = "permissive"
credential-helpers = ["containers-auth.json"]
a-key-of-tomorrow = 5

[[registry]]
prefix = "example.com/foo"
insecure = false
blocked = false
location = "internal-registry-for-example.com/bar"
a-key-of-tomorrow = [1, 2]

[[registry.mirror]]
location = "example-mirror-0.local/mirror-for-foo"

[[registry.mirror]]
location = "example-mirror-1.local/mirrors/foo"
insecure = true

[[registry]]
location = "registry.com"

[[registry.mirror]]
location = "mirror.registry.com"
pull-from-mirror = "digest-only"

[[registry.mirror]]
location = "tags.registry.com/"
pull-from-mirror = "tag-only"

[[registry]]
prefix = "*.wild.org"
insecure = true

[[registry]]
prefix = "moved.wild.org"
location = "elsewhere.net:5000/deep/path"
mirror-by-digest-only = true

[[registry.mirror]]
location = "mirror.net"

[[registry]]
location = "bad.example.com"
blocked = true
"""


class Machine:
    """The files of a machine and a user."""

    def __init__(self, directory: Path) -> None:
        self.system = directory / "etc"
        self.home = directory / "home"
        self.user = self.home / ".config/containers"
        self.cache = directory / "cache"
        for path in (self.system, self.user, self.cache):
            (path / "registries.conf.d").mkdir(parents=True)
        self.environment = {"HOME": str(self.home)}

    def load(self) -> Registries:
        return Registries.load(self.environment, system=self.system, cache=self.cache)

    def candidates(self, name: str) -> list[str]:
        return [str(one) for one in self.load().candidates(name)]


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_without_files_there_is_docker_hub(machine: Machine) -> None:
    assert machine.candidates("nginx") == ["docker.io/library/nginx"]
    assert machine.candidates("nginx:1.25") == ["docker.io/library/nginx:1.25"]
    assert machine.candidates("team/app") == ["docker.io/team/app"]
    assert machine.candidates("localhost/app") == ["localhost/app"]
    assert machine.candidates(f"host:5000/a@{DIGEST}") == [f"host:5000/a@{DIGEST}"]
    endpoints = machine.load().endpoints(Reference.parse("nginx"))
    assert [(one.host, one.repository, one.mirror) for one in endpoints] == [
        ("registry-1.docker.io", "library/nginx", False)
    ]


def test_short_names(machine: Machine) -> None:
    (machine.system / "registries.conf").write_text(EXAMPLE)
    (machine.system / "registries.conf.d/000-shortnames.conf").write_text(SHORTNAMES)
    assert machine.candidates("skopeo:v1") == ["quay.io/skopeo/stable:v1"]
    assert machine.candidates(f"ubi8/ubi@{DIGEST}") == [
        f"registry.access.redhat.com/ubi8/ubi@{DIGEST}"
    ]
    assert machine.candidates("app:2") == ["example.com/app:2", "docker.io/library/app:2"]
    assert machine.candidates("quay.io/skopeo") == ["quay.io/skopeo"]


def test_later_files_win(machine: Machine) -> None:
    (machine.system / "registries.conf").write_text(EXAMPLE)
    drop_ins = machine.system / "registries.conf.d"
    (drop_ins / "b.conf").write_text(
        'unqualified-search-registries = ["b.example"]\n'
        '[aliases]\nx = "b.example/x"\ny = "b.example/aliased"\n'
    )
    (drop_ins / "c.conf").write_text('[aliases]\nx = "c.example/x"\n')
    (drop_ins / "d.txt").write_text("not read")
    (machine.user / "registries.conf.d/a.conf").write_text(
        '[aliases]\ny = ""\n[[registry]]\nlocation = "bad.example.com"\n'
    )
    assert machine.candidates("x") == ["c.example/x"]
    assert machine.candidates("y") == ["b.example/y"]  # no alias any more: searched
    assert machine.load().endpoints(Reference.parse("bad.example.com/x"))
    (machine.cache / "short-name-aliases.conf").write_text('[aliases]\nx = "chosen.example/x"\n')
    assert machine.candidates("x") == ["chosen.example/x"]


def test_the_users_file_replaces_the_systems(machine: Machine) -> None:
    (machine.system / "registries.conf").write_text(EXAMPLE)
    (machine.system / "registries.conf.d/a.conf").write_text('[aliases]\nx = "system.io/x"\n')
    (machine.user / "registries.conf").write_text('unqualified-search-registries = ["user.io"]\n')
    assert machine.candidates("x") == ["user.io/x"]


def test_the_environments_file_replaces_both(machine: Machine, tmp_path: Path) -> None:
    explicit = tmp_path / "explicit.conf"
    machine.environment["CONTAINERS_REGISTRIES_CONF"] = str(explicit)
    with pytest.raises(FormatError, match=r"explicit\.conf: no such file"):
        machine.load()
    explicit.write_text('unqualified-search-registries = ["explicit.io"]\n')
    (machine.user / "registries.conf").write_text('unqualified-search-registries = ["user.io"]\n')
    assert machine.candidates("x") == ["explicit.io/x"]


def test_nothing_to_search_is_said(machine: Machine) -> None:
    (machine.user / "registries.conf").write_text("unqualified-search-registries = []\n")
    with pytest.raises(RegistryError, match="'nginx' names no registry"):
        machine.candidates("nginx")


def test_enforcing_asks_for_a_registry(machine: Machine) -> None:
    path = machine.user / "registries.conf"
    path.write_text(EXAMPLE.replace("permissive", "enforcing"))
    with pytest.raises(RegistryError, match=r"'x' may be in example\.com, docker\.io"):
        machine.candidates("x")
    path.write_text(path.read_text().replace('"example.com", ', ""))
    assert machine.candidates("x") == ["docker.io/library/x"]


@pytest.mark.parametrize(
    ("name", "places"),
    [
        (
            "example.com/foo/image:latest",
            [
                "mirror example-mirror-0.local/mirror-for-foo/image:latest",
                "mirror insecure example-mirror-1.local/mirrors/foo/image:latest",
                "internal-registry-for-example.com/bar/image:latest",
            ],
        ),
        ("example.com/foobar/image:latest", ["example.com/foobar/image:latest"]),
        ("example.com/other:1", ["example.com/other:1"]),
        ("registry.com/a:1", ["mirror tags.registry.com/a:1", "registry.com/a:1"]),
        (
            f"registry.com/a@{DIGEST}",
            [f"mirror mirror.registry.com/a@{DIGEST}", f"registry.com/a@{DIGEST}"],
        ),
        ("a.wild.org/x:1", ["insecure a.wild.org/x:1"]),
        ("a.b.wild.org:8/x:1", ["insecure a.b.wild.org:8/x:1"]),
        ("wild.org/x:1", ["wild.org/x:1"]),
        ("notwild.org/x:1", ["notwild.org/x:1"]),
        ("moved.wild.org/x:1", ["elsewhere.net:5000/deep/path/x:1"]),
        (
            f"moved.wild.org/x@{DIGEST}",
            [f"mirror mirror.net/x@{DIGEST}", f"elsewhere.net:5000/deep/path/x@{DIGEST}"],
        ),
    ],
)
def test_endpoints(machine: Machine, name: str, places: list[str]) -> None:
    (machine.user / "registries.conf").write_text(EXAMPLE)
    found = machine.load().endpoints(Reference.parse(name))
    assert places == [
        "mirror " * one.mirror + "insecure " * one.insecure + str(one.reference) for one in found
    ]


def test_pushes_go_to_the_registry_itself(machine: Machine) -> None:
    (machine.user / "registries.conf").write_text(EXAMPLE)
    (endpoint,) = machine.load().endpoints(Reference.parse("example.com/foo/x:1"), push=True)
    assert (str(endpoint.reference), endpoint.mirror) == ("example.com/foo/x:1", False)


def test_what_is_blocked_is_refused(machine: Machine) -> None:
    (machine.user / "registries.conf").write_text(EXAMPLE)
    for push in (False, True):
        with pytest.raises(RegistryError, match=r"bad\.example\.com' is blocked by .*\.conf"):
            machine.load().endpoints(Reference.parse("bad.example.com/x"), push=push)
    with pytest.raises(RegistryError, match="blocked by"):
        machine.load().is_insecure("bad.example.com")


def test_the_first_format_is_understood(machine: Machine) -> None:
    (machine.system / "registries.conf").write_text(
        "[registries.search]\nregistries = ['registry1.com', 'registry2.com']\n"
        "[registries.insecure]\nregistries = ['registry3.com']\n"
        "[registries.block]\nregistries = ['registry.untrusted.com']\n"
    )
    assert machine.candidates("x") == ["registry1.com/x", "registry2.com/x"]
    assert machine.load().endpoints(Reference.parse("registry3.com/x"))[0].insecure
    with pytest.raises(RegistryError, match="blocked"):
        machine.load().endpoints(Reference.parse("registry.untrusted.com/x"))


@pytest.mark.parametrize(
    "text",
    [
        "[[registry",
        "\xff",
        "unqualified-search-registries = 'docker.io'",
        "unqualified-search-registries = [5]",
        "unqualified-search-registries = ['https://docker.io']",
        "short-name-mode = 'guess'",
        "registry = 5",
        "[[registry]]\nblocked = true",
        "[[registry]]\nlocation = 'http://x'",
        "[[registry]]\nlocation = 'a b'",
        "[[registry]]\nprefix = '*.x.org/foo'",
        "[[registry]]\nlocation = 'x.org'\ninsecure = 'yes'",
        "[[registry]]\nlocation = 'x.org'\n[[registry.mirror]]\ninsecure = true",
        "[[registry]]\nlocation = 'x.org'\n[[registry.mirror]]\n"
        "location = 'y.org'\npull-from-mirror = 'never'",
        "[[registry]]\nlocation = 'x.org'\nmirror-by-digest-only = true\n[[registry.mirror]]\n"
        "location = 'y.org'\npull-from-mirror = 'all'",
        "[aliases]\nx = 5",
        "[aliases]\nx = 'x'",
        "[aliases]\n'x:1' = 'docker.io/x'",
        "[aliases]\n'quay.io/x' = 'docker.io/x'",
        "[aliases]\nx = 'docker.io/x:1'",
        "aliases = 5",
        "a = " + "[" * 5000,
    ],
)
def test_broken_files_are_named(machine: Machine, text: str) -> None:
    path = machine.user / "registries.conf"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(FormatError) as caught:
        machine.load()
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_a_location_that_makes_no_name_is_told(machine: Machine) -> None:
    (machine.user / "registries.conf").write_text(
        '[[registry]]\nprefix = "x.org/a"\nlocation = "localhost:5000"\n'
    )
    with pytest.raises(
        FormatError, match=r"'localhost:5000' does not make a valid name of x\.org/a:1"
    ):
        machine.load().endpoints(Reference.parse("x.org/a:1"))


def test_bad_names_are_told_as_they_were_written(machine: Machine) -> None:
    with pytest.raises(InvalidReference, match="'Nginx!' is not an image name"):
        machine.candidates("Nginx!")


@given(
    st.dictionaries(
        st.sampled_from(
            ["unqualified-search-registries", "registry", "aliases", "short-name-mode", "x"]
        ),
        st.recursive(
            st.booleans() | st.integers() | st.text(max_size=5),
            lambda inner: (
                st.lists(inner, max_size=2)
                | st.dictionaries(
                    st.sampled_from(["prefix", "location", "mirror", "insecure", "y"]), inner
                )
            ),
            max_leaves=6,
        ),
    )
)
def test_any_values_are_taken_or_refused(
    tmp_path_factory: pytest.TempPathFactory, values: dict[str, object]
) -> None:
    directory = tmp_path_factory.mktemp("any")
    (directory / "registries.conf").write_text(
        "".join(f"{key} = {_toml(value)}\n" for key, value in values.items())
    )
    with suppress(FormatError):
        registries = Registries.load({"HOME": str(directory)}, system=directory, cache=directory)
        assert registries.endpoints(Reference.parse("nowhere.example/x"))


def _toml(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int):
        return str(max(-(2**60), min(value, 2**60)))
    if isinstance(value, str):
        return '"' + "".join(f"\\U{ord(c):08x}" for c in value) + '"'
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml, value)) + "]"
    assert isinstance(value, dict)
    return "{" + ", ".join(f"{key} = {_toml(one)}" for key, one in value.items()) + "}"


@pytest.mark.needs("skopeo")
@pytest.mark.parametrize(
    "name",
    [
        "first.example/a:1",
        f"first.example/a@{DIGEST}",
        "first.example/a/b:1",
        "x.wild.example/a:1",
        "moved.wild.example/a:1",
    ],
)
def test_skopeo_goes_the_same_way(registry: DockerRegistry, tmp_path: Path, name: str) -> None:
    """Nothing has the image, so that skopeo asks all that there are; the proxies see it."""
    with (
        FaultProxy(registry.address) as one,
        FaultProxy(registry.address) as two,
        FaultProxy(registry.address) as last,
    ):
        by_address = {proxy.address: proxy for proxy in (one, two, last)}
        path = tmp_path / "registries.conf"
        path.write_text(
            f"""
            [[registry]]
            prefix = "first.example/a"
            location = "{last.address}/moved/here"
            insecure = true
            [[registry.mirror]]
            location = "{one.address}/one"
            insecure = true
            [[registry.mirror]]
            location = "{two.address}/two"
            insecure = true
            pull-from-mirror = "digest-only"
            [[registry]]
            prefix = "*.wild.example"
            location = "{last.address}/wild"
            insecure = true
            [[registry]]
            prefix = "moved.wild.example"
            location = "{one.address}/moved"
            insecure = true
            """
        )
        asked = ["skopeo", "--registries-conf", str(path), "inspect", "--raw", f"docker://{name}"]
        done = subprocess.run(asked, capture_output=True, text=True, check=False, timeout=60)
        assert done.returncode, done.stdout
        theirs = {
            f"{address}/{seen.name}"
            for address, proxy in by_address.items()
            for seen in proxy.requests("manifest")
        }
    environment = {"CONTAINERS_REGISTRIES_CONF": str(path), "HOME": str(tmp_path)}
    endpoints = Registries.load(environment, system=tmp_path).endpoints(Reference.parse(name))
    assert theirs == {one.reference.name for one in endpoints}
