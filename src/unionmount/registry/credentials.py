"""The user's logins at registries: ``--creds``, auth files and credential helpers.

The first of these that knows the registry counts:

1. ``--creds``
2. the file of ``--authfile`` or ``REGISTRY_AUTH_FILE``; then no other file is read
3. ``$XDG_RUNTIME_DIR/containers/auth.json`` (``/run/containers/UID/auth.json``)
4. ``~/.config/containers/auth.json``
5. ``$DOCKER_CONFIG/config.json`` (``~/.docker/config.json``)

Within a file, a helper for the registry comes first (``credHelpers``), then the entries of
``auths``, the longest path first, then the general helper of the file (``credsStore``).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from unionmount.errors import NotFoundError
from unionmount.registry.auth_file import AuthFile, plain_registry, read_auth_file
from unionmount.registry.login import Login
from unionmount.registry.registries_conf import config_home
from unionmount.system.home import home_of
from unionmount.system.real_user import real_user
from unionmount.system.text import printable

__all__ = ["Credentials", "Login"]

Check = Callable[[], object]


@dataclass(frozen=True, slots=True)
class Credentials:
    """The places of logins, in order; files are read on demand."""

    files: tuple[Path, ...] = ()
    given: Login | None = None
    environment: Mapping[str, str] = field(default_factory=lambda: os.environ, repr=False)
    given_for: frozenset[str] | None = None  # the registries that ``given`` is for; None: all

    @classmethod
    def load(
        cls,
        environment: Mapping[str, str],
        authfile: str | Path | None = None,
        creds: tuple[str, str] | None = None,
        *,
        creds_for: Iterable[str] | None = None,
        create: bool = False,
    ) -> Self:
        """Return the places for this user; with ``create``, the file may be missing.

        ``creds`` are only used for the registries ``creds_for``.
        """
        given = Login(*creds) if creds is not None else None
        if authfile is not None and not create and not Path(authfile).exists():
            raise NotFoundError(f"{printable(str(authfile))}: no such file (--authfile)")
        explicit = authfile or environment.get("REGISTRY_AUTH_FILE")
        files = (Path(explicit),) if explicit else tuple(_usual_files(environment))
        known_as = None if creds_for is None else frozenset(map(plain_registry, creds_for))
        return cls(files, given, environment, known_as)

    @property
    def primary(self) -> Path:
        """The file to which ``login`` writes."""
        return self.files[0]

    def find(
        self,
        registry: str,
        repository: str = "",
        *,
        check: Check | None = None,
        mirror: bool = False,
    ) -> Login | None:
        """Return the login for a repository; None for anonymous access.

        A credential helper may take a while, and so may a command whose output stands for a file:
        ``check`` is called meanwhile and may raise. Credentials of the command line are for the
        named registry, but not for any ``mirror`` of it.
        """
        if self.given is not None and not mirror and self._is_for(registry):
            return self.given
        for path in self.files:
            file = read_auth_file(path, self.environment, check)
            login = file.find(registry, repository, check) if file is not None else None
            if login is not None:
                return login
        return None

    def _is_for(self, registry: str) -> bool:
        return self.given_for is None or plain_registry(registry) in self.given_for

    def store(self, place: str, login: Login) -> Path:
        """Store a login for ``REGISTRY[/PATH]``; return the file."""
        path = self.primary
        AuthFile.change(path, self.environment, lambda file: file.put(place, login))
        return path

    def erase(self, place: str) -> bool:
        """Remove the login for ``REGISTRY[/PATH]``; return whether there was one."""
        path = self.primary
        if not path.exists():
            return False
        return AuthFile.change(path, self.environment, lambda file: file.drop(place))

    def erase_all(self) -> int:
        """Remove all logins from the file to which ``login`` writes; return their number."""
        path = self.primary
        if not path.exists():
            return 0
        return AuthFile.change(path, self.environment, lambda file: file.drop_all())

    def holders(self, place: str) -> list[Path]:
        """Return the files that still have a login for ``REGISTRY[/PATH]``."""
        registry, _, repository = place.partition("/")
        return [path for path in self.files if self._knows(path, registry, repository)]

    def _knows(self, path: Path, registry: str, repository: str) -> bool:
        file = read_auth_file(path, self.environment)
        return file is not None and file.find(registry, repository, None) is not None


def _usual_files(environment: Mapping[str, str]) -> Iterator[Path]:
    runtime = environment.get("XDG_RUNTIME_DIR")
    user = real_user(environment)
    shared = Path(f"/run/containers/{user}")
    if runtime:
        yield Path(runtime) / "containers" / "auth.json"
    elif user == 0 or os.access(shared, os.X_OK):  # ordinary users may not create it
        yield shared / "auth.json"
    yield config_home(environment) / "containers" / "auth.json"
    docker = environment.get("DOCKER_CONFIG")
    yield (Path(docker) if docker else home_of(environment) / ".docker") / "config.json"
