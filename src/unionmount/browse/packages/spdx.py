"""Documents of SPDX 2.3 in JSON (ISO/IEC 5962)."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any
from uuid import NAMESPACE_URL, uuid5

from unionmount.browse.packages.licenses import OtherLicenses, spdx_license
from unionmount.browse.packages.purl import purl_of
from unionmount.system.text import printable
from unionmount.version import VERSION

if TYPE_CHECKING:
    from unionmount.browse.packages.model import Catalogue, FoundPackage
    from unionmount.browse.packages.subject import Subject

_NO_ID = re.compile(r"[^A-Za-z0-9.-]+")
_ROOT = "SPDXRef-Image"
_UNKNOWN = "NOASSERTION"


def spdx_document(subject: Subject, catalogue: Catalogue) -> dict[str, Any]:
    """Return the document of an image; the same image and time give the same bytes."""
    others = OtherLicenses()
    packages = [
        _package(number, found, catalogue, others)
        for number, found in enumerate(catalogue.packages, 1)
    ]
    contains = [
        {
            "spdxElementId": _ROOT,
            "relationshipType": "CONTAINS",
            "relatedSpdxElement": package["SPDXID"],
        }
        for package in packages
    ]
    describes = {
        "spdxElementId": "SPDXRef-DOCUMENT",
        "relationshipType": "DESCRIBES",
        "relatedSpdxElement": _ROOT,
    }
    document: dict[str, Any] = {
        "spdxVersion": "SPDX-2.3",
        "dataLicense": "CC0-1.0",
        "SPDXID": "SPDXRef-DOCUMENT",
        "name": subject.name,
        "documentNamespace": f"urn:uuid:{uuid5(NAMESPACE_URL, f'spdx {subject.identity}')}",
        "creationInfo": {
            "created": subject.created,
            "creators": [f"Tool: unionmount-{VERSION}"],
        },
        "packages": [_image(subject), *packages],
        "relationships": [describes, *contains],
    }
    if others.names:
        document["hasExtractedLicensingInfos"] = [
            {"licenseId": identifier, "name": text, "extractedText": text}
            for identifier, text in others.names.items()
        ]
    return document


def _image(subject: Subject) -> dict[str, Any]:
    return {
        "SPDXID": _ROOT,
        "name": subject.name,
        "versionInfo": str(subject.image_id),
        "downloadLocation": _UNKNOWN,
        "filesAnalyzed": False,
        "licenseConcluded": _UNKNOWN,
        "licenseDeclared": _UNKNOWN,
        "copyrightText": _UNKNOWN,
        "primaryPackagePurpose": "CONTAINER",
    }


def _package(
    number: int, found: FoundPackage, catalogue: Catalogue, others: OtherLicenses
) -> dict[str, Any]:
    package = found.package
    name = _NO_ID.sub("-", package.name).strip("-")[:64]
    return {
        "SPDXID": f"SPDXRef-Package-{number}-{package.kind}-{name}".rstrip("-"),
        "name": package.name,
        "versionInfo": package.version,
        "downloadLocation": _UNKNOWN,
        "filesAnalyzed": False,
        "sourceInfo": _source_info(found),
        "licenseConcluded": _UNKNOWN,
        "licenseDeclared": spdx_license(package.license, others),
        "copyrightText": _UNKNOWN,
        "externalRefs": [
            {
                "referenceCategory": "PACKAGE-MANAGER",
                "referenceType": "purl",
                "referenceLocator": purl_of(package, catalogue.distribution),
            }
        ],
    }


def _source_info(found: FoundPackage) -> str:
    package = found.package
    built = f"built from source package {package.source} {package.source_version}".rstrip()
    layer = f"layer {found.layer} ({found.diff_id})" if found.diff_id else "the container"
    where = f"listed in /{printable(found.path)}, brought by {layer}"
    return f"{built}; {where}" if package.source else where
