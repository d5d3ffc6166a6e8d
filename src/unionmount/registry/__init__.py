"""Registries of images: endpoints, authorization, and the OCI distribution protocol.

::

    name ──► registries_conf ──► endpoints    aliases, search, mirrors
                                   │
    credentials ──► tokens ──► session ──► http ──► tls
    auth files,     Basic,     retries,    redirects,   certs.d
    helpers         Bearer     mirrors     limits
                                   │
                     client: manifests, blobs, uploads, tags, search
                                   │
                     blob_parts ──► blob_download ──► connections
                     in order       a range           of each host

``docs/explanation/registry.md`` describes the way of a request.
"""

from __future__ import annotations

from unionmount.registry.client import FetchedManifest, RegistryClient
from unionmount.registry.credentials import Credentials, Login
from unionmount.registry.limits import RegistryLimits
from unionmount.registry.registries_conf import Endpoint, Registries
from unionmount.registry.search import SearchResult

__all__ = [
    "Credentials",
    "Endpoint",
    "FetchedManifest",
    "Login",
    "Registries",
    "RegistryClient",
    "RegistryLimits",
    "SearchResult",
]
