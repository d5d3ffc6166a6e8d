"""Answers of the referrers API of OCI distribution-spec 1.1, and conditions of requests.

A registry without the API answers 404; older ones, and proxies in front of them, also answer with
another refusal of the path, or with a page of HTML.
"""

from __future__ import annotations

import re

import httpx2

from unionmount.errors import RegistryError
from unionmount.images.manifest import Descriptor, ImageIndex
from unionmount.images.media_types import OCI_INDEX
from unionmount.images.referrers import MAX_REFERRERS

__all__ = ["MAX_REFERRERS", "NO_REFERRERS_API", "PreconditionFailed", "etag_of", "referrers_of"]

NO_REFERRERS_API = (404, 400, 405, 406, 501)
"""The statuses with which registries without the API answer."""

_ETAG = re.compile(r'"[!#-~]{1,512}"')  # a weak one does not name the bytes


class PreconditionFailed(RegistryError):
    """What a tag leads to has changed since it was read."""


def etag_of(response: httpx2.Response) -> str:
    """Return the strong entity tag of an answer, or an empty string."""
    value: str = response.headers.get("etag", "")
    return value if _ETAG.fullmatch(value) else ""


def referrers_of(response: httpx2.Response, raw: bytes, what: str) -> list[Descriptor] | None:
    """Return the referrers of one page; None if the answer is none of the API."""
    media_type = response.headers.get("content-type", "").partition(";")[0].strip().lower()
    if response.status_code != 200 or media_type != OCI_INDEX:
        return None
    return list(ImageIndex.parse(raw, what).manifests)
