"""Where containers/storage keeps images: the configuration of podman, buildah, skopeo and CRI-O.

The rules are those of the library (types/options.go): ``CONTAINERS_STORAGE_CONF``, else the user's
or the machine's storage.conf; ``STORAGE_DRIVER``; an ordinary user's store below
``XDG_DATA_HOME``. In the user namespace that podman makes, its variables tell whose store it is.
"""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unionmount.errors import FormatError, StoreError, UsageError
from unionmount.system.files import read_document
from unionmount.system.home import NO_HOME, home_of
from unionmount.system.real_user import real_user
from unionmount.system.text import printable

if TYPE_CHECKING:
    from collections.abc import Mapping

PREFIX = "containers-storage:"

_VARIABLE = "CONTAINERS_STORAGE_CONF"
_SYSTEM_FILES = (Path("/etc/containers/storage.conf"), Path("/usr/share/containers/storage.conf"))
_ROOT_PLACES = ("/var/lib/containers/storage", "/run/containers/storage")
_MAX_FILE = 1024 * 1024
_SPECIFIER = re.compile(r"\[(?:([^@\]]*)@)?([^\]+:]*)(?:\+([^\]:]*))?(?::[^\]]*)?\](.*)", re.DOTALL)
_DRIVERS = ("overlay", "vfs")


@dataclass(frozen=True, slots=True)
class StoragePlace:
    """One store: its driver and its directories.

    ``run_root`` is empty where the library chooses it. ``additional`` are read-only stores whose
    images count as this one's. ``named``: the user wrote the place, so it is passed on to tools,
    which would find another one by themselves.
    """

    driver: str
    graph_root: Path
    run_root: str = ""
    additional: tuple[Path, ...] = ()
    named: bool = False

    @property
    def roots(self) -> tuple[Path, ...]:
        """All directories that images may be in, the store's own first."""
        return (self.graph_root, *self.additional)

    def options(self) -> list[str]:
        """Return the options by which podman and buildah use this store."""
        if not self.named:
            return []
        run = ["--runroot", self.run_root] if self.run_root else []
        return ["--root", str(self.graph_root), *run, "--storage-driver", self.driver]


def split_specifier(text: str) -> tuple[str, str]:
    """Split ``[driver@root+runroot]NAME`` into what is in brackets, with them, and the name."""
    if not text.startswith("["):
        return "", text
    found = _SPECIFIER.fullmatch(text)
    if found is None:
        raise UsageError(
            f"'{PREFIX}{printable(text)}': write [DRIVER@ROOT+RUNROOT]NAME, with absolute paths"
        )
    name = found[4]
    if not name:
        raise UsageError(f"'{PREFIX}{printable(text)}': the name of the image is missing behind it")
    return text[: len(text) - len(name)], name


def find_place(specifier: str, environment: Mapping[str, str]) -> StoragePlace:
    """Find the store that ``[driver@root+runroot]`` names, or the default one."""
    if not specifier:
        return _default_place(environment)
    found = _SPECIFIER.fullmatch(specifier)
    assert found is not None, "split_specifier accepted it"
    driver, root, run = found[1] or "", found[2], found[3] or ""
    if not root.startswith("/") or (run and not run.startswith("/")):
        raise UsageError(f"'{printable(specifier)}': the directories of a store are absolute paths")
    default = _configured(environment)
    chosen = _driver(driver or _text(default, "driver"), Path(root), environment)
    return StoragePlace(chosen, Path(root), run, _additional(default), named=True)


def _default_place(environment: Mapping[str, str]) -> StoragePlace:
    found = _configured(environment)
    uid = real_user(environment)
    run = _expanded(_text(found, "runroot"), uid, environment)
    root = _expanded(_text(found, "graphroot"), uid, environment)
    if uid:
        root = root or _expanded(_text(found, "rootless_storage_path"), uid, environment)
        graph_root = Path(root or f"{_data_home(environment)}/containers/storage")
    else:
        graph_root = Path(root or _ROOT_PLACES[0])
        run = run or _ROOT_PLACES[1]
    additional = _additional(found)
    if image_store := _text(found, "imagestore"):
        additional = (Path(image_store), *additional)
    driver = _driver(_text(found, "driver"), graph_root, environment)
    return StoragePlace(driver, graph_root, run, additional)


def _configured(environment: Mapping[str, str]) -> dict[str, Any]:
    """Return the table ``storage`` of the configuration; an empty one without a file."""
    for file in _files(environment):
        try:
            raw = read_document(file, _MAX_FILE, environment)
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            raise StoreError(f"{printable(str(file))}: {error.strerror}") from None
        return _parsed(raw, printable(str(file)))
    return {}


def _files(environment: Mapping[str, str]) -> tuple[Path, ...]:
    if chosen := environment.get(_VARIABLE):
        return (Path(chosen),)
    if not real_user(environment):
        return _SYSTEM_FILES
    home = environment.get("XDG_CONFIG_HOME") or home_of(environment) / ".config"
    return (Path(home, "containers/storage.conf"),)


def _parsed(raw: bytes, what: str) -> dict[str, Any]:
    try:
        document = tomllib.loads(raw.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{what}: damaged TOML: {printable(str(error))[:200]}") from None
    found = document.get("storage", {})
    if not isinstance(found, dict):
        raise FormatError(f"{what}: 'storage' is not a table")
    return found


def _text(table: dict[str, Any], name: str) -> str:
    value = table.get(name, "")
    return value if isinstance(value, str) else ""


def _additional(table: dict[str, Any]) -> tuple[Path, ...]:
    options = table.get("options")
    listed = options.get("additionalimagestores") if isinstance(options, dict) else None
    texts = listed if isinstance(listed, list) else []
    return tuple(Path(one) for one in texts if isinstance(one, str) and one.startswith("/"))


def _expanded(path: str, uid: int, environment: Mapping[str, str]) -> str:
    """Return a path with its variables, of which ``$UID`` is the user's number."""
    known = {**environment, "UID": str(uid)}
    return re.sub(r"\$(?:\{(\w+)\}|(\w+))", lambda found: known.get(found[1] or found[2], ""), path)


def _data_home(environment: Mapping[str, str]) -> str:
    home = home_of(environment)
    data = environment.get("XDG_DATA_HOME", "")
    if not data and home == NO_HOME:
        raise StoreError(
            f"{PREFIX} this user has no home directory; name the store: {PREFIX}[overlay@DIR]NAME"
        )
    return data or f"{home}/.local/share"


def _driver(configured: str, root: Path, environment: Mapping[str, str]) -> str:
    """Return the driver; where none is configured, the one whose images the store has."""
    driver = environment.get("STORAGE_DRIVER") or configured
    driver = "overlay" if driver == "overlay2" else driver
    if not driver:
        there = [one for one in _DRIVERS if (root / f"{one}-images").is_dir()]
        driver = there[0] if there else _DRIVERS[0]
    if driver not in _DRIVERS:
        raise UsageError(
            f"{PREFIX} the driver '{printable(driver)}' of {printable(str(root))} is not supported,"
            f" only {' and '.join(_DRIVERS)} are; copy the image: "
            "skopeo copy containers-storage:NAME oci-archive:FILE"
        )
    return driver
