"""The parser of templates: text to nodes.

It has the grammar of Go's ``text/template/parse/parse.go``, and its error messages. Nesting is
bounded, since nodes are evaluated recursively.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import NoReturn

from unionmount.errors import UnionmountError
from unionmount.gotemplate.lexer import Token, tokens
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
    is_empty,
)
from unionmount.gotemplate.quoting import quote, unquote, unquote_rune

MAX_TEXT = 64 * 1024  # the limit for a template, in characters
_MAX_NESTING = 48
_OPERANDS = frozenset(
    {
        *("bool", "rune", "complex", "dot", "field", "identifier", "number", "nil", "raw"),
        *("string", "variable", "("),
    }
)


class TemplateError(UnionmountError):
    """A template cannot be parsed, or not evaluated for the data; the words are Go's."""


@dataclass(frozen=True, slots=True)
class Parsed:
    """A parsed template: its body, and the bodies that it defines by name."""

    text: str
    main: Body
    defined: dict[str, Body] = field(default_factory=dict)


def parse(text: str, functions: frozenset[str]) -> Parsed:
    """Parse a template that may use ``functions``; raise TemplateError if it is not valid."""
    if len(text) > MAX_TEXT:
        raise TemplateError(f"template: :1: a template of {len(text)} characters is too long")
    return _TemplateParser(text, functions).parse()


@dataclass(frozen=True, slots=True)
class _Mark:
    """The end of a body: ``{{end}}`` or ``{{else}}``."""

    word: str

    def __str__(self) -> str:
        return f"{{{{{self.word}}}}}"


class _TemplateParser:
    """The words of a template, and the state of the parser."""

    def __init__(self, text: str, functions: frozenset[str]) -> None:
        self._text = text
        self._functions = functions
        self._tokens = tokens(text)
        self._pending: list[Token] = []  # read ahead, the next one last
        self._line = 1
        self._action_line = 0
        self._variables = ["$"]
        self._ranges = 0
        self._nesting = 0
        self._defined: dict[str, Body] = {}

    # -- words

    def _next(self) -> Token:
        if self._pending:
            return self._pending.pop()
        token = next(self._tokens)
        self._line = token.line
        return token

    def _back(self, *read: Token) -> None:
        """Put back words that were read in this order."""
        self._pending.extend(reversed(read))

    def _peek(self) -> Token:
        token = self._next()
        self._back(token)
        return token

    def _next_word(self) -> Token:
        token = self._next()
        while token.kind == "space":
            token = self._next()
        return token

    def _peek_word(self) -> Token:
        token = self._next_word()
        self._back(token)
        return token

    def _fail(self, problem: str) -> NoReturn:
        raise self._error(problem)

    def _error(self, problem: str) -> TemplateError:
        return TemplateError(f"template: :{self._line}: {problem}")

    def _unexpected(self, token: Token, context: str) -> NoReturn:
        if token.kind != "error":
            self._fail(f"unexpected {token} in {context}")
        extra = ""
        if self._action_line not in (0, token.line):
            extra = f" in action started at :{self._action_line}"
            if token.text.endswith(" action"):
                extra = extra.removeprefix(" in action")
        self._fail(f"{token}{extra}")

    def _expect(self, kind: str, context: str) -> Token:
        token = self._next_word()
        if token.kind != kind:
            self._unexpected(token, context)
        return token

    @contextmanager
    def _nested(self) -> Iterator[None]:
        self._nesting += 1
        if self._nesting > _MAX_NESTING:
            self._fail("max expression depth exceeded")
        yield
        self._nesting -= 1

    # -- bodies

    def parse(self) -> Parsed:
        """Parse the whole text."""
        main = Body(0)
        while self._peek().kind != "EOF":
            if self._definition():
                continue
            part = self._part()
            if isinstance(part, _Mark):
                self._fail(f"unexpected {part}")
            main.parts.append(part)
        return Parsed(self._text, main, self._defined)

    def _definition(self) -> bool:
        """Parse ``{{define "name"}}…{{end}}`` if it comes next."""
        if self._peek().kind != "left":
            return False
        left = self._next()
        word = self._next_word()
        if word.kind != "define":
            self._back(left, word)
            return False
        name = self._template_name(self._next_word(), "define clause")
        self._expect("right", "define clause")
        self._define(name, "define clause")
        return True

    def _define(self, name: str, context: str) -> None:
        """Parse the body of a separate template, whose only variable is ``$``."""
        outside = self._variables, self._ranges
        self._variables, self._ranges = ["$"], 0
        body, end = self._body()
        self._variables, self._ranges = outside
        if end.word != "end":
            self._fail(f"unexpected {end} in {context}")
        old = self._defined.get(name)
        if old is None or is_empty(old):
            self._defined[name] = body
        elif not is_empty(body):
            self._fail(f"template: multiple definition of template {quote(name)}")

    def _body(self) -> tuple[Body, _Mark]:
        body = Body(self._peek_word().at)
        with self._nested():
            while self._peek_word().kind != "EOF":
                part = self._part()
                if isinstance(part, _Mark):
                    return body, part
                body.parts.append(part)
        raise self._error("unexpected EOF")

    def _part(self) -> Part | _Mark:
        token = self._next_word()
        if token.kind == "text":
            return Text(token.at, token.text)
        if token.kind != "left":
            self._unexpected(token, "input")
        self._action_line = token.line
        part = self._action()
        self._action_line = 0
        return part

    def _action(self) -> Part | _Mark:
        token = self._next_word()
        if token.kind in ("if", "with", "range"):
            return self._branch(token.kind)
        match token.kind:
            case "block":
                return self._block()
            case "break" | "continue":
                return self._jump(token)
            case "else":
                return self._else()
            case "end":
                self._expect("right", "end")
                return _Mark("end")
            case "template":
                return self._call()
        self._back(token)
        return Action(token.at, self._pipeline("command", "right"))

    def _jump(self, token: Token) -> Jump:
        after = self._next_word()
        if after.kind != "right":
            self._unexpected(after, f"{{{{{token.kind}}}}}")
        if not self._ranges:
            self._fail(f"{{{{{token.kind}}}}} outside {{{{range}}}}")
        return Jump(token.at, token.kind)

    def _else(self) -> _Mark:
        if self._peek_word().kind not in ("if", "with"):
            self._expect("right", "else")
        return _Mark("else")

    def _branch(self, word: str) -> Branch:
        known = len(self._variables)
        pipeline = self._pipeline(word, "right")
        self._ranges += word == "range"
        body, end = self._body()
        self._ranges -= word == "range"
        otherwise = None
        if end.word == "else":
            otherwise = self._otherwise(word)
        del self._variables[known:]
        return Branch(pipeline.at, word, pipeline, body, otherwise)

    def _otherwise(self, word: str) -> Body:
        token = self._peek()
        if word in ("if", "with") and token.kind == word:
            self._next()
            with self._nested():
                return Body(token.at, [self._branch(word)])
        body, end = self._body()
        if end.word != "end":
            self._fail(f"expected end; found {end}")
        return body

    def _block(self) -> Call:
        token = self._next_word()
        name = self._template_name(token, "block clause")
        pipeline = self._pipeline("block clause", "right")
        self._define(name, "block clause")
        return Call(token.at, name, pipeline)

    def _call(self) -> Call:
        token = self._next_word()
        name = self._template_name(token, "template clause")
        after = self._next_word()
        if after.kind == "right":
            return Call(token.at, name, None)
        self._back(after)
        return Call(token.at, name, self._pipeline("template clause", "right"))

    def _template_name(self, token: Token, context: str) -> str:
        if token.kind not in ("string", "raw"):
            self._unexpected(token, context)
        return self._unquoted(token)

    # -- pipelines

    def _pipeline(self, context: str, end: str) -> Pipeline:
        pipeline = Pipeline(self._peek_word().at)
        while self._declaration(pipeline, context):
            pass
        while True:
            token = self._next_word()
            if token.kind == end:
                self._check(pipeline, context)
                return pipeline
            if token.kind not in _OPERANDS:
                self._unexpected(token, context)
            self._back(token)
            pipeline.commands.append(self._command())

    def _declaration(self, pipeline: Pipeline, context: str) -> bool:
        """Parse ``$a :=``, ``$a =`` or ``$a,``; return whether another one may follow."""
        variable = self._peek_word()
        if variable.kind != "variable":
            return False
        self._next_word()
        after = self._next()
        sign = after if after.kind != "space" else self._next_word()
        if sign.kind in ("assign", "declare"):
            pipeline.assigns = sign.kind == "assign"
            self._declare(pipeline, variable)
            return False
        if sign.kind == "char" and sign.text == ",":
            self._declare(pipeline, variable)
            if context != "range" or len(pipeline.declared) >= 2:
                self._fail(f"too many declarations in {context}")
            if self._peek_word().kind not in ("variable", "right", ")"):
                self._fail("range can only initialize variables")
            return True
        self._back(variable, *([after, sign] if sign is not after else [after]))
        return False

    def _declare(self, pipeline: Pipeline, token: Token) -> None:
        pipeline.declared.append(Variable(token.at, token.text, ()))
        self._variables.append(token.text)

    def _check(self, pipeline: Pipeline, context: str) -> None:
        if not pipeline.commands:
            self._fail(f"missing value for {context}")
        for number, command in enumerate(pipeline.commands[1:], 2):
            if isinstance(command.arguments[0], Constant | Dot):
                self._fail(f"non executable command in pipeline stage {number}")

    def _command(self) -> Command:
        command = Command(self._peek_word().at)
        while True:
            self._peek_word()
            operand = self._operand()
            if operand is not None:
                command.arguments.append(operand)
            token = self._next()
            if token.kind == "space":
                continue
            if token.kind in ("right", ")"):
                self._back(token)
            elif token.kind != "pipe":
                self._unexpected(token, "operand")
            break
        if not command.arguments:
            self._fail("empty command")
        return command

    def _operand(self) -> Operand | None:
        term = self._term()
        if term is None or self._peek().kind != "field":
            return term
        at, names = self._peek().at, []
        while self._peek().kind == "field":
            names.append(self._next().text[1:])
        if isinstance(term, Field):
            return Field(at, (*term.names, *names))
        if isinstance(term, Variable):
            return Variable(at, term.name, (*term.names, *names))
        if isinstance(term, Constant | Dot):
            self._fail(f"unexpected . after term {quote(str(term))}")
        return Chain(at, term, tuple(names))

    def _term(self) -> Operand | None:
        token = self._next_word()
        match token.kind:
            case "identifier":
                if token.text not in self._functions:
                    self._fail(f"function {quote(token.text)} not defined")
                return Function(token.at, token.text)
            case "dot":
                return Dot(token.at)
            case "variable":
                if token.text not in self._variables:
                    self._fail(f"undefined variable {quote(token.text)}")
                return Variable(token.at, token.text, ())
            case "field":
                return Field(token.at, (token.text[1:],))
            case "(":
                with self._nested():
                    return self._pipeline("parenthesized pipeline", ")")
        if token.kind in ("nil", "bool", "string", "raw", "rune", "complex", "number"):
            return self._constant(token)
        self._back(token)
        return None

    def _unquoted(self, token: Token) -> str:
        try:
            return unquote(token.text)
        except ValueError as error:
            self._fail(str(error))

    def _constant(self, token: Token) -> Constant:
        match token.kind:
            case "nil":
                return Constant(token.at, None, "nil")
            case "bool":
                return Constant(token.at, token.text == "true", token.text)
            case "string" | "raw":
                return Constant(token.at, self._unquoted(token), token.text)
            case "rune":
                return Constant(token.at, self._rune(token), token.text)
        return Constant(token.at, self._number(token.text), token.text)

    def _rune(self, token: Token) -> int:
        try:
            code, rest = unquote_rune(token.text)
        except ValueError as error:
            self._fail(str(error))
        if rest:
            self._fail(f"malformed character constant: {token.text}")
        return code

    def _number(self, text: str) -> int | float:
        if text.endswith("i") and any(c.isdecimal() for c in text):
            self._fail(f"complex numbers are not supported: {text}")
        try:
            value = int(_octal(text), 0)
        except ValueError:
            pass
        else:
            if not -(2**63) <= value < 2**63:
                self._fail(f"integer overflow: {quote(text)}")
            return value
        try:
            number = float.fromhex(text) if "0x" in text.lower() else float(text)
        except (ValueError, OverflowError):
            number = math.inf
        if math.isinf(number):
            self._fail(f"illegal number syntax: {quote(text)}")
        return number


def _octal(text: str) -> str:
    """Return an integer in Python's syntax: in Go, ``017`` is octal."""
    digits = text.lstrip("+-")
    if len(digits) > 1 and digits[0] == "0" and digits.replace("_", "").isdecimal():
        return text.replace(digits, f"0o{digits[1:].lstrip('_')}")
    return text
