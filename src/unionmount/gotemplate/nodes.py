"""The nodes of a parsed template; each writes itself as messages of Go quote it."""

from __future__ import annotations

from dataclasses import dataclass, field

from unionmount.gotemplate.quoting import quote


@dataclass(slots=True)
class Node:
    """A part of a template and its position in the text."""

    at: int


@dataclass(slots=True)
class Text(Node):
    """Text that is printed as it is."""

    text: str

    def __str__(self) -> str:
        return self.text


@dataclass(slots=True)
class Constant(Node):
    """A string, number, boolean or ``nil``."""

    value: str | int | float | bool | None
    text: str

    def __str__(self) -> str:
        return self.text


@dataclass(slots=True)
class Dot(Node):
    """The current value."""

    def __str__(self) -> str:
        return "."


@dataclass(slots=True)
class Field(Node):
    """A field: ``.a.b``."""

    names: tuple[str, ...]

    def __str__(self) -> str:
        return "".join(f".{name}" for name in self.names)


@dataclass(slots=True)
class Variable(Node):
    """A variable: ``$a.b``."""

    name: str
    names: tuple[str, ...]

    def __str__(self) -> str:
        return ".".join((self.name, *self.names))


@dataclass(slots=True)
class Function(Node):
    """The name of a function."""

    name: str

    def __str__(self) -> str:
        return self.name


@dataclass(slots=True)
class Chain(Node):
    """Fields of an expression in parentheses."""

    node: Operand
    names: tuple[str, ...]

    def __str__(self) -> str:
        return _operand(self.node) + "".join(f".{name}" for name in self.names)


@dataclass(slots=True)
class Command(Node):
    """A stage of a pipeline: an operand, or a function with its arguments."""

    arguments: list[Operand] = field(default_factory=list)

    def __str__(self) -> str:
        return " ".join(map(_operand, self.arguments))


@dataclass(slots=True)
class Pipeline(Node):
    """Commands, each of which gets the result of the previous one, and variables for the result."""

    declared: list[Variable] = field(default_factory=list)
    assigns: bool = False
    commands: list[Command] = field(default_factory=list)

    def __str__(self) -> str:
        names = ", ".join(map(str, self.declared))
        sign = (" = " if self.assigns else " := ") if self.declared else ""
        return names + sign + " | ".join(map(str, self.commands))


Operand = Constant | Dot | Field | Variable | Function | Chain | Pipeline


def _operand(node: Operand) -> str:
    return f"({node})" if isinstance(node, Pipeline) else str(node)


@dataclass(slots=True)
class Action(Node):
    """An action: ``{{pipeline}}``."""

    pipeline: Pipeline

    def __str__(self) -> str:
        return f"{{{{{self.pipeline}}}}}"


@dataclass(slots=True)
class Jump(Node):
    """A jump: ``{{break}}`` or ``{{continue}}``."""

    word: str

    def __str__(self) -> str:
        return f"{{{{{self.word}}}}}"


@dataclass(slots=True)
class Body(Node):
    """A sequence of parts."""

    parts: list[Part] = field(default_factory=list)

    def __str__(self) -> str:
        return "".join(map(str, self.parts))


@dataclass(slots=True)
class Branch(Node):
    """A branch: ``if``, ``with`` or ``range``."""

    word: str
    pipeline: Pipeline
    body: Body
    otherwise: Body | None

    def __str__(self) -> str:
        end = "{{end}}" if self.otherwise is None else f"{{{{else}}}}{self.otherwise}{{{{end}}}}"
        return f"{{{{{self.word} {self.pipeline}}}}}{self.body}{end}"


@dataclass(slots=True)
class Call(Node):
    """A call: ``{{template "name" pipeline}}``."""

    name: str
    pipeline: Pipeline | None

    def __str__(self) -> str:
        data = f" {self.pipeline}" if self.pipeline is not None else ""
        return f"{{{{template {quote(self.name)}{data}}}}}"


Part = Text | Action | Jump | Branch | Call


def is_empty(body: Body) -> bool:
    """Return whether a body prints nothing but white space."""
    return all(isinstance(part, Text) and not part.text.strip() for part in body.parts)
