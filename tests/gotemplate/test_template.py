"""Go templates: a table of what Go makes of them, and what is ours alone: limits and types."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unionmount.gotemplate import (
    Limits,
    Map,
    Slice,
    Struct,
    Template,
    TemplateError,
    from_json,
    plain,
    to_json,
)

TABLE = Path(__file__).parents[1] / "assets" / "templates" / "table.json"
# Every row was answered by Go 1.26's text/template (tests/oracle/template.go);
# test_template_oracle.py asks it again where there is a Go.
_TABLE: dict[str, Any] = json.loads(TABLE.read_text(encoding="utf-8"))


def outcome(template: str, data: Any, *, strict: bool = False) -> tuple[str, str]:
    """What a template prints, or why it does not."""
    try:
        return "output", Template(template).render(from_json(data), strict=strict)
    except TemplateError as error:
        return "error", str(error)


def test_the_table_is_long() -> None:
    assert len(_TABLE["rows"]) >= 250


@pytest.mark.parametrize("row", _TABLE["rows"], ids=lambda row: row["template"][:50])
def test_the_table(row: dict[str, str]) -> None:
    kind = "error" if "error" in row else "output"
    assert outcome(row["template"], _TABLE["data"][row["data"]]) == (kind, row[kind])


def test_errors_are_one_line() -> None:
    for row in _TABLE["rows"]:
        if "error" in row and "\n" not in row["template"]:
            assert "\n" not in row["error"]


# ---- limits --------------------------------------------------------------------------------------

_NESTED = "{{$x := .l}}" + "{{range $x}}" * 9 + "x" + "{{end}}" * 9
_BOMBS = {
    "steps": (_NESTED, {"l": list(range(100))}),
    "a number": ("{{range 99999999999}}{{end}}", {}),
    "output": ('{{range 100}}{{printf "%900000d" 1}}{{end}}', {}),
    "padding": ('{{pad "x" 999999999 1}}', {}),
    "widths": ('{{$x := "x"}}{{range 40}}{{$x = print $x $x}}{{end}}{{len $x}}', {}),
    "repeated": ('{{$x := printf "%900000d" 1}}{{printf "' + "%[1]s" * 9000 + '" $x}}', {}),
    "joined": ('{{$x := printf "%900000d" 1}}{{join (split $x "") $x}}', {}),
    "made": ('{{range 100000}}{{$x := printf "%900000d" 1}}{{end}}', {}),
    "itself": ('{{define "T"}}{{template "T" .}}{{end}}{{template "T" .}}', {}),
    "each other": (
        '{{define "A"}}{{template "B" .}}{{end}}{{define "B"}}{{template "A" .}}{{end}}'
        '{{template "A" .}}',
        {},
    ),
    "parentheses": ("{{" + "(" * 5000 + "1" + ")" * 5000 + "}}", {}),
    "blocks": ("{{if 1}}" * 5000 + "{{end}}" * 5000, {}),
    "else if": ("{{if 0}}" + "{{else if 0}}" * 5000 + "{{end}}", {}),
    "pipes": ("{{1" + " | print" * 9000 + "}}", {}),
    "text": ("x" * 1_000_000, {}),
}


@pytest.mark.parametrize("name", _BOMBS)
def test_a_bomb_is_an_error_or_cheap(name: str) -> None:
    text, data = _BOMBS[name]
    start = time.process_time()
    kind, result = outcome(text, data)
    assert time.process_time() - start < 10
    if kind == "error":
        assert result.startswith("template: ")
        assert len(result) < 2**20
    else:
        assert name == "pipes"


def test_limits_are_named() -> None:
    with pytest.raises(TemplateError, match="more than 50 steps"):
        Template("{{range 100}}{{.}}{{end}}").render({}, limits=Limits(steps=50))
    with pytest.raises(TemplateError, match="more than 5 characters of output"):
        Template("{{range 100}}x{{end}}").render({}, limits=Limits(output=5))


def test_data_that_is_nested_deeply() -> None:
    value: Any = "x"
    for _ in range(500):
        value = [{"a": value}]
    assert outcome("{{.}}", value)[0] == "output"
    assert outcome("{{json .}}", value)[0] == "output"


@given(st.text(alphabet="{}.$|()\"`'-:= \nabceifndrglwth/*1,", max_size=60))
def test_no_text_breaks_the_parser(text: str) -> None:
    kind, _ = outcome(text, {"a": "b"})
    assert kind in ("output", "error")


# ---- values with a type of their own -------------------------------------------------------------

_PORT = Struct("struct {}", {})
_CONFIG = Struct(
    "container.Config",
    {
        "Env": Slice(["A=b"]),
        "Cmd": Slice(nil=True),
        "Ports": Map({"80/tcp": _PORT}, zero=_PORT, of="map[nat.Port]struct {}"),
        "Labels": Map(nil=True),
        "Health": None,
        "Signal": "",
    },
    omit_empty=frozenset({"Health", "Signal"}),
    pointer=True,
)
_IMAGE = Struct("image.InspectResponse", {"Id": "x", "Config": _CONFIG}, {"ID": "Id"})


# The outputs are those of the docker CLI 28.2.2 for an image with such a config.
@pytest.mark.parametrize(
    ("template", "output"),
    [
        ("{{.Id}}{{.ID}}", "xx"),
        ("{{.Config.Env}}{{.Config.Cmd}}", "[A=b][]"),
        ("{{.Config.Ports}}{{.Config.Labels}}", "map[80/tcp:{}]map[]"),
        ("{{json .Config.Ports}}{{json .Config.Cmd}}", '{"80/tcp":{}}null'),
        ('{{index .Config.Labels "none"}}|', "|"),
        ("{{.Config.Health}}", "<nil>"),
        ('{{join .Config.Env ","}}', "A=b"),
        ("{{range $k, $v := .Config.Ports}}{{$k}}{{$v}}{{end}}", "80/tcp{}"),
        ("{{json .Config}}", '{"Env":["A=b"],"Cmd":null,"Ports":{"80/tcp":{}},"Labels":null}'),
    ],
)
def test_types_of_docker(template: str, output: str) -> None:
    assert Template(template).render(_IMAGE) == output


@pytest.mark.parametrize(
    ("template", "problem"),
    [
        ("{{.Foo}}", "can't evaluate field Foo in type image.InspectResponse"),
        ("{{.Config.Foo}}", "can't evaluate field Foo in type *container.Config"),
        ("{{.Config.Health.Test}}", "nil pointer evaluating interface {}.Test"),
        ('{{join .Id ","}}', "wrong type for value; expected []string; got string"),
        ("{{.Id 1}}", "Id has arguments but cannot be invoked as function"),
    ],
)
def test_errors_of_types(template: str, problem: str) -> None:
    with pytest.raises(TemplateError) as caught:
        Template(template).render(_IMAGE)
    assert str(caught.value).endswith(problem)


def test_json_of_a_line_escapes_html() -> None:
    """As docker's own: a line of its lists is marshalled twice."""
    line = Struct("x", {"ID": "<none> & more"}, escapes_html=True)
    assert to_json(line) == r'{"ID":"\u003cnone\u003e \u0026 more"}'
    assert to_json({"a": "<&>"}) == '{"a":"<&>"}'


def test_plain_values_keep_their_order() -> None:
    assert list(plain(_IMAGE)["Config"]) == ["Env", "Cmd", "Ports", "Labels"]


def test_the_head_of_a_table_is_left_alone() -> None:
    template = Template("{{upper .ID}}\t{{json .Size}}\t{{truncate .ID 2}}\t{{pad .ID 1 1}}")
    assert template.render_head({"ID": "Id", "Size": "Size"}) == "Id\tSize\tId\t Id "
