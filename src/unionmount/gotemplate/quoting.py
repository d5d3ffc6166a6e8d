"""Go's syntax of strings, runes and numbers."""

from __future__ import annotations

import math
import re
import unicodedata

_ESCAPES = {
    "\a": "\\a",
    "\b": "\\b",
    "\f": "\\f",
    "\n": "\\n",
    "\r": "\\r",
    "\t": "\\t",
    "\v": "\\v",
    "\\": "\\\\",
}
_READ = {"a": 7, "b": 8, "f": 12, "n": 10, "r": 13, "t": 9, "v": 11, "\\": 92}
_HEX = {"x": 2, "u": 4, "U": 8}
_ESCAPED_BYTE = re.compile("[\udc80-\udcff]")


def to_bytes(text: str) -> bytes:
    """Return the bytes of a string, in which lone surrogates stand for bytes that are not UTF-8."""
    return text.encode("utf-8", "surrogateescape")


def to_text(data: bytes) -> str:
    """Return the string for some bytes."""
    return data.decode("utf-8", "surrogateescape")


def is_printable(character: str) -> bool:
    """Return whether Go prints a character as it is, like letters, numbers and signs."""
    return character == " " or unicodedata.category(character)[0] in "LMNPS"


def quote(text: str, *, only_ascii: bool = False) -> str:
    """Quote a string like Go's ``strconv.Quote``."""
    return '"' + "".join(_quoted(c, '"', only_ascii=only_ascii) for c in text) + '"'


def _quoted(character: str, sign: str, *, only_ascii: bool) -> str:
    if character == sign:
        return "\\" + character
    if character in _ESCAPES:
        return _ESCAPES[character]
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:
        return f"\\x{code - 0xDC00:02x}"
    if is_printable(character) and (code < 0x80 or not only_ascii):
        return character
    if code < 0x80:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def quote_rune(code: int, *, only_ascii: bool = False) -> str:
    """Quote a code point like Go's ``strconv.QuoteRune``."""
    if not 0 <= code <= 0x10FFFF or 0xD800 <= code <= 0xDFFF:
        code = 0xFFFD
    return "'" + _quoted(chr(code), "'", only_ascii=only_ascii) + "'"


def unquote(text: str) -> str:
    """Return the value of a string or character constant; raise ValueError if it is not valid."""
    sign = text[0]
    if sign == "`":
        return text[1:-1].replace("\r", "")
    inner, at, found = text[1:-1], 0, bytearray()
    while at < len(inner):
        if inner[at] != "\\":
            found += to_bytes(inner[at])
            at += 1
        else:
            at = _unescape(inner, at + 1, sign, found)
    return to_text(bytes(found))


def unquote_rune(text: str) -> tuple[int, str]:
    """Return the first character of a constant as a number, and the rest."""
    inner = text[1:-1]
    if not inner or inner[0] == "'":
        raise ValueError("invalid syntax")
    if inner[0] != "\\":
        return ord(inner[0]), inner[1:]
    found = bytearray()
    end = _unescape(inner, 1, "'", found)
    code = found[0] if len(found) == 1 else ord(to_text(bytes(found)))
    return code, inner[end:]


def _unescape(text: str, at: int, sign: str, found: bytearray) -> int:
    """Add the character of the escape at ``at``; return the end of the escape."""
    kind = text[at : at + 1]
    if kind in _READ:
        found.append(_READ[kind])
        return at + 1
    if kind == sign and sign in "\"'":
        found += kind.encode("ascii")
        return at + 1
    if kind in _HEX:
        digits = text[at + 1 : at + 1 + _HEX[kind]]
        if not re.fullmatch(f"[0-9a-fA-F]{{{_HEX[kind]}}}", digits):
            raise ValueError("invalid syntax")
        code = int(digits, 16)
        if kind == "x":
            found.append(code)
        else:
            if code > 0x10FFFF or 0xD800 <= code <= 0xDFFF:
                raise ValueError("invalid syntax")
            found += chr(code).encode("utf-8")
        return at + 1 + len(digits)
    octal = re.match("[0-7]{3}", text[at:])
    if octal is None or int(octal[0], 8) > 255:
        raise ValueError("invalid syntax")
    found.append(int(octal[0], 8))
    return at + 3


def valid_utf8(text: str) -> str:
    """Replace everything that is not UTF-8, like Go's JSON."""
    return _ESCAPED_BYTE.sub("\ufffd", text)


def shortest(value: float) -> tuple[str, int]:
    """Return the fewest digits that identify a number, and the position of its point."""
    mantissa, _, exponent = f"{value!r}".lower().lstrip("-").partition("e")
    whole, _, fraction = mantissa.partition(".")
    fraction = "" if fraction == "0" else fraction
    digits = (whole + fraction).lstrip("0")
    point = len(whole) + int(exponent or 0) - (len(whole + fraction) - len(digits))
    digits = digits.rstrip("0")
    return (digits or "0", point if digits else 1)


def format_float(value: float, verb: str, precision: int) -> str:
    """Format a number like Go's ``strconv.FormatFloat``; -1 is the shortest precision."""
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    kind = verb.lower()
    if kind in "xb":
        text = _hexadecimal(value, precision) if kind == "x" else _binary(value)
    elif precision >= 0:
        text = _with_precision(value, kind, precision)
    else:
        text = _shortest(value, kind)
    return text.upper() if verb.isupper() else text


def _with_precision(value: float, kind: str, precision: int) -> str:
    if kind != "g":
        return f"{value:.{precision}{kind}}"
    text = f"{value:.{max(precision, 1)}g}"
    digits, point = _digits_of(value, max(precision, 1))
    limit = max(precision, 1)
    if limit > len(digits) and len(digits) >= point:
        limit = len(digits)
    if text.find("e") < 0 and not -4 <= point - 1 < limit:
        return _exponential(digits, point, negative=value < 0)
    return text


def _digits_of(value: float, count: int) -> tuple[str, int]:
    mantissa, _, exponent = f"{abs(value):.{count - 1}e}".partition("e")
    digits = mantissa.replace(".", "").rstrip("0")
    return digits or "0", int(exponent) + 1


def _shortest(value: float, kind: str) -> str:
    digits, point = shortest(value)
    negative = str(value).startswith("-")
    if kind == "e" or (kind == "g" and not -4 <= point - 1 < 6):
        return _exponential(digits, point, negative=negative)
    if point <= 0:
        text = "0." + "0" * -point + digits
    elif point >= len(digits):
        text = digits + "0" * (point - len(digits))
    else:
        text = f"{digits[:point]}.{digits[point:]}"
    return ("-" if negative else "") + text


def _exponential(digits: str, point: int, *, negative: bool) -> str:
    mantissa = digits[0] + (f".{digits[1:]}" if len(digits) > 1 else "")
    exponent = point - 1
    sign = "-" if exponent < 0 else "+"
    return f"{'-' if negative else ''}{mantissa}e{sign}{abs(exponent):02d}"


def _hexadecimal(value: float, precision: int) -> str:
    """Format a number like Go's ``%x``: ``0x1.8p+01``."""
    sign = "-" if math.copysign(1, value) < 0 else ""
    fraction, exponent = math.frexp(abs(value))
    bits = int(fraction * 2**53)  # one bit before the point, 52 after it
    if 0 <= precision < 13:
        bits = _rounded(bits, 4 * (13 - precision))
        if bits >= 2**53:
            bits, exponent = bits // 2, exponent + 1
    digits = f"{bits % 2**52:013x}"
    digits = digits.rstrip("0") if precision < 0 else digits[:precision].ljust(precision, "0")
    point = f".{digits}" if digits else ""
    exponent = exponent - 1 if value else 0
    return f"{sign}0x{bits >> 52}{point}p{exponent:+03d}"


def _rounded(bits: int, count: int) -> int:
    """Round the last ``count`` bits of a number away, half to even."""
    unit = 1 << count
    whole, rest = divmod(bits, unit)
    up = rest * 2 > unit or (rest * 2 == unit and whole % 2)
    return (whole + up) * unit


def _binary(value: float) -> str:
    """Format a number like Go's ``%b``: an integer times a power of two."""
    fraction, power = math.frexp(value)
    exponent = max(power - 53, -1074) if value else -1074
    bits = int(math.ldexp(fraction, power - exponent))
    return f"{'-' if str(value) == '-0.0' else ''}{bits}p{exponent:+d}"


def with_all_digits(digits: str, verb: str, precision: int) -> str:
    """Return a number without its sign like the flag ``#``: with a point and trailing zeros."""
    wanted = (6 if precision < 0 else precision) if verb in "vgGx" else 0
    cut = re.search("[pP]" if verb in "xX" else "[pPeE]", digits)
    number, tail = (digits[: cut.start()], digits[cut.start() :]) if cut else (digits, "")
    significant = number.replace(".", "").lstrip("0")
    wanted -= len(significant)
    if "." not in number:
        wanted -= number == "0"
        number += "."
    return number + "0" * wanted + tail
