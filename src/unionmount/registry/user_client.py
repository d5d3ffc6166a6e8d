"""A client with the logins and the settings of the user."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from unionmount.registry.client import RegistryClient
from unionmount.registry.credentials import Credentials

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from unionmount.images.reference import Reference
    from unionmount.registry.registries_conf import Registries


def client_of_user(
    registries: Registries,
    named: Sequence[Reference],
    *,
    creds: tuple[str, str] | None,
    authfile: str | None,
    tls_verify: bool | None,
    cert_dir: str | None,
    debug: Callable[[str], None] | None = None,
) -> RegistryClient:
    """Return a client; ``creds``, user and password, are only used for the registries of ``named``.

    ``authfile`` replaces the usual files with logins. Without ``tls_verify``, TLS is as configured.
    """
    return RegistryClient(
        registries,
        Credentials.load(
            os.environ,
            authfile,
            creds,
            creds_for={place for ref in named for place in registries.places(ref)},
        ),
        tls_verify=tls_verify,
        cert_dir=Path(cert_dir) if cert_dir is not None else None,
        debug=debug,
    )
