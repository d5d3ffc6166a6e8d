"""The OCI distribution protocol: manifests, blobs, uploads, tags and search.

One client, an async context manager on trio, serves all tasks of a command. Downloads try mirrors
first, and prefer the endpoint that had the image's manifest. Documents are bounded and verified
here; blobs are bounded here and hashed by their consumer.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar
from urllib.parse import urlencode

import httpx2

from unionmount.errors import (
    DigestMismatch,
    FormatError,
    InvalidReference,
    LimitExceeded,
    NotAuthorized,
    NotFoundError,
    RegistryError,
    SizeMismatch,
)
from unionmount.images.json_fields import MAX_DOCUMENT
from unionmount.images.manifest import Contents, Descriptor
from unionmount.images.media_types import DOCKER_LIST, DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST
from unionmount.images.reference import DEFAULT_REGISTRY, Digest, Reference
from unionmount.registry.blob_download import RemoteBlob
from unionmount.registry.blob_parts import opened
from unionmount.registry.blob_upload import Chunks, Progress, Upload, check_named, push_scopes
from unionmount.registry.credentials import Credentials
from unionmount.registry.http import Http, host_of, read_body
from unionmount.registry.limits import RegistryLimits
from unionmount.registry.links import next_link
from unionmount.registry.redaction import shown_url
from unionmount.registry.referrers import (
    MAX_REFERRERS,
    NO_REFERRERS_API,
    PreconditionFailed,
    etag_of,
    referrers_of,
)
from unionmount.registry.registries_conf import Endpoint, Registries
from unionmount.registry.search import SearchResult, matching, parse_results
from unionmount.registry.session import RegistryCall, Session
from unionmount.registry.tls import Trust
from unionmount.registry.tokens import Authorizer
from unionmount.registry.url_download import UrlFiles
from unionmount.system.text import printable

T = TypeVar("T")

_ACCEPTED = ", ".join((OCI_INDEX, OCI_MANIFEST, DOCKER_LIST, DOCKER_MANIFEST))
_HUB_SEARCH = "index.docker.io"
_PAGE = 1000
_CONDITIONS = {"if-match", "if-none-match"}
_MEDIA_TYPE = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9!#$&^_.+-]*/[a-zA-Z0-9][a-zA-Z0-9!#$&^_.+-]*")


@dataclass(frozen=True, slots=True)
class FetchedManifest:
    """A manifest or index as it was received, with its verified digest."""

    raw: bytes = field(repr=False)
    digest: Digest
    media_type: str
    etag: str = ""  # names this version of what a tag leads to, if the registry says so


class RegistryClient:
    """A client of registries; its arguments are not changed."""

    def __init__(
        self,
        registries: Registries,
        credentials: Credentials,
        *,
        tls_verify: bool | None = None,
        debug: Callable[[str], None] | None = None,
        cert_dir: Path | None = None,
        environment: Mapping[str, str] | None = None,
        limits: RegistryLimits | None = None,
    ) -> None:
        debug = debug or _silent
        environment = os.environ if environment is None else environment
        limits = limits or RegistryLimits.from_environment(environment)
        self._registries = registries
        self._preferred: dict[tuple[str, str], Endpoint] = {}
        trust = Trust(environment, directory=cert_dir)
        self._http = Http(trust, limits, debug)
        authorizer = Authorizer(credentials, self._http, limits, debug)
        self._session = Session(self._http, authorizer, limits, debug, tls_verify)
        self._files = UrlFiles(self._http, limits, debug, tls_verify)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._http.aclose()

    async def manifest(self, ref: Reference) -> FetchedManifest:
        """Fetch the manifest or index of a tag or digest."""
        return await self._anywhere(ref, lambda endpoint: self._manifest(endpoint, ref))

    async def document(
        self, ref: Reference, descriptor: Descriptor, *, child: bool = False
    ) -> bytes:
        """Fetch a config or child manifest of the image ``ref``, and verify it.

        A ``child`` of an index is a manifest of any type; otherwise the type tells.
        """
        if descriptor.size > MAX_DOCUMENT:
            raise LimitExceeded(
                f"{ref}: {descriptor.digest} has {descriptor.size} bytes, more than {MAX_DOCUMENT}"
            )
        return await self._anywhere(ref, lambda end: self._document(end, ref, descriptor, child))

    @asynccontextmanager
    async def blob(
        self, ref: Reference, descriptor: Descriptor
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        """Open the bytes of a blob of the image ``ref``, which the caller has to hash.

        A large one comes over several connections, in order.
        """
        what = f"{ref}: {descriptor.digest}"
        blob = RemoteBlob(self._session, self._endpoints(ref), descriptor, what)
        async with opened(blob) as chunks:
            yield chunks

    def place_of(self, ref: Reference) -> Reference:
        """Return the name of an image where its manifest came from: a mirror has its own."""
        return self._endpoints(ref)[0].reference

    async def manifest_beside(self, ref: Reference, tag: str) -> FetchedManifest:
        """Fetch the manifest of another tag, only from where that of ``ref`` came from."""
        endpoint = self._endpoints(ref)[0]
        there = replace(endpoint.reference, tag=tag, digest=None)
        asked = replace(ref, tag=tag, digest=None)
        return await self._manifest(replace(endpoint, reference=there), asked)

    async def small_file(self, url: str, limit: int) -> bytes:
        """Fetch a file of at most ``limit`` bytes, which prove themselves: plain HTTP is allowed.

        Raise NotFoundError if it does not exist. No credentials are sent.
        """
        data = bytearray()
        async with aclosing(self._files.file(url, verified=True).chunks()) as chunks:
            async for chunk in chunks:
                data += chunk
                if len(data) > limit:
                    raise LimitExceeded(f"{shown_url(url)}: larger than {limit} bytes")
        return bytes(data)

    async def has_blob(self, ref: Reference, digest: Digest) -> bool:
        """Return whether the repository to push to has a blob."""
        endpoint = self._target(ref)
        path = f"/v2/{endpoint.repository}/blobs/{digest}"
        call = RegistryCall(
            "HEAD", path, f"{ref}: {digest}", push_scopes(endpoint.repository), (200, 404)
        )

        async def read(response: httpx2.Response) -> bool:
            # Its end has to be read, or the connection is closed and not used again.
            await read_body(response, 0, call.what, self._session.limits)
            return response.status_code == 200

        return await self._session.answer(endpoint, call, read)

    async def mount_blob(self, ref: Reference, digest: Digest, source_repository: str) -> bool:
        """Mount a blob from another repository of the registry; return whether that succeeded."""
        endpoint = self._target(ref)
        query = urlencode({"mount": str(digest), "from": source_repository})
        scopes = (*push_scopes(endpoint.repository), f"repository:{source_repository}:pull")
        call = RegistryCall(
            "POST",
            f"/v2/{endpoint.repository}/blobs/uploads/?{query}",
            f"{ref}: {digest}",
            scopes,
            (201, 202),
            {"content-length": "0"},
        )

        async def read(response: httpx2.Response) -> str | None:
            if response.status_code == 201:
                return None
            location = response.headers.get("location", "")
            return self._session.url(endpoint, response, location) if location else ""

        unwanted = await self._session.answer(endpoint, call, read)
        if unwanted:
            await self._drop_upload(endpoint, ref, unwanted)
        return unwanted is None

    async def upload_blob(
        self,
        ref: Reference,
        digest: Digest,
        size: int,
        chunks: Chunks,
        progress: Progress | None = None,
    ) -> None:
        """Upload a blob; each call of ``chunks`` returns its bytes from the start.

        ``progress`` gets the number of bytes that were sent, which may decrease.
        """
        endpoint = self._target(ref)
        await Upload(self._session, endpoint, digest, size, chunks, progress, str(ref)).run()

    async def put_manifest(self, ref: Reference, raw: bytes, media_type: str) -> Digest:
        """Upload a manifest or index under the tag or digest of ``ref``."""
        return (await self._put(ref, raw, {"content-type": media_type}))[0]

    async def put_referrer(self, ref: Reference, raw: bytes, media_type: str) -> bool:
        """Upload a manifest with a subject; return whether the registry lists it as a referrer."""
        return (await self._put(ref, raw, {"content-type": media_type}))[1]

    async def replace_manifest(
        self, ref: Reference, raw: bytes, media_type: str, known: FetchedManifest | None
    ) -> bool:
        """Upload a manifest unless its tag leads to something else than the ``known`` one.

        Return False if it does. A registry without conditional requests always replaces it.
        """
        headers = {"content-type": media_type}
        if known is None:
            headers["if-none-match"] = "*"
        elif known.etag:
            headers["if-match"] = known.etag
        try:
            await self._put(ref, raw, headers)
        except PreconditionFailed:
            return False
        return True

    async def target_manifest(self, ref: Reference) -> FetchedManifest | None:
        """Fetch a manifest of the repository to push to, never from a mirror; None if missing."""
        try:
            return await self._manifest(self._target(ref), ref)
        except NotFoundError:
            return None

    async def digest(self, ref: Reference) -> Digest | None:
        """Return the digest that a tag leads to; None if the registry does not say it in short."""
        return await self._anywhere(ref, lambda endpoint: self._digest(endpoint, ref))

    async def target_digest(self, ref: Reference) -> Digest | None:
        """Return what a tag or digest leads to in the repository to push to.

        None if it is missing, or if the registry does not say: many refuse to talk about a
        repository that does not exist yet.
        """
        endpoint = self._target(ref)
        try:
            return await self._digest(endpoint, ref, push_scopes(endpoint.repository))
        except (NotFoundError, NotAuthorized):
            return None

    async def referrers(
        self, ref: Reference, digest: Digest, artifact_type: str = "", *, target: bool = False
    ) -> list[Descriptor] | None:
        """Return the referrers that the registry lists; None if it has no API for them.

        With ``artifact_type``, a registry that can filter leaves others out. ``target`` asks the
        repository to push to. A mirror counts only if it lists any, since mirrors may have images
        without what is about them.
        """
        endpoints = [self._target(ref)] if target else self._registries.endpoints(ref)
        for endpoint in endpoints[:-1]:
            try:
                found = await self._referrers(endpoint, ref, digest, artifact_type)
            except (RegistryError, NotFoundError, FormatError) as error:
                self._session.debug(f"  {endpoint.host}: {error}")
                continue
            if found:
                return found
        return await self._referrers(endpoints[-1], ref, digest, artifact_type)

    def has_mirrors(self, ref: Reference) -> bool:
        """Return whether an image is looked for in several places."""
        return len(self._registries.endpoints(ref)) > 1

    async def _put(
        self, ref: Reference, raw: bytes, headers: Mapping[str, str]
    ) -> tuple[Digest, bool]:
        endpoint = self._target(ref)
        digest = Digest.of(raw, ref.digest.algorithm if ref.digest is not None else "sha256")
        if ref.digest is not None and ref.tag is None and ref.digest != digest:
            raise DigestMismatch(f"{ref}: manifest", str(ref.digest), str(digest))
        name = ref.tag or str(digest)
        call = RegistryCall(
            "PUT",
            f"/v2/{endpoint.repository}/manifests/{name}",
            f"{ref}: manifest",
            push_scopes(endpoint.repository),
            (201, 200, 202, *((412,) if headers.keys() & _CONDITIONS else ())),
            headers,
            raw,
        )

        async def read(response: httpx2.Response) -> bool:
            if response.status_code == 412:
                raise PreconditionFailed(f"{ref}: changed meanwhile")
            check_named(response, digest, f"{ref}: manifest")
            return bool(response.headers.get("oci-subject", ""))

        return digest, await self._session.answer(endpoint, call, read)

    async def tags(self, ref: Reference) -> list[str]:
        """Return all tags of a repository, in the registry's order."""
        return await self._anywhere(ref, lambda endpoint: self._tags(endpoint, ref))

    async def search(self, registry: str, term: str, limit: int) -> list[SearchResult]:
        """Return at most ``limit`` images whose names or descriptions contain a word."""
        found = await self._search_index(registry, term, limit)
        if found is None:
            found = await self._search_catalog(registry, term)
        return found[:limit]

    async def ping(self, registry: str) -> None:
        """Check that the registry exists, and accepts the credentials."""
        endpoint = self._whole(registry)
        call = RegistryCall("GET", "/v2/", registry)
        await self._session.answer(endpoint, call, _done)

    # Below: one endpoint each.

    async def _digest(
        self, endpoint: Endpoint, ref: Reference, scopes: tuple[str, ...] = ()
    ) -> Digest | None:
        name = endpoint.reference.digest or endpoint.reference.with_default_tag().tag
        what = f"{ref}: manifest"
        call = self._read(endpoint, f"manifests/{name}", what, {"accept": _ACCEPTED})

        async def read(response: httpx2.Response) -> Digest | None:
            await read_body(response, 0, what, self._session.limits)
            if response.status_code == 404:
                raise NotFoundError(f"{what}: {host_of(response)} answers 404")
            named = response.headers.get("docker-content-digest")
            return _digest_of_header(named, what) if named else None

        head = replace(call, method="HEAD", scopes=scopes or call.scopes, expected=(200, 404))
        return await self._session.answer(endpoint, head, read)

    async def _referrers(
        self, endpoint: Endpoint, ref: Reference, digest: Digest, artifact_type: str
    ) -> list[Descriptor] | None:
        what = f"{ref}: referrers of {digest}"
        query = f"?{urlencode({'artifactType': artifact_type})}" if artifact_type else ""
        first = self._read(endpoint, f"referrers/{digest}{query}", what, {"accept": OCI_INDEX})
        call = replace(first, expected=(200, *NO_REFERRERS_API))
        found: list[Descriptor] = []
        async with aclosing(self._pages(endpoint, call, referrers_of)) as pages:
            async for page in pages:
                if page is None:
                    return None
                found += page
                if len(found) > MAX_REFERRERS:
                    raise LimitExceeded(f"{what}: more than {MAX_REFERRERS}")
        return found

    async def _manifest(self, endpoint: Endpoint, ref: Reference) -> FetchedManifest:
        name = endpoint.reference.digest or endpoint.reference.with_default_tag().tag
        what = f"{ref}: manifest"
        call = self._read(endpoint, f"manifests/{name}", what, {"accept": _ACCEPTED})

        async def read(response: httpx2.Response) -> FetchedManifest:
            raw = await read_body(response, MAX_DOCUMENT, what, self._session.limits)
            return _fetched(response, raw, endpoint.reference.digest, what)

        return await self._session.answer(endpoint, call, read)

    async def _document(
        self, endpoint: Endpoint, ref: Reference, wanted: Descriptor, child: bool
    ) -> bytes:
        kind = "manifests" if child or wanted.is_index or wanted.is_manifest else "blobs"
        what = f"{ref}: {wanted.digest}"
        headers = {"accept": _accepted(wanted)} if kind == "manifests" else {}
        call = self._read(endpoint, f"{kind}/{wanted.digest}", what, headers)

        async def read(response: httpx2.Response) -> bytes:
            return await read_body(response, wanted.size, what, self._session.limits)

        try:
            raw = await self._session.answer(endpoint, call, read)
        except LimitExceeded as error:
            raise SizeMismatch(what, wanted.size, wanted.size + 1, at_least=True) from error
        return wanted.verify(raw, what)

    async def _drop_upload(self, endpoint: Endpoint, ref: Reference, url: str) -> None:
        """Tell the registry to drop a session, which would expire anyway."""
        call = RegistryCall(
            "DELETE", url, str(ref), push_scopes(endpoint.repository), (204, 202, 200)
        )
        try:
            await self._session.answer(endpoint, call, _done)
        except (RegistryError, NotFoundError) as error:
            self._session.debug(f"  {error}")

    async def _tags(self, endpoint: Endpoint, ref: Reference) -> list[str]:
        what = f"{ref.name}: tags"
        first = self._read(endpoint, f"tags/list?n={_PAGE}", what, {})
        return await self._names(endpoint, first, "tags")

    async def _search_index(
        self, registry: str, term: str, limit: int
    ) -> list[SearchResult] | None:
        """Use docker's first search; return None if the registry does not have it."""
        host = _HUB_SEARCH if registry == DEFAULT_REGISTRY else registry
        endpoint = self._whole(host)
        query = urlencode({"q": term, "n": limit})
        call = RegistryCall("GET", f"/v1/search?{query}", f"{registry}: search")

        async def read(response: httpx2.Response) -> Any:
            raw = await read_body(response, MAX_DOCUMENT, call.what, self._session.limits)
            return _load(raw, call.what)

        try:
            document = await self._session.answer(endpoint, call, read)
        except (RegistryError, NotFoundError, FormatError) as error:
            if registry == DEFAULT_REGISTRY:
                raise
            self._session.debug(f"  {error}")
            return None
        return parse_results(document, registry)

    async def _search_catalog(self, registry: str, term: str) -> list[SearchResult]:
        call = RegistryCall("GET", f"/v2/_catalog?n={_PAGE}", f"{registry}: list of repositories")
        try:
            names = await self._names(self._whole(registry), call, "repositories")
        except (NotFoundError, NotAuthorized) as error:
            raise RegistryError(
                f"{registry}: offers neither a search nor a list of its repositories ({error})"
            ) from error
        return matching(names, term, registry)

    async def _names(self, endpoint: Endpoint, call: RegistryCall, key: str) -> list[str]:
        """Return a list that comes in pages."""
        limits = self._session.limits
        names: list[str] = []

        def parse(_response: httpx2.Response, raw: bytes, what: str) -> list[str]:
            return list(_strings(_load(raw, what), key, what))

        async with aclosing(self._pages(endpoint, call, parse)) as pages:
            async for page in pages:
                names += page
                if len(names) > limits.names:
                    raise LimitExceeded(f"{call.what}: more than {limits.names} names")
        return names

    async def _pages(
        self,
        endpoint: Endpoint,
        call: RegistryCall,
        parse: Callable[[httpx2.Response, bytes, str], T],
    ) -> AsyncGenerator[T, None]:
        """Yield the pages of a list, as ``parse`` returns them from an answer and its body."""
        limits = self._session.limits
        seen = {call.path}
        for _ in range(limits.pages):
            page, following = await self._page(endpoint, call, parse)
            yield page
            if following is None:
                return
            if following in seen:
                raise RegistryError(f"{call.what}: {endpoint.host} sends the same page again")
            seen.add(following)
            call = replace(call, path=following)
        raise LimitExceeded(f"{call.what}: more than {limits.pages} pages")

    async def _page(
        self,
        endpoint: Endpoint,
        call: RegistryCall,
        parse: Callable[[httpx2.Response, bytes, str], T],
    ) -> tuple[T, str | None]:
        async def read(response: httpx2.Response) -> tuple[T, str | None]:
            raw = await read_body(response, MAX_DOCUMENT, call.what, self._session.limits)
            link = next_link(response.headers.get_list("link"), f"{call.what}: {host_of(response)}")
            following = None
            if link is not None:
                following = self._session.url(endpoint, response, link)
            return parse(response, raw, call.what), following

        return await self._session.answer(endpoint, call, read)

    # Which endpoints.

    async def _anywhere(self, ref: Reference, ask: Callable[[Endpoint], Awaitable[T]]) -> T:
        """Return the answer of the first endpoint that has one; raise the error of the last."""
        endpoints = self._endpoints(ref)
        for endpoint in endpoints[:-1]:
            try:
                result = await ask(endpoint)
            except (RegistryError, NotFoundError, FormatError) as error:
                self._session.debug(f"  {endpoint.host}: {error}")
            else:
                self._preferred[ref.registry, ref.repository] = endpoint
                return result
        result = await ask(endpoints[-1])
        self._preferred.setdefault((ref.registry, ref.repository), endpoints[-1])
        return result

    def _endpoints(self, ref: Reference) -> list[Endpoint]:
        endpoints = self._registries.endpoints(ref)
        preferred = self._preferred.get((ref.registry, ref.repository))
        # The configuration for this tag or digest counts; only the order changes.
        return sorted(
            endpoints,
            key=lambda one: preferred is None or _place(one) != _place(preferred),
        )

    def _target(self, ref: Reference) -> Endpoint:
        return self._registries.endpoints(ref, push=True)[0]

    def _whole(self, registry: str) -> Endpoint:
        """Return the endpoint for requests without a repository."""
        try:
            Reference.parse(f"{registry}/x/y")
        except InvalidReference as error:
            raise InvalidReference(f"'{printable(registry[:200])}' is not a registry") from error
        return Endpoint(Reference(registry, ""), self._registries.is_insecure(registry))

    def _read(
        self, endpoint: Endpoint, path: str, what: str, headers: Mapping[str, str]
    ) -> RegistryCall:
        scopes = (f"repository:{endpoint.repository}:pull",)
        return RegistryCall(
            "GET", f"/v2/{endpoint.repository}/{path}", what, scopes, headers=headers
        )


def _accepted(wanted: Descriptor) -> str:
    """Return the accepted types: the known ones, and that of a descriptor."""
    known = _ACCEPTED.split(", ")
    if wanted.media_type in known or not _MEDIA_TYPE.fullmatch(wanted.media_type):
        return _ACCEPTED
    return ", ".join([*known, wanted.media_type])


def _silent(_line: str) -> None:
    """Ignore a line of debugging output."""


def _place(endpoint: Endpoint) -> tuple[str, str]:
    return endpoint.registry, endpoint.repository


async def _done(_response: httpx2.Response) -> None:
    """Ignore the body, as only the status matters."""


def _fetched(
    response: httpx2.Response, raw: bytes, wanted: Digest | None, what: str
) -> FetchedManifest:
    named = response.headers.get("docker-content-digest")
    said = _digest_of_header(named, what) if named else None
    expected = wanted or said
    digest = Digest.of(raw, expected.algorithm if expected is not None else "sha256")
    if expected is not None and digest != expected:
        raise DigestMismatch(what, str(expected), str(digest))
    if said is not None and Digest.of(raw, said.algorithm) != said:
        raise DigestMismatch(what, str(said), str(Digest.of(raw, said.algorithm)))
    media_type = response.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type not in _ACCEPTED.split(", "):
        media_type = Contents.parse(raw, what).media_type
    return FetchedManifest(raw, digest, media_type, etag_of(response))


def _digest_of_header(value: str, what: str) -> Digest:
    return Digest.parse(value, f"{what}: Docker-Content-Digest")


def _load(raw: bytes, what: str) -> Any:
    try:
        return json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{what}: the answer is not JSON") from error


def _strings(document: Any, key: str, what: str) -> Iterator[str]:
    """Yield the names of a page, which may be null."""
    values = document.get(key) if isinstance(document, dict) else ()
    if values is None:
        return
    if not isinstance(document, dict) or not isinstance(values, list):
        raise FormatError(f"{what}: the answer has no list '{key}'")
    for value in values:
        if not isinstance(value, str):
            raise FormatError(f"{what}: the list '{key}' has an element that is not a string")
        yield value
