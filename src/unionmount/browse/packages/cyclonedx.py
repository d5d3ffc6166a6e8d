"""Documents of CycloneDX 1.5 in JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from uuid import NAMESPACE_URL, uuid5

from unionmount.browse.packages.licenses import spdx_expression
from unionmount.browse.packages.purl import purl_of
from unionmount.browse.packages.spdx_ids import LICENSES
from unionmount.system.text import printable
from unionmount.version import VERSION

if TYPE_CHECKING:
    from unionmount.browse.packages.model import Catalogue, Distribution, FoundPackage, Package
    from unionmount.browse.packages.subject import Subject

_ROOT = "image"


def cyclonedx_document(subject: Subject, catalogue: Catalogue) -> dict[str, Any]:
    """Return the document of an image; the same image and time give the same bytes."""
    components = [
        _component(number, found, catalogue.distribution)
        for number, found in enumerate(catalogue.packages, 1)
    ]
    system = _system(catalogue.distribution)
    parts = [*system, *components]
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.5.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "serialNumber": f"urn:uuid:{uuid5(NAMESPACE_URL, f'cyclonedx {subject.identity}')}",
        "version": 1,
        "metadata": {
            "timestamp": subject.created,
            "tools": {
                "components": [{"type": "application", "name": "unionmount", "version": VERSION}]
            },
            "component": _image(subject),
        },
        "components": parts,
        "dependencies": [{"ref": _ROOT, "dependsOn": [part["bom-ref"] for part in parts]}],
    }


def _image(subject: Subject) -> dict[str, Any]:
    return {
        "type": "container",
        "bom-ref": _ROOT,
        "name": subject.name,
        "version": str(subject.image_id),
        "properties": [
            {"name": f"unionmount:layer:{number}", "value": str(diff_id)}
            for number, diff_id in enumerate(subject.diff_ids)
        ],
    }


def _system(distribution: Distribution) -> list[dict[str, Any]]:
    if not distribution.id:
        return []
    system: dict[str, Any] = {
        "type": "operating-system",
        "bom-ref": "distribution",
        "name": distribution.id,
    }
    if distribution.version:
        system["version"] = distribution.version
    if distribution.name:
        system["description"] = distribution.name
    return [system]


def _component(number: int, found: FoundPackage, distribution: Distribution) -> dict[str, Any]:
    package = found.package
    component: dict[str, Any] = {
        "type": "library",
        "bom-ref": f"package-{number}",
        "name": package.name,
        "version": package.version,
    }
    if package.license:
        component["licenses"] = [_license(package)]
    component["purl"] = purl_of(package, distribution)
    properties = {
        "unionmount:kind": package.kind,
        "unionmount:architecture": package.architecture,
        "unionmount:source": package.source,
        "unionmount:source:version": package.source_version,
        "unionmount:path": f"/{printable(found.path)}",
        "unionmount:layer": str(found.layer) if found.diff_id else "container",
        "unionmount:layer:diff_id": str(found.diff_id or ""),
    }
    component["properties"] = [
        {"name": name, "value": value} for name, value in properties.items() if value
    ]
    return component


def _license(package: Package) -> dict[str, Any]:
    expression = spdx_expression(package.license)
    if expression is None:
        return {"license": {"name": package.license}}
    if expression in LICENSES:
        return {"license": {"id": expression}}
    return {"expression": expression}
