"""An auth file: ``auth.json`` of containers-auth.json(5), or docker's ``config.json``."""

from __future__ import annotations

import base64
import binascii
import fcntl
import json
import os
import secrets
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

from unionmount.errors import FormatError
from unionmount.images.reference import DEFAULT_REGISTRY
from unionmount.registry.credential_helper import CredentialHelper
from unionmount.registry.login import Login
from unionmount.system.files import not_regular, read_document, resolved
from unionmount.system.text import printable

T = TypeVar("T")

_MAX_FILE = 4 * 1024 * 1024
_DOCKER_HUB = "https://index.docker.io/v1/"  # docker's name for docker.io
_HUB_NAMES = frozenset({DEFAULT_REGISTRY, "index.docker.io", "registry-1.docker.io"})


class AuthFile:
    """The content of one file; unknown keys are preserved."""

    def __init__(
        self, path: Path, document: dict[str, Any], environment: Mapping[str, str]
    ) -> None:
        self._where = printable(str(path))
        self._document = document
        self._environment = environment

    @classmethod
    def change(cls, path: Path, environment: Mapping[str, str], act: Callable[[AuthFile], T]) -> T:
        """Read a file, change it, and replace it immediately, with mode 0600."""
        target = resolved(path)  # a symlink is preserved
        with suppress(FileNotFoundError):
            status = target.lstat()
            if not stat.S_ISREG(status.st_mode):
                raise not_regular(path, status.st_mode)
        if not target.parent.exists():
            target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with _locked(target.parent):
            file = read_auth_file(target, environment) or cls(target, {}, environment)
            result = act(file)
            _replace(target, file.encoded())
        return result

    def find(
        self, registry: str, repository: str, check: Callable[[], object] | None
    ) -> Login | None:
        """Return the login for a repository, or for its nearest parent."""
        names = _names(registry)
        helper = self._helper_of(names)
        if helper:
            return self._ask(helper, registry, check, needed=True)
        login = self._entry(registry, repository)
        store = self._string("credsStore")
        if login is None and store:
            login = self._ask(store, registry, check, needed=False)
        return login

    def encoded(self) -> bytes:
        """Return the content of the file."""
        return json.dumps(self._document, indent="\t").encode("utf-8") + b"\n"

    def put(self, place: str, login: Login) -> None:
        """Store a login for ``REGISTRY[/PATH]``."""
        registry = place.partition("/")[0]
        helper = self._helper_of(_names(registry)) or self._string("credsStore")
        if helper and "/" not in place:
            self._helper(helper).store(_helper_names(registry)[0], login)
            self._table("auths").setdefault(place, {})
            return
        pair = f"{login.username}:{login.password}".encode()
        entry = {"auth": base64.b64encode(pair).decode("ascii")}
        if login.identity_token:
            entry["identitytoken"] = login.identity_token
        self._forget(place)
        self._document.setdefault("auths", {})[place] = entry

    def drop(self, place: str) -> bool:
        """Remove a login; return whether there was one."""
        registry = place.partition("/")[0]
        helper = self._helper_of(_names(registry)) or self._string("credsStore")
        erased = False
        if helper and "/" not in place:
            for name in _helper_names(registry):
                erased |= self._helper(helper).erase(name)
        return self._forget(place) or erased

    def drop_all(self) -> int:
        """Remove all logins; return their number."""
        places = set(self._table("auths")) | set(self._table("credHelpers"))
        count = sum(self.drop(_plain(place)) for place in sorted(places))
        self._document["auths"] = {}
        return count

    def _forget(self, place: str) -> bool:
        auths = self._table("auths")
        same = [key for key in auths if key == place or _plain(key) == _plain(place)]
        for key in same:
            del auths[key]
        return bool(same)

    def _entry(self, registry: str, repository: str) -> Login | None:
        auths = self._table("auths")
        # A key in our own spelling comes last, and so counts.
        spelled = sorted(auths, key=lambda key: key == _plain(key))
        by_place = {_plain(key): key for key in spelled} | {key: key for key in auths}
        for place in _places(_plain(registry), repository):
            login = self._decode(by_place[place]) if place in by_place else None
            if login is not None:
                return login
        return None

    def _decode(self, key: str) -> Login | None:
        entry = self._table("auths")[key]
        if not isinstance(entry, dict):
            raise self._error(f"auths: '{printable(key[:200])}' is not an object")
        encoded, identity = entry.get("auth") or "", entry.get("identitytoken") or ""
        if not isinstance(encoded, str) or not isinstance(identity, str):
            raise self._error(f"auths: '{printable(key[:200])}' has no text as auth")
        if not encoded and entry.get("username"):
            return Login(str(entry["username"]), str(entry.get("password", "")), identity)
        if not encoded:
            return Login("", "", identity) if identity else None
        try:
            # base64(1) breaks lines, which other readers ignore.
            packed = "".join(encoded.split())
            text = base64.b64decode(packed, validate=True).decode("utf-8").rstrip("\0")
        except (binascii.Error, ValueError) as error:
            raise self._error(f"auths: auth of '{printable(key[:200])}' is not base64") from error
        user, colon, password = text.partition(":")
        if not colon:
            raise self._error(f"auths: auth of '{printable(key[:200])}' has no colon")
        return Login(user, password, identity)

    def _ask(
        self, name: str, registry: str, check: Callable[[], object] | None, *, needed: bool
    ) -> Login | None:
        helper = self._helper(name)
        if not needed and not helper.exists:  # a config that was copied from another machine
            return None
        for server in _helper_names(registry):
            login = helper.get(server, check)
            if login is not None:
                return login
        return None

    def _helper(self, name: str) -> CredentialHelper:
        return CredentialHelper(name, self._where, self._environment)

    def _helper_of(self, names: list[str]) -> str:
        helpers = self._table("credHelpers")
        for name in names:
            helper = helpers.get(name)
            if isinstance(helper, str) and helper:
                return helper
        for key, helper in helpers.items():
            if _plain(key) == _plain(names[0]) and isinstance(helper, str) and helper:
                return helper
        return ""

    def _table(self, key: str) -> dict[str, Any]:
        value = self._document.get(key)
        if value is None:
            return {}
        if not isinstance(value, dict):
            raise self._error(f"{key} is not an object")
        return value

    def _string(self, key: str) -> str:
        value = self._document.get(key) or ""
        if not isinstance(value, str):
            raise self._error(f"{key} is not a string")
        return value

    def _error(self, text: str) -> FormatError:
        return FormatError(f"{self._where}: {text}")


def read_auth_file(
    path: Path, environment: Mapping[str, str], check: Callable[[], object] | None = None
) -> AuthFile | None:
    """Read an auth file; return None if there is none. Call ``check`` while waiting for it."""
    where = printable(str(path))
    try:
        raw = read_document(path, _MAX_FILE, environment, check)
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        document = json.loads(raw) if raw.strip() else {}
    except (ValueError, RecursionError) as error:
        # The invalid text is not shown, as it may be a secret.
        raise FormatError(f"{where}: not JSON") from error
    if not isinstance(document, dict):
        raise FormatError(f"{where}: not a JSON object")
    return AuthFile(path, document, environment)


def plain_registry(registry: str) -> str:
    """Return one name for a registry that has several."""
    return DEFAULT_REGISTRY if registry in _HUB_NAMES else registry


def _plain(key: str) -> str:
    """Return a key of ``auths`` as ``REGISTRY[/PATH]``; with a scheme it is the whole registry."""
    scheme, separator, rest = key.partition("://")
    if separator and scheme in ("http", "https"):
        key = rest.partition("/")[0]
    host, slash, path = key.rstrip("/").partition("/")
    return plain_registry(host) + slash + path


def _places(registry: str, repository: str) -> Iterator[str]:
    """Yield ``REGISTRY/a/b``, ``REGISTRY/a``, ``REGISTRY``."""
    parts = repository.split("/") if repository else []
    for count in range(len(parts), -1, -1):
        yield "/".join([registry, *parts[:count]])


def _names(registry: str) -> list[str]:
    """Return the names of a registry in ``credHelpers``."""
    if registry in _HUB_NAMES:
        return [DEFAULT_REGISTRY, "index.docker.io", _DOCKER_HUB]
    return [registry, f"https://{registry}", f"https://{registry}/"]


def _helper_names(registry: str) -> list[str]:
    """Return the names of a registry for helpers; docker's name first."""
    return [_DOCKER_HUB, DEFAULT_REGISTRY] if registry in _HUB_NAMES else [registry]


@contextmanager
def _locked(directory: Path) -> Iterator[None]:
    """Hold a lock, so that the files of a directory are changed one at a time."""
    lock = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
        os.fsync(lock)
    finally:
        os.close(lock)


def _replace(path: Path, content: bytes) -> None:
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    opened = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(opened, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink()
        raise
