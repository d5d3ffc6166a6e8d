"""Go templates, as scripts use them with ``docker … --format``.

A template is text with actions in ``{{ }}``. This is the language of Go's ``text/template`` with
the functions that docker adds; docs/reference/templates.md lists what is supported and what
differs. Each step is a module: ``lexer`` (words), ``parser`` (grammar) to ``nodes``, and
``evaluate`` with ``functions``, ``values`` and ``formatting``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from unionmount.gotemplate.evaluate import Limits, Machine
from unionmount.gotemplate.formatting import json_fields, plain, to_json
from unionmount.gotemplate.functions import BUILTIN, DOCKER, HEADER, FunctionOf
from unionmount.gotemplate.parser import Parsed, TemplateError, parse
from unionmount.gotemplate.values import Duration, Map, Slice, Struct, Time, from_json

__all__ = [
    "Duration",
    "Limits",
    "Map",
    "Slice",
    "Struct",
    "Template",
    "TemplateError",
    "Time",
    "from_json",
    "json_fields",
    "plain",
    "to_json",
]


class Template:
    """A parsed template; creating one raises TemplateError if the text is not valid."""

    def __init__(self, text: str) -> None:
        self._parsed: Parsed = parse(text, frozenset({*BUILTIN, *DOCKER}))

    def render(self, data: Any, *, strict: bool = False, limits: Limits | None = None) -> str:
        """Render the template for ``data``; with ``strict``, a missing key is an error."""
        return self._run(DOCKER, data, strict=strict, limits=limits or Limits())

    def render_head(self, data: Mapping[str, str]) -> str:
        """Render the heading of a table, in which functions do not change the names of columns."""
        return self._run(HEADER, dict(data), strict=False, limits=Limits())

    def _run(
        self, functions: Mapping[str, FunctionOf], data: Any, *, strict: bool, limits: Limits
    ) -> str:
        return Machine(self._parsed, functions, strict, limits).run(data)
