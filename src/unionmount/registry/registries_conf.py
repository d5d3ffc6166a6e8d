"""The endpoints of a name: registries.conf(5), its drop-in files and short-name aliases.

The user's ``registries.conf`` replaces the system's; drop-in files add to either, the user's after
the system's, later ones over earlier ones, as in containers/image. Unknown keys are ignored; an
invalid file is a FormatError that names it.

One thing differs: the default search registry is docker.io.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Self

from unionmount.errors import FormatError, InvalidReference, RegistryError
from unionmount.images.reference import DEFAULT_REGISTRY, Reference, has_registry
from unionmount.system.files import read_document
from unionmount.system.home import home_of
from unionmount.system.real_user import real_user
from unionmount.system.text import printable

SYSTEM = Path("/etc/containers")
CACHE = Path("/var/cache/containers")  # for root; users have their own

_API_HOSTS = {DEFAULT_REGISTRY: "registry-1.docker.io"}
_MAX_FILE = 4 * 1024 * 1024
_PULLS = ("all", "digest-only", "tag-only")
_MODES = ("", "disabled", "permissive", "enforcing")
_PLACE = re.compile(r"[A-Za-z0-9._:\[\]-]+(?:/[^/\s]+)*")


@dataclass(frozen=True, slots=True)
class Endpoint:
    """An endpoint to ask for an image: a mirror, or the registry itself."""

    reference: Reference  # the name of the image there
    insecure: bool = False  # allows plain HTTP and untrusted certificates
    mirror: bool = False

    @property
    def registry(self) -> str:
        """The name of the registry, by which credentials and certificates are found."""
        return self.reference.registry

    @property
    def host(self) -> str:
        """The host of the registry, ``HOST[:PORT]``."""
        return api_host(self.reference.registry)

    @property
    def repository(self) -> str:
        """The name of the repository there."""
        return self.reference.repository


def api_host(registry: str) -> str:
    """Return the host of a registry's API; docker.io has another one."""
    return _API_HOSTS.get(registry, registry)


@dataclass(frozen=True, slots=True)
class Mirror:
    """A ``[[registry.mirror]]``."""

    location: str
    insecure: bool
    pulls: str

    def serves(self, ref: Reference) -> bool:
        """Return whether the mirror may be asked for ``ref``."""
        if self.pulls == "all":
            return True
        return (self.pulls == "digest-only") == (ref.digest is not None)


@dataclass(frozen=True, slots=True)
class Rule:
    """A ``[[registry]]``: the settings for names that begin with ``prefix``."""

    prefix: str
    location: str
    insecure: bool
    blocked: bool
    mirrors: tuple[Mirror, ...]
    file: str

    def matched(self, name: str) -> int:
        """Return how many characters of a full name match; 0 if the rule does not apply."""
        if self.prefix.startswith("*."):
            host = re.match(r"[^/:@]*", name)
            assert host is not None
            long_enough = host.end() > len(self.prefix) - 1
            return host.end() if long_enough and host[0].endswith(self.prefix[1:]) else 0
        if not name.startswith(self.prefix):
            return 0
        rest = name[len(self.prefix) :]
        return len(self.prefix) if not rest or rest[0] in "/:@" else 0

    def moved(self, ref: Reference, location: str) -> Reference:
        """Return the name of ``ref`` with ``location`` instead of the prefix."""
        if not location:
            return ref
        text = location + str(ref)[self.matched(str(ref)) :]
        with suppress(InvalidReference):
            if has_registry(text):
                return Reference.parse(text)
        raise FormatError(
            f"{self.file}: location '{printable(location)}' does not make a valid name of {ref}"
        )


@dataclass(frozen=True, slots=True)
class Registries:
    """The contents of registries.conf and its drop-in files."""

    search: tuple[str, ...] = (DEFAULT_REGISTRY,)
    aliases: Mapping[str, str] = field(default_factory=dict)
    rules: tuple[Rule, ...] = ()
    mode: str = "permissive"

    @classmethod
    def load(
        cls, environment: Mapping[str, str], *, system: Path = SYSTEM, cache: Path | None = None
    ) -> Self:
        """Read the files of this user and this machine."""
        settings = _Configuration(environment)
        for path in _files(environment, system):
            settings.add(path)
        for path in _recorded(environment, cache):
            settings.add_recorded(path)
        return cls(
            (DEFAULT_REGISTRY,) if settings.search is None else tuple(settings.search),
            MappingProxyType({name: full for name, full in settings.aliases.items() if full}),
            tuple(settings.rules.values()),
            settings.mode or "permissive",
        )

    def candidates(self, name: str) -> list[Reference]:
        """Return the names that a user's name may mean, in order; tags are not added."""
        if has_registry(name):
            return [Reference.parse(name)]
        Reference.parse(name)  # reports errors in the name as it was written
        bare = re.split(r"[:@]", name, maxsplit=1)[0]
        if bare in self.aliases:
            return [Reference.parse(self.aliases[bare] + name[len(bare) :])]
        if not self.search:
            raise RegistryError(
                f"'{printable(name)}' names no registry, and registries.conf has no "
                "search registries"
            )
        if self.mode == "enforcing" and len(self.search) > 1:
            raise RegistryError(
                f"'{printable(name)}' may be in {', '.join(map(printable, self.search))}; "
                f"name the registry (registries.conf: short-name-mode is enforcing)"
            )
        return [Reference.parse(f"{registry}/{name}") for registry in self.search]

    def endpoints(self, ref: Reference, *, push: bool = False) -> list[Endpoint]:
        """Return the endpoints for ``ref``: mirrors (not for ``push``), then the registry."""
        rule = self._rule(ref)
        if rule is None:
            return [Endpoint(ref)]
        if rule.blocked:
            raise RegistryError(f"{ref}: '{printable(rule.prefix)}' is blocked by {rule.file}")
        if push:
            return [Endpoint(ref, rule.insecure)]
        mirrors = [
            Endpoint(rule.moved(ref, mirror.location), mirror.insecure, mirror=True)
            for mirror in rule.mirrors
            if mirror.serves(ref)
        ]
        return [*mirrors, Endpoint(rule.moved(ref, rule.location), rule.insecure)]

    def places(self, ref: Reference) -> set[str]:
        """Return the registries that ``ref`` may mean: its own, and that of its location."""
        try:
            endpoints = self.endpoints(ref)
        except (RegistryError, FormatError):  # reported when the registry is asked
            endpoints = []
        return {ref.registry, *(one.registry for one in endpoints if not one.mirror)}

    def is_insecure(self, registry: str) -> bool:
        """Return whether a registry may use plain HTTP; raise RegistryError if it is blocked."""
        found = [rule for rule in self.rules if rule.matched(registry) == len(registry)]
        if any(rule.blocked for rule in found):
            raise RegistryError(f"{printable(registry)}: blocked by {found[0].file}")
        return any(rule.insecure for rule in found)

    def _rule(self, ref: Reference) -> Rule | None:
        """Return the rule with the longest match; names come before wildcards."""
        found = [rule for rule in self.rules if rule.matched(str(ref))]
        return max(
            found,
            key=lambda rule: (rule.matched(str(ref)), not rule.prefix.startswith("*")),
            default=None,
        )


class _Configuration:
    """The settings read so far."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = environment
        self.search: list[str] | None = None
        self.aliases: dict[str, str] = {}
        self.rules: dict[str, Rule] = {}
        self.mode = ""

    def add(self, path: Path) -> None:
        """Read another file, which overrides the settings."""
        table = _read(path, self._environment)
        if table is None:
            return
        search = table.strings("unqualified-search-registries")
        for rule in _rules(table):
            self.rules[rule.prefix] = rule
        old = table.table("registries")  # the format before prefixes existed
        if search is None and old is not None:
            search = _add_old(old, self.rules)
        for name in search or ():
            if not _is_place(name):
                raise table.error(f"'{printable(name[:200])}' is not a registry")
        self.search = self.search if search is None else search
        mode = table.string("short-name-mode")
        if mode not in _MODES:
            raise table.error(f"short-name-mode is '{printable(mode[:200])}', which is unknown")
        self.mode = mode or self.mode
        self._add_aliases(table)

    def add_recorded(self, path: Path) -> None:
        """Read the aliases that another tool has recorded."""
        table = _read(path, self._environment)
        if table is not None:
            self._add_aliases(table)

    def _add_aliases(self, table: _Table) -> None:
        aliases = table.table("aliases")
        for name in aliases.values if aliases is not None else ():
            assert aliases is not None
            full = aliases.string(name)
            if not _is_alias(name, full):
                raise table.error(
                    f"'{printable(name[:200])}' = '{printable(full[:200])}' is not an alias"
                )
            self.aliases[name] = full


def _is_alias(name: str, full: str) -> bool:
    """Return whether an alias is valid: a short name for a full one, or for none, without tags."""
    try:
        short = Reference.parse(name)
        meant = Reference.parse(full) if full else None
    except InvalidReference:
        return False
    if has_registry(name) or (meant is not None and not has_registry(full)):
        return False
    both = [short] if meant is None else [short, meant]
    return all(ref.tag is None and ref.digest is None for ref in both)


def _rules(table: _Table) -> Iterator[Rule]:
    for one in table.tables("registry"):
        location = _place(one, "location")
        prefix = _place(one, "prefix") or location
        if not prefix:
            raise one.error("a [[registry]] has neither prefix nor location")
        if prefix.startswith("*") and not re.fullmatch(r"\*\.[A-Za-z0-9.-]+", prefix):
            raise one.error(f"prefix '{printable(prefix)}': a wildcard must be *.HOST")
        if not location and not prefix.startswith("*."):
            location = prefix
        digest_only = one.flag("mirror-by-digest-only")
        mirrors = tuple(_mirror(mirror, digest_only) for mirror in one.tables("mirror"))
        yield Rule(prefix, location, one.flag("insecure"), one.flag("blocked"), mirrors, one.where)


def _mirror(table: _Table, digest_only: bool) -> Mirror:
    location = _place(table, "location")
    if not location:
        raise table.error("a mirror has no location")
    pulls = table.string("pull-from-mirror")
    if pulls not in ("", *_PULLS):
        raise table.error(f"pull-from-mirror is '{printable(pulls[:200])}', which is unknown")
    if pulls and digest_only:
        raise table.error("pull-from-mirror cannot be combined with mirror-by-digest-only")
    return Mirror(location, table.flag("insecure"), pulls or _PULLS[digest_only])


def _place(table: _Table, key: str) -> str:
    """Return a prefix or location: ``HOST[:PORT][/PATH]`` without a scheme."""
    text = table.string(key).rstrip("/")
    if text and not _is_place(text.removeprefix("*.")):
        raise table.error(f"{key} '{printable(text[:200])}' is not HOST[:PORT][/PATH]")
    return text


def _is_place(text: str) -> bool:
    return "://" not in text and _PLACE.fullmatch(text) is not None


def _add_old(table: _Table, rules: dict[str, Rule]) -> list[str] | None:
    """Read the lists of the first version of the format."""

    def listed(key: str) -> list[str] | None:
        part = table.table(key)
        return part.strings("registries") if part is not None else None

    insecure, blocked = set(listed("insecure") or ()), set(listed("block") or ())
    for name in sorted(insecure | blocked):
        if not _is_place(name):
            raise table.error(f"'{printable(name[:200])}' is not a registry")
        rules[name] = Rule(name, name, name in insecure, name in blocked, (), table.where)
    return listed("search")


@dataclass(frozen=True, slots=True)
class _Table:
    """A table of a TOML file, whose values are read with their types checked."""

    values: Mapping[str, Any]
    where: str

    def error(self, text: str) -> FormatError:
        return FormatError(f"{self.where}: {text}")

    def string(self, key: str) -> str:
        value = self.values.get(key, "")
        if not isinstance(value, str):
            raise self.error(f"{printable(key[:200])} is not a string")
        return value

    def flag(self, key: str) -> bool:
        value = self.values.get(key, False)
        if not isinstance(value, bool):
            raise self.error(f"{key} is neither true nor false")
        return value

    def strings(self, key: str) -> list[str] | None:
        value = self.values.get(key)
        if value is None:
            return None
        if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
            raise self.error(f"{key} is not a list of strings")
        return value

    def table(self, key: str) -> _Table | None:
        value = self.values.get(key)
        if value is None:
            return None
        if not isinstance(value, dict):
            raise self.error(f"{key} is not a table")
        return replace(self, values=value)

    def tables(self, key: str) -> list[_Table]:
        value = self.values.get(key, [])
        if not isinstance(value, list) or not all(isinstance(one, dict) for one in value):
            raise self.error(f"{key} is not a list of tables")
        return [replace(self, values=one) for one in value]


def _read(path: Path, environment: Mapping[str, str]) -> _Table | None:
    """Parse a file; return None if it does not exist."""
    where = printable(str(path))
    try:
        raw = read_document(path, _MAX_FILE, environment)
    except FileNotFoundError:
        return None
    try:
        return _Table(tomllib.loads(raw.decode("utf-8")), where)
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{where}: not TOML: {printable(str(error)[:200])}") from error


def config_home(environment: Mapping[str, str]) -> Path:
    """Return the directory of the user's configuration."""
    said = environment.get("XDG_CONFIG_HOME")
    return Path(said) if said else home_of(environment) / ".config"


def _files(environment: Mapping[str, str], system: Path) -> Iterator[Path]:
    """Yield all files that count; later ones override earlier ones."""
    user = config_home(environment) / "containers"
    explicit = environment.get("CONTAINERS_REGISTRIES_CONF")
    own = user / "registries.conf"
    use_own = not explicit and own.exists()
    if explicit:
        if not Path(explicit).exists():
            raise FormatError(f"{printable(explicit)}: no such file (CONTAINERS_REGISTRIES_CONF)")
        yield Path(explicit)
    else:
        yield own if use_own else system / "registries.conf"
    if not use_own:
        yield from _drop_ins(system)
    yield from _drop_ins(user)


def _drop_ins(directory: Path) -> Sequence[Path]:
    return sorted(directory.glob("registries.conf.d/*.conf"))


def _recorded(environment: Mapping[str, str], cache: Path | None) -> Iterator[Path]:
    """Yield the files of aliases that podman recorded."""
    if cache is None:
        own = environment.get("XDG_CACHE_HOME") or home_of(environment) / ".cache"
        cache = CACHE if real_user(environment) == 0 else Path(own) / "containers"
    yield cache / "short-name-aliases.conf"
