"""The same templates given to Go and to us: the same output, or the same complaint.

Go's text/template runs in tests/oracle/template.go. Left out is what docs/reference/templates.md
says is different: complex numbers, %p, and the limits.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from gotemplate.test_template import _TABLE, outcome
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from support.goprogram import Oracle, build

from unionmount.cli.output import aligned
from unionmount.gotemplate import Template, TemplateError, from_json

pytestmark = [pytest.mark.needs("go"), pytest.mark.slow]


@pytest.fixture(scope="module")
def oracle(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Oracle]:
    with Oracle(build(tmp_path_factory.mktemp("oracle"))) as running:
        yield running


def test_the_table_is_what_go_says(oracle: Oracle) -> None:
    for row in _TABLE["rows"]:
        kind, text = oracle.render(row["template"], _TABLE["data"][row["data"]])
        assert (kind, text) == (kind, row.get(kind)), row["template"]


# ---- templates that mean something ---------------------------------------------------------------

_VALUES = {**_TABLE["data"]["values"], "Env": ["PATH=/bin:/usr/bin", "A=b c"]}
_OPERANDS = (
    *(".s", ".e", ".i", ".n", ".z", ".f", ".t", ".nil", ".l", ".w", ".m", ".el", ".em", ".h"),
    *(".c", ".u", ".Env", ".m.a", ".m.a.c", ".m.z", ".missing", ".missing.x", ".", "$", "$.i"),
    *('"lit"', "`raw`", '"%v"', "1", "-3", "2.5", "1e3", "0x1f", "'q'", "true", "nil"),
    *("$x", "(index .l 0)", "(index .w 1)", "(len .s)", "(.m).a", '(index .m "b")'),
)
_VERBS = (
    *(
        "v",
        "s",
        "d",
        "q",
        "x",
        "X",
        "T",
        "t",
        "f",
        "e",
        "g",
        "c",
        "U",
        "o",
        "b",
        "E",
        "G",
        "z",
        "%",
    ),
    *("+v", "#v", "5d", "-5d", "05d", "5s", "-5s", ".2s", "5.1f", "08.3f", "+d", " d", "+q", "#q"),
    *("*d", "[2]v", "[1]s", "6.2v", ".0f", "05s", ".3d", "+.2e", "O", "#U", "!", "z"),
    *("[9]d", "[x]d"),
)
_FUNCTIONS = {
    "index": 2,
    "slice": 2,
    "len": 1,
    "eq": 2,
    "ne": 2,
    "lt": 2,
    "le": 2,
    "gt": 2,
    "ge": 2,
    "and": 2,
    "or": 2,
    "not": 1,
    "print": 2,
    "println": 1,
    "html": 1,
    "js": 1,
    "urlquery": 1,
    "json": 1,
    "join": 2,
    "title": 1,
    "upper": 1,
    "lower": 1,
    "split": 2,
    "pad": 3,
    "truncate": 2,
    "call": 1,
}
_operands = st.sampled_from(_OPERANDS)
_formats = st.lists(
    st.sampled_from([*(f"%{verb}" for verb in _VERBS), "a", " ", "é"]), min_size=1, max_size=4
).map(lambda parts: '"' + "".join(parts) + '"')


@st.composite
def _command(draw: st.DrawFn, inner: st.SearchStrategy[str]) -> str:
    """A function with about as many arguments as it takes, most of the time."""
    name = draw(st.sampled_from(["printf", *_FUNCTIONS]))
    operand = st.one_of(_operands, inner.map("({})".format))
    if name == "printf":
        values = draw(st.lists(operand, max_size=3))
        return " ".join(["printf", draw(_formats), *values])
    count = max(0, _FUNCTIONS[name] + draw(st.sampled_from([0, 0, 0, 0, -1, 1])))
    return " ".join([name, *(draw(operand) for _ in range(count))])


_pipelines = st.recursive(
    _operands,
    lambda inner: st.one_of(
        _command(inner),
        st.tuples(inner, _command(inner)).map(" | ".join),
        inner.map("({})".format),
    ),
    max_leaves=6,
)
_open = st.sampled_from(["{{", "{{- "])
_close = st.sampled_from(["}}", " -}}"])


@st.composite
def _block(draw: st.DrawFn, inner: st.SearchStrategy[str]) -> str:
    word = draw(
        st.sampled_from(
            ["if", "with", "range", "range $x :=", "range $i, $x :=", "with $x :=", "if $x :="]
        )
    )
    jump = st.sampled_from(["", "", "{{break}}", "{{continue}}"])
    body = draw(inner) + (draw(jump) if word.startswith("range") else "")
    otherwise = draw(
        st.one_of(
            st.just(""),
            inner.map("{{{{else}}}}{}".format),
            st.tuples(_pipelines, inner).map(lambda two: f"{{{{else if {two[0]}}}}}{two[1]}"),
        )
    )
    head = f"{draw(_open)}{word} {draw(_pipelines)}{draw(_close)}"
    return f"{head}{body}{otherwise}{draw(_open)}end{draw(_close)}"


_bodies = st.recursive(
    st.one_of(
        st.sampled_from(["text", " \n ", "x", "{{/* c */}}", "é"]),
        st.tuples(_open, _pipelines, _close).map("".join),
        _pipelines.map("{{{{$x = {}}}}}".format),
        _pipelines.map("{{{{$x := {}}}}}".format),
    ),
    lambda inner: st.one_of(
        st.lists(inner, min_size=1, max_size=3).map("".join),
        _block(inner),
        st.tuples(inner, _pipelines).map(
            lambda two: f'{{{{define "T"}}}}{two[0]}{{{{end}}}}{{{{template "T" {two[1]}}}}}'
        ),
        st.tuples(_pipelines, inner).map(
            lambda two: f'{{{{block "B" {two[0]}}}}}{two[1]}{{{{end}}}}'
        ),
    ),
    max_leaves=6,
)

_MANY = settings(max_examples=150, suppress_health_check=list(HealthCheck))


@_MANY
@given(body=_bodies, strict=st.booleans())
def test_what_go_does(oracle: Oracle, body: str, strict: bool) -> None:
    template = "{{$x := .s}}" + body
    ours = outcome(template, _VALUES, strict=strict)
    # the limits are ours
    assume("steps" not in ours[1] and "template depth" not in ours[1])
    theirs = oracle.render(template, _VALUES, strict=strict)
    if ours[0] == theirs[0] == "error" and "[]string" in ours[1]:
        return  # docker's join and the oracle's refuse other types with other words
    assert ours == theirs


# characters that both know: the Unicode of this Python may be older than Go's
_texts = st.text(st.characters(codec="utf-8", exclude_categories=("Cn", "Cs", "Co")), max_size=12)
_json_values = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-(2**63), 2**63 - 1),
        st.floats(allow_nan=False, allow_infinity=False),
        _texts,
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(_texts, inner, max_size=4)
    ),
    max_leaves=8,
)
_SHOWN = (
    *("{{.v}}", "{{json .v}}", "{{print .v .v}}", "{{println .v}}", "{{len .v}}", "{{not .v}}"),
    *('{{printf "%v|%+v|%s|%d|%q|%T" .v .v .v .v .v .v}}', '{{printf "%8.3v|%-8v|" .v .v}}'),
    *(
        '{{printf "%#v" .v}}',
        '{{printf "%g %e %.3f %6.1f %#g %#.3e %#x" .v .v .v .v .v .v .v}}',
        "{{html .v}}",
    ),
    *("{{js .v}}", "{{urlquery .v}}", "{{range .v}}{{.}},{{else}}none{{end}}", "{{eq .v .v}}"),
    *("{{range $k, $x := .v}}{{$k}}:{{$x}} {{end}}", '{{printf "%X %+q %#q" .v .v .v}}'),
    *("{{title .v}}", "{{upper .v}}", "{{lower .v}}", "{{truncate .v 3}}", "{{slice .v 1}}"),
)


@_MANY
@given(value=_json_values, template=st.sampled_from(_SHOWN))
def test_how_go_prints_values(oracle: Oracle, value: Any, template: str) -> None:
    assume(not (isinstance(value, int) and abs(value) > 10_000 and "range" in template))
    data = {"v": value}
    assert outcome(template, data) == oracle.render(template, data)


_GRID_FLAGS = ("", "#", "+", "-8", "08", " ", "8.3", ".0", "#8", "+.2", "-08.1", "# ")
_GRID_VALUES = (
    *(0.0, 1.5, -2.75, 1e300, 5e-324, 12345.678, 5, -5, 0, 2**62, "a b", "é", "", True, None),
    *(["a", 1, None], {"k": 1.5}),
)


def test_every_verb_with_flags_and_values(oracle: Oracle) -> None:
    for verb in "bcdeEfFgGoOqstTuUvxXz":
        template = "".join(f'{{{{printf "[%{flags}{verb}]" .v}}}}' for flags in _GRID_FLAGS)
        for value in _GRID_VALUES:
            data = {"v": value}
            assert outcome(template, data) == oracle.render(template, data), (verb, value)


@settings(max_examples=150)
@given(text=st.text(alphabet="{}.$|()\"`'-:= \nabceifndrglwth/*1,\\", max_size=40))
def test_what_go_takes_for_a_template(oracle: Oracle, text: str) -> None:
    """Any text: both read it, or both refuse it with the same words."""
    text = "{{" + text
    assume("i" not in text.replace("if", "").replace("with", "") or "1" not in text)  # 1i
    assert outcome(text, {}) == oracle.render(text, {})


_cells = st.text(st.sampled_from("abé…- "), max_size=14)


@settings(max_examples=100)
@given(rows=st.lists(st.lists(_cells, min_size=1, max_size=5), min_size=1, max_size=6))
def test_tables_are_aligned_as_go_does(oracle: Oracle, rows: list[list[str]]) -> None:
    text = "".join("\t".join(row) + "\n" for row in rows)
    assert "".join(f"{line}\n" for line in aligned(rows)) == oracle.align(text)


def test_the_data_is_what_it_seems() -> None:
    with pytest.raises(TemplateError):
        Template("{{.x.y}}").render(from_json({"x": None}))
