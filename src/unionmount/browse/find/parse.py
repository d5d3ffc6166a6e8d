"""Reading an expression: first its words, then its operators, as GNU find does."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from unionmount.browse.find.actions import Print, PrintDetails
from unionmount.browse.find.expression import (
    All,
    AnyOf,
    Comma,
    Expression,
    ExpressionError,
    Not,
    Predicate,
)
from unionmount.browse.find.primaries import PRIMARIES, REFUSED, ParseContext, newer_primary
from unionmount.system.text import printable

if TYPE_CHECKING:
    from unionmount.browse.accounts import Accounts
    from unionmount.core import BrowsableTree

_MAX_NESTING = 100  # parentheses and negations
_AND = ("-a", "-and")
_OR = ("-o", "-or")
_NOT = ("!", "-not")
_OPERATORS = frozenset((*_AND, *_OR, ","))
_BARE = frozenset("(),!")
_WRITERS = frozenset({"-printf", "-ls"})


@dataclass(frozen=True, slots=True)
class _Word:
    """An operator or a parenthesis, or a primary as its node."""

    word: str
    node: Predicate | None = None


def parse_expression(
    words: Sequence[str],
    files: BrowsableTree,
    accounts: Accounts,
    now: int,
    *,
    of_layers: bool = False,
) -> Expression:
    """Parse an expression; raise ExpressionError or UsageError if it is not valid.

    Paths of -newer and -samefile are looked up in ``files``. With ``of_layers``, the expression is
    for layers by themselves.
    """
    context = ParseContext(files, accounts, now, of_layers=of_layers)
    tokens = list(_tokens(words, context))
    node = _Operators(tokens).parse() if tokens else None
    used = {type(token.node) for token in tokens}
    if not used & {Print, PrintDetails} and not context.has_printf:
        node = Print() if node is None else All((node, Print()))
    assert node is not None
    return Expression(
        node,
        context.least,
        context.most,
        post_order=context.post_order,
        prints_only=not context.has_printf and PrintDetails not in used,
        warnings=tuple(context.warnings),
    )


# ---- words ---------------------------------------------------------------------------------------


def _tokens(words: Sequence[str], context: ParseContext) -> Iterator[_Word]:
    rest = list(words)[::-1]
    while rest:
        word = rest.pop()
        if word in _BARE or word in _OPERATORS or word in _NOT:
            yield _Word(word)
            continue
        if not word.startswith("-"):
            raise ExpressionError(f"find: paths must precede expression: `{printable(word)}'")
        node = _primary(word, rest, context)
        if node is not None:
            yield _Word(word, node)


def _primary(word: str, rest: list[str], context: ParseContext) -> Predicate | None:
    known = PRIMARIES.get(word)
    if known is not None:
        if not known.takes_argument:
            return known.make(context, word, "")
        if not rest:
            raise ExpressionError(f"find: missing argument to `{word}'")
        return known.make(context, word, rest.pop())
    if word in REFUSED:
        raise ExpressionError(f"find: '{word}' is not supported: {REFUSED[word]}")
    if word.startswith("-newer"):
        return newer_primary(context, word, rest)
    raise ExpressionError(f"find: unknown predicate `{printable(word)}'")


# ---- operators -----------------------------------------------------------------------------------


@dataclass(slots=True)
class _Operators:
    """A recursive-descent parser: comma, or, and, not, primary."""

    tokens: Sequence[_Word]
    at: int = 0
    nesting: int = 0
    before: list[str] = field(default_factory=list)  # the operator that waits for an operand

    def parse(self) -> Predicate:
        """Return the node of all tokens."""
        node = self._list()
        if self._word() == ")":
            raise ExpressionError("find: you have too many ')'")
        if self.at < len(self.tokens):
            raise ExpressionError("find: invalid expression")
        return node

    def _word(self) -> str | None:
        return self.tokens[self.at].word if self.at < len(self.tokens) else None

    def _is_primary(self) -> bool:
        return self.at < len(self.tokens) and self.tokens[self.at].node is not None

    def _joined(self, operators: Sequence[str], inner: Callable[[], Predicate]) -> list[Predicate]:
        parts = [inner()]
        while not self._is_primary() and self._word() in operators:
            self._operand_follows()
            parts.append(inner())
        return parts

    def _operand_follows(self) -> None:
        self.before.append(self.tokens[self.at].word)
        self.at += 1

    def _list(self) -> Predicate:
        parts = self._joined((",",), self._alternatives)
        return parts[0] if len(parts) == 1 else Comma(tuple(parts))

    def _alternatives(self) -> Predicate:
        parts = self._joined(_OR, self._sequence)
        return parts[0] if len(parts) == 1 else AnyOf(tuple(parts))

    def _sequence(self) -> Predicate:
        parts = [self._negation()]
        while self.at < len(self.tokens):
            if not self._is_primary():
                word = self._word()
                if word in _AND:
                    self._operand_follows()
                elif word not in ("(", *_NOT):
                    break
            parts.append(self._negation())
        return parts[0] if len(parts) == 1 else All(tuple(parts))

    def _negation(self) -> Predicate:
        if self._is_primary():
            node = self.tokens[self.at].node
            assert node is not None
            self.at += 1
            self.before.clear()
            return node
        word = self._word()
        if word in _NOT:
            self._operand_follows()
            return Not(self._nested(self._negation))
        if word == "(":
            return self._parenthesis()
        raise self._no_operand(word)

    def _parenthesis(self) -> Predicate:
        self.at += 1
        self.before.clear()
        if self._word() is None:
            raise ExpressionError(
                "find: invalid expression; expected to find a ')' but didn't see one. "
                "Perhaps you need an extra predicate after '('"
            )
        if self._word() == ")" and not self._is_primary():
            raise ExpressionError("find: invalid expression; empty parentheses are not allowed.")
        node = self._nested(self._list)
        if self._word() != ")" or self._is_primary():
            raise ExpressionError(
                "find: invalid expression; I was expecting to find a ')' somewhere "
                "but did not see one."
            )
        self.at += 1
        return node

    def _no_operand(self, word: str | None) -> ExpressionError:
        """Return the error for a token at which an operand should begin."""
        if word in _OPERATORS:
            return ExpressionError(
                f"find: invalid expression; you have used a binary operator '{word}' "
                "with nothing before it."
            )
        if word is None:
            return ExpressionError(f"find: expected an expression after '{self.before[-1]}'")
        if self.before:
            return ExpressionError(
                f"find: expected an expression between '{self.before[-1]}' and ')'"
            )
        return ExpressionError("find: invalid expression; you have too many ')'")

    def _nested(self, parse: Callable[[], Predicate]) -> Predicate:
        self.nesting += 1
        if self.nesting > _MAX_NESTING:
            raise ExpressionError("find: the expression is nested too deeply")
        node = parse()
        self.nesting -= 1
        return node
