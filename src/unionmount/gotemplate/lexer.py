"""The lexer of templates: text, and inside ``{{`` and ``}}`` names, constants and signs.

It finds the same words as Go's ``text/template/parse/lex.go``, with the same error messages.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from unionmount.gotemplate.quoting import quote

if TYPE_CHECKING:
    from collections.abc import Iterator

LEFT, RIGHT = "{{", "}}"
_SPACE = " \t\r\n"
_SIGNS = {"=": "assign", "|": "pipe"}

KEYWORDS = frozenset(
    {
        *("block", "break", "continue", "define", "else", "end", "if", "nil", "range"),
        *("template", "with"),
    }
)
_END = ""  # read after the last character


@dataclass(frozen=True, slots=True)
class Token:
    """A word: its kind, its position, its text and its line."""

    kind: str
    at: int
    text: str
    line: int

    def __str__(self) -> str:
        """Return the word as messages show it."""
        if self.kind == "EOF":
            return "EOF"
        if self.kind == "error":
            return self.text
        if self.kind in KEYWORDS or self.kind == "dot":
            return f"<{self.text}>"
        return f"{quote(self.text[:10])}..." if len(self.text) > 10 else quote(self.text)


class _Stop(Exception):
    """The lexer cannot continue; its last word is an error."""


def alphanumeric(character: str) -> bool:
    """Return whether a name may contain the character."""
    return character == "_" or character.isalpha() or character.isdecimal()


def tokens(text: str) -> Iterator[Token]:
    """Yield all words of ``text``; the last one is ``EOF`` or ``error``."""
    return _Lexer(text).run()


class _Lexer:
    """The text, and the position of the lexer."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self.start = 0
        self.depth = 0

    def run(self) -> Iterator[Token]:
        """Yield the words of text and actions in turn."""
        try:
            while True:
                yield from self._text()
                if self.at >= len(self.text):
                    break
                if self._comment():
                    continue
                yield from self._action()
        except _Stop as stop:
            yield Token("error", self.start, str(stop), self._line(self.start))
            return
        yield Token("EOF", self.at, "", self._line(self.at))

    def _line(self, at: int) -> int:
        return 1 + self.text.count("\n", 0, at)

    def _token(self, kind: str) -> Token:
        token = Token(kind, self.start, self.text[self.start : self.at], self._line(self.start))
        self.start = self.at
        return token

    def _text(self) -> Iterator[Token]:
        found = self.text.find(LEFT, self.at)
        self.at = end = len(self.text) if found < 0 else found
        if found >= 0 and self._trims_left(end + len(LEFT)):
            kept = self.text[self.start : end].rstrip(_SPACE)
            self.at = self.start + len(kept)
        if self.at > self.start:
            yield self._token("text")
        self.start = self.at = end

    def _trims_left(self, at: int) -> bool:
        return self.text.startswith("-", at) and self.text[at + 1 : at + 2] in tuple(_SPACE)

    def _trims_right(self, at: int) -> bool:
        return self.text[at : at + 1] in tuple(_SPACE) and self.text.startswith("-", at + 1)

    def _comment(self) -> bool:
        """Skip a comment if there is one."""
        at = self.at + len(LEFT)
        at += 2 if self._trims_left(at) else 0
        if not self.text.startswith("/*", at):
            return False
        self.start = self.at = at
        end = self.text.find("*/", at + 2)
        if end < 0:
            raise _Stop("unclosed comment")
        self.at = end + 2
        closed, trims = self._closing()
        if not closed:
            raise _Stop("comment ends before closing delimiter")
        self._leave(trims=trims)
        return True

    def _closing(self) -> tuple[bool, bool]:
        """Return whether an action ends here, and whether it trims the following text."""
        if self._trims_right(self.at) and self.text.startswith(RIGHT, self.at + 2):
            return True, True
        return self.text.startswith(RIGHT, self.at), False

    def _leave(self, *, trims: bool) -> None:
        self.at += len(RIGHT) + (2 if trims else 0)
        if trims:
            while self.text[self.at : self.at + 1] in tuple(_SPACE):
                self.at += 1
        self.start = self.at

    def _action(self) -> Iterator[Token]:
        """Yield the words from ``{{`` to ``}}``."""
        trims = self._trims_left(self.at + len(LEFT))
        self.at += len(LEFT)
        yield self._token("left")
        self.at += 2 if trims else 0
        self.start, self.depth = self.at, 0
        while True:
            closed, trims = self._closing()
            if closed:
                if self.depth:
                    raise _Stop("unclosed left paren")
                break
            yield self._inside()
        at = self.at + (2 if trims else 0)
        yield Token("right", at, RIGHT, self._line(at))
        self._leave(trims=trims)

    def _next(self) -> str:
        character = self.text[self.at : self.at + 1]
        self.at += len(character)
        return character

    def _peek(self) -> str:
        return self.text[self.at : self.at + 1]

    def _inside(self) -> Token:
        character = self._next()
        if character == _END:
            raise _Stop("unclosed action")
        if character in _SPACE:
            return self._spaces()
        if character in "\"`'":
            return self._quoted(character)
        if character == "$":
            return self._name("variable")
        if character == "." and self._peek() and not "0" <= self._peek() <= "9":
            return self._name("field")
        if character in "+-." or "0" <= character <= "9":
            self.at -= 1
            return self._number()
        if alphanumeric(character):
            return self._word()
        return self._sign(character)

    def _sign(self, character: str) -> Token:
        if character in _SIGNS:
            return self._token(_SIGNS[character])
        if character == ":":
            if self._next() != "=":
                raise _Stop("expected :=")
            return self._token("declare")
        if character == "(":
            self.depth += 1
            return self._token("(")
        if character == ")":
            self.depth -= 1
            if self.depth < 0:
                raise _Stop("unexpected right paren")
            return self._token(")")
        if character.isascii() and character.isprintable():
            return self._token("char")
        raise _Stop(f"unrecognized character in action: {code_point(character)}")

    def _spaces(self) -> Token:
        while self._peek() and self._peek() in _SPACE:
            self.at += 1
        if self._trims_right(self.at - 1) and self.text.startswith(RIGHT, self.at + 1):
            self.at -= 1  # the last space belongs to the closing sign
            if self.at == self.start:
                return Token("space", self.at, "", self._line(self.at))
        return self._token("space")

    def _quoted(self, sign: str) -> Token:
        kinds = {
            '"': ("string", "unterminated quoted string"),
            "`": ("raw", "unterminated raw quoted string"),
            "'": ("rune", "unterminated character constant"),
        }
        kind, problem = kinds[sign]
        while True:
            character = self._next()
            if character == "\\" and sign != "`":
                character = self._next()
                if character not in ("\n", _END):
                    continue
            if character == _END or (character == "\n" and sign != "`"):
                raise _Stop(problem)
            if character == sign:
                return self._token(kind)

    def _at_end_of_word(self) -> bool:
        character = self._peek()
        return (
            character == _END
            or character in _SPACE
            or character in ".,|:)("
            or self.text.startswith(RIGHT, self.at)
        )

    def _rest_of_word(self) -> None:
        while self._peek() and alphanumeric(self._peek()):
            self.at += 1
        if not self._at_end_of_word():
            raise _Stop(f"bad character {code_point(self._peek())}")

    def _name(self, kind: str) -> Token:
        if self._at_end_of_word():
            return self._token("variable" if kind == "variable" else "dot")
        self._rest_of_word()
        return self._token(kind)

    def _word(self) -> Token:
        self._rest_of_word()
        word = self.text[self.start : self.at]
        if word in KEYWORDS:
            return self._token(word)
        return self._token("bool" if word in ("true", "false") else "identifier")

    def _number(self) -> Token:
        if not self._scan_number():
            raise _Stop(f"bad number syntax: {quote(self.text[self.start : self.at])}")
        if self._peek() in ("+", "-"):
            if not self._scan_number() or self.text[self.at - 1] != "i":
                raise _Stop(f"bad number syntax: {quote(self.text[self.start : self.at])}")
            return self._token("complex")
        return self._token("number")

    def _accept(self, valid: str) -> bool:
        found = self._peek() != _END and self._peek() in valid
        self.at += found
        return found

    def _accept_all(self, valid: str) -> None:
        while self._accept(valid):
            pass

    def _scan_number(self) -> bool:
        self._accept("+-")
        digits, exponent = "0123456789_", "eE"
        if self._accept("0"):
            if self._accept("xX"):
                digits, exponent = "0123456789abcdefABCDEF_", "pP"
            elif self._accept("oO"):
                digits, exponent = "01234567_", ""
            elif self._accept("bB"):
                digits, exponent = "01_", ""
        self._accept_all(digits)
        if self._accept("."):
            self._accept_all(digits)
        if exponent and self._accept(exponent):
            self._accept("+-")
            self._accept_all("0123456789_")
        self._accept("i")
        if self._peek() and alphanumeric(self._peek()):
            self.at += 1
            return False
        return True


def code_point(character: str) -> str:
    """Format a character like Go's ``%#U``."""
    if not character:
        return "U+FFFFFFFFFFFFFFFF"
    shown = f" '{character}'" if character.isprintable() else ""
    return f"U+{ord(character):04X}{shown}"
