"""Go templates: what people have in their scripts for ``docker … --format``.

A template is text with actions in ``{{ }}``. This is the language of Go's ``text/template`` with
the functions that docker adds; docs/reference/templates.md tells what is supported and what is
different. A module for each step: ``lexer`` (words), ``parser`` (grammar) to ``nodes``, ``machine``
(carrying it out) with ``functions``, ``values`` and ``printing``.
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
    """A template that was read; raise TemplateError if the text is none."""

    def __init__(self, text: str) -> None:
        self._parsed: Parsed = parse(text, frozenset({*BUILTIN, *DOCKER}))

    def render(self, data: Any, *, strict: bool = False, limits: Limits | None = None) -> str:
        """What it prints of ``data``; with ``strict`` a key that is not there is an error."""
        return self._run(DOCKER, data, strict=strict, limits=limits or Limits())

    def render_head(self, data: Mapping[str, str]) -> str:
        """What it prints for the head of a table: functions leave the names of columns alone."""
        return self._run(HEADER, dict(data), strict=False, limits=Limits())

    def _run(
        self, functions: Mapping[str, FunctionOf], data: Any, *, strict: bool, limits: Limits
    ) -> str:
        return Machine(self._parsed, functions, strict, limits).run(data)
