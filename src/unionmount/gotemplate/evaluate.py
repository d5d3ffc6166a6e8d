"""The evaluation of a template: nodes and data to text.

It has the rules of Go's ``text/template/exec.go``, and its error messages. Steps, output and depth
are bounded: the template is the user's own, but its data may come from an image.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn

from unionmount.gotemplate.formatting import TooLong, show
from unionmount.gotemplate.functions import BUILTIN, FunctionError, FunctionOf
from unionmount.gotemplate.nodes import (
    Action,
    Body,
    Branch,
    Call,
    Chain,
    Command,
    Constant,
    Dot,
    Field,
    Function,
    Jump,
    Operand,
    Part,
    Pipeline,
    Text,
    Variable,
)
from unionmount.gotemplate.parser import Parsed, TemplateError
from unionmount.gotemplate.quoting import quote, to_bytes
from unionmount.gotemplate.values import (
    MISSING,
    Interface,
    Missing,
    Slice,
    Struct,
    bare,
    element,
    kind_of,
    truth,
    type_name,
)

_NOTHING = object()  # no value from the previous command
_MAX_DEPTH = 40  # of templates that call each other


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits of an evaluation."""

    steps: int = 1_000_000
    output: int = 64 * 1024 * 1024  # characters
    work: int = 256 * 1024 * 1024  # characters made by functions


class _Leave(Exception):
    """A ``break`` or ``continue``."""

    def __init__(self, word: str) -> None:
        super().__init__(word)
        self.word = word


@dataclass(slots=True)
class Machine:
    """One evaluation of a template."""

    parsed: Parsed
    functions: Mapping[str, FunctionOf]
    strict: bool = False  # whether a missing key is an error
    limits: Limits = field(default_factory=Limits)
    _name: str = ""
    _node: Any = None
    _variables: list[tuple[str, Any]] = field(default_factory=list)
    _depth: int = 0
    _steps: int = 0
    _size: int = 0
    _work: int = 0
    _written: list[str] = field(default_factory=list)

    def run(self, data: Any) -> str:
        """Return the output of the template for ``data``."""
        self._variables = [("$", data)]
        self._node = None
        try:
            self._body(data, self.parsed.main)
        except RecursionError:
            self._fail("nested too deeply")
        return "".join(self._written)

    # -- what goes wrong

    def _at(self, node: Any) -> None:
        self._node = node
        self._steps += 1
        if self._steps > self.limits.steps:
            self._fail(f"more than {self.limits.steps} steps")

    def _fail(self, problem: str) -> NoReturn:
        raise self._error(problem)

    def _error(self, problem: str) -> TemplateError:
        if self._node is None:
            return TemplateError(f"template: {self._name}: {problem}")
        before = self.parsed.text[: self._node.at]
        line = 1 + before.count("\n")
        column = len(to_bytes(before[before.rfind("\n") + 1 :]))
        where = f":{line}:{column}: executing {quote(self._name)} at <{self._node}>"
        return TemplateError(f"template: {where}: {problem}")

    def _write(self, text: str) -> None:
        self._size += len(text)
        if self._size > self.limits.output:
            self._fail(f"more than {self.limits.output} characters of output")
        self._written.append(text)

    # -- bodies

    def _body(self, dot: Any, body: Body) -> None:
        for part in body.parts:
            self._part(dot, part)

    def _part(self, dot: Any, part: Part) -> None:
        self._at(part)
        match part:
            case Text():
                self._write(part.text)
            case Action():
                value = self._pipeline(dot, part.pipeline)
                if not part.pipeline.declared:
                    self._at(part)
                    self._write("<no value>" if isinstance(value, Missing) else _shown(value))
            case Branch() if part.word == "range":
                self._range(dot, part)
            case Branch():
                self._branch(dot, part)
            case Call():
                self._call(dot, part)
            case Jump():
                raise _Leave(part.word)

    def _branch(self, dot: Any, branch: Branch) -> None:
        known = len(self._variables)
        value = self._pipeline(dot, branch.pipeline)
        if truth(value):
            self._body(value if branch.word == "with" else dot, branch.body)
        elif branch.otherwise is not None:
            self._body(dot, branch.otherwise)
        del self._variables[known:]

    def _range(self, dot: Any, branch: Branch) -> None:
        known = len(self._variables)
        value = bare(self._pipeline(dot, branch.pipeline))
        if len(branch.pipeline.declared) > 1 and kind_of(value) in ("int", "uint"):
            self._fail(f"can't use {show(value)} to iterate over more than one variable")
        items = self._items(value)
        try:
            ran = False
            for key, item in items:
                ran = True
                self._once(key, item, branch)
            if not ran and branch.otherwise is not None:
                self._body(dot, branch.otherwise)
        except _Leave as leave:
            if leave.word != "break":
                raise
        del self._variables[known:]

    def _items(self, value: Any) -> Iterable[tuple[Any, Any]]:
        match value:
            case Missing():
                return ()
            case bool():
                pass
            case int():
                return ((MISSING, number) for number in range(value))
            case list():
                return ((at, element(value, one)) for at, one in enumerate(value))
            case dict():
                keys = sorted(value, key=to_bytes)
                return ((key, element(value, value[key])) for key in keys)
        raise self._error(f"range can't iterate over {show(value)}")

    def _once(self, key: Any, item: Any, branch: Branch) -> None:
        self._at(branch)
        declared = branch.pipeline.declared
        known = len(self._variables)
        if declared and branch.pipeline.assigns:
            values = (key, item) if len(declared) > 1 else (item,)
            for variable, value in zip(declared, values, strict=True):
                self._set(variable.name, value)
        elif len(declared) == 1:
            self._variables[-1] = (declared[0].name, item)
        elif declared:
            self._variables[-1] = (declared[1].name, item)
            self._variables[-2] = (declared[0].name, key)
        try:
            self._body(item, branch.body)
        except _Leave as leave:
            if leave.word != "continue":
                raise
        finally:
            del self._variables[known:]

    def _call(self, dot: Any, call: Call) -> None:
        body = self.parsed.defined.get(call.name)
        if body is None:
            self._fail(f"template {quote(call.name)} not defined")
        if self._depth >= _MAX_DEPTH:
            self._fail(f"exceeded maximum template depth ({_MAX_DEPTH})")
        value = MISSING if call.pipeline is None else self._pipeline(dot, call.pipeline)
        outside = self._variables, self._name
        self._variables, self._name = [("$", value)], call.name
        self._depth += 1
        self._body(value, body)
        self._depth -= 1
        self._variables, self._name = outside

    # -- variables

    def _set(self, name: str, value: Any) -> None:
        for at in range(len(self._variables) - 1, -1, -1):
            if self._variables[at][0] == name:
                self._variables[at] = (name, value)
                return
        self._fail(f"undefined variable: {name}")

    def _variable(self, name: str) -> Any:
        for known, value in reversed(self._variables):
            if known == name:
                return value
        raise self._error(f"undefined variable: {name}")

    # -- pipelines

    def _pipeline(self, dot: Any, pipeline: Pipeline) -> Any:
        self._at(pipeline)
        value: Any = _NOTHING
        for command in pipeline.commands:
            value = self._command(dot, command, value)
            value = bare(value) if isinstance(value, Interface) else value
        for variable in pipeline.declared:
            if pipeline.assigns:
                self._set(variable.name, value)
            else:
                self._variables.append((variable.name, value))
        return value

    def _command(self, dot: Any, command: Command, last: Any) -> Any:
        first, more = command.arguments[0], command.arguments[1:]
        match first:
            case Function():
                return self._function(dot, first, more, last, command)
            case Field() | Chain() | Variable():
                return self._fields(dot, first, more, last)
            case Pipeline():
                self._no_arguments(first, more, last)
                return self._pipeline(dot, first)
        self._at(first)
        self._no_arguments(first, more, last)
        if isinstance(first, Dot):
            return dot
        if first.value is None:
            self._fail("nil is not a command")
        return first.value

    def _no_arguments(self, first: Operand, more: list[Operand], last: Any) -> None:
        if more or last is not _NOTHING:
            self._fail(f"can't give argument to non-function {first}")

    def _fields(
        self, dot: Any, node: Field | Chain | Variable, more: list[Operand], last: Any
    ) -> Any:
        self._at(node)
        match node:
            case Field():
                value = dot
            case Chain():
                value = self._chained(dot, node)
            case Variable():
                value = self._variable(node.name)
        if not node.names:
            self._no_arguments(node, more, last)
            return value
        for name in node.names[:-1]:
            value = self._field(value, name, has_arguments=False)
        has_arguments = bool(more) or last is not _NOTHING
        return self._field(value, node.names[-1], has_arguments=has_arguments)

    def _chained(self, dot: Any, node: Chain) -> Any:
        if isinstance(node.node, Constant) and node.node.value is None:
            self._fail(f"indirection through explicit nil in {node}")
        return self._operand(dot, node.node)

    def _field(self, receiver: Any, name: str, *, has_arguments: bool) -> Any:
        if isinstance(receiver, Missing):
            if self.strict:
                self._fail(f"nil data; no entry for key {quote(name)}")
            return MISSING
        holder = bare(receiver)
        if isinstance(holder, Missing):
            self._fail(f"nil pointer evaluating {type_name(receiver)}.{name}")
        if isinstance(holder, Struct):
            return self._struct_field(receiver, holder, name, has_arguments=has_arguments)
        if not isinstance(holder, dict):
            self._fail(f"can't evaluate field {name} in type {type_name(receiver)}")
        if has_arguments:
            self._fail(f"{name} is not a method but has arguments")
        if name in holder:
            return element(holder, holder[name])
        if self.strict:
            self._fail(f"map has no entry for key {quote(name)}")
        return MISSING

    def _struct_field(
        self, receiver: Any, holder: Struct, name: str, *, has_arguments: bool
    ) -> Any:
        value = holder.find(name)
        if isinstance(value, Missing):
            self._fail(f"can't evaluate field {name} in type {type_name(receiver)}")
        if has_arguments:
            self._fail(f"{name} has arguments but cannot be invoked as function")
        return value

    # -- functions

    def _function(
        self, dot: Any, node: Function, more: list[Operand], last: Any, whole: Any
    ) -> Any:
        self._at(node)
        function = self.functions.get(node.name) or BUILTIN.get(node.name)
        if function is None:
            self._fail(f"{quote(node.name)} is not a defined function")
        given = len(more) + (last is not _NOTHING)
        least = len(function.takes)
        if function.more is None and given != least:
            self._fail(f"wrong number of args for {node.name}: want {least} got {given}")
        if given < least:
            self._fail(
                f"wrong number of args for {node.name}: want at least {least} got {len(more)}"
            )
        if node.name in ("and", "or"):
            return self._and_or(dot, more, last, stops_at=node.name == "or")
        arguments = self._arguments(dot, function, more, last)
        if node.name == "call":
            arguments = [str(more[0]) if more else _string_of(last), *arguments]
        try:
            value = function.run(*arguments)
        except (FunctionError, TooLong) as error:
            self._at(whole)
            self._fail(f"error calling {node.name}: {error}")
        self._count(value)
        return value

    def _count(self, value: Any) -> None:
        """Count strings made by functions, which take time and memory even if not printed."""
        self._work += len(value) if isinstance(value, str | list) else 0
        if self._work > self.limits.work:
            self._fail(f"more than {self.limits.work} characters made")

    def _and_or(self, dot: Any, more: list[Operand], last: Any, *, stops_at: bool) -> Any:
        value: Any = MISSING
        for argument in more:
            value = self._argument(dot, argument, "reflect.Value")
            if truth(value) is stops_at:
                return value
        return value if last is _NOTHING else last

    def _arguments(self, dot: Any, function: FunctionOf, more: list[Operand], last: Any) -> Any:
        kinds = [*function.takes, *[function.more] * (len(more) + 1)]
        values = [
            self._argument(dot, node, str(kind)) for node, kind in zip(more, kinds, strict=False)
        ]
        if last is not _NOTHING:
            values.append(self._fitting(last, str(kinds[len(more)])))
        return values

    def _argument(self, dot: Any, node: Operand, kind: str) -> Any:
        """Return the value of an argument for a parameter of type ``kind``."""
        self._at(node)
        if not isinstance(node, Constant):
            return self._fitting(self._operand(dot, node), kind)
        if node.value is None:
            if kind in ("string", "int"):
                self._fail(f"cannot assign nil to {kind}")
            return MISSING if kind == "reflect.Value" else None
        return self._constant(node, kind)

    def _constant(self, node: Constant, kind: str) -> Any:
        value = node.value
        if kind == "string" and not isinstance(value, str):
            self._fail(f"expected string; found {node}")
        if kind == "int":
            if isinstance(value, float) and value.is_integer():
                return int(value)
            if not isinstance(value, int) or isinstance(value, bool):
                self._fail(f"expected integer; found {node}")
        if kind == "[]string":
            self._fail(f"can't handle {node} for arg of type {kind}")
        return value

    def _operand(self, dot: Any, node: Operand) -> Any:
        """Return the value of an operand that is not a command."""
        match node:
            case Dot():
                return dot
            case Pipeline():
                return self._pipeline(dot, node)
            case Function():
                return self._function(dot, node, [], _NOTHING, node)
            case Constant():
                return node.value
        return self._fields(dot, node, [], _NOTHING)

    def _fitting(self, value: Any, kind: str) -> Any:
        """Return a value converted for a parameter of type ``kind``."""
        if kind == "reflect.Value":
            return value
        inner = bare(value)
        if kind == "interface {}":
            return None if isinstance(inner, Missing) else inner
        if isinstance(value, Missing):
            if kind == "[]string":
                return Slice(nil=True)
            self._fail(f"invalid value; expected {kind}")
        wanted = {"string": "string", "int": "int", "[]string": "slice"}[kind]
        if kind_of(inner) != wanted or (kind == "int" and isinstance(inner, bool)):
            name = type_name(value if isinstance(inner, Missing) else inner)
            self._fail(f"wrong type for value; expected {kind}; got {name}")
        return inner


def _shown(value: Any) -> str:
    """Return the output of an action for a value: for a pointer, that of its target."""
    if isinstance(value, Struct) and value.pointer:
        return show(value)[1:]
    return show(value)


def _string_of(value: Any) -> str:
    """Return the result of Go's ``reflect.Value.String``."""
    return value if isinstance(value, str) else f"<{type_name(value)} Value>"
