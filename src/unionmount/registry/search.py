"""The search for images by a word: Docker Hub's search, or a registry's list of repositories."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class SearchResult:
    """An image that was found; a registry that only lists repositories gives only its name."""

    name: str
    description: str = ""
    stars: int = 0
    official: bool = False


def parse_results(document: Any, registry: str) -> list[SearchResult] | None:
    """Parse an answer of Docker Hub's search; return None if it is something else."""
    results = document.get("results") if isinstance(document, dict) else None
    if not isinstance(results, list):
        return None
    return [
        result
        for one in results
        if isinstance(one, dict) and (result := _result(one, registry)) is not None
    ]


def _result(one: dict[str, Any], registry: str) -> SearchResult | None:
    name, description, stars = one.get("name"), one.get("description"), one.get("star_count")
    if not isinstance(name, str) or not name:
        return None
    return SearchResult(
        f"{registry}/{name}",
        description if isinstance(description, str) else "",
        stars if isinstance(stars, int) else 0,
        one.get("is_official") is True,
    )


def matching(names: Iterable[str], term: str, registry: str) -> list[SearchResult]:
    """Return the repositories whose names contain a word."""
    return [SearchResult(f"{registry}/{name}") for name in names if term.lower() in name.lower()]
