"""Instructions of a Dockerfile that change how an image is run: ``CMD``, ``ENV`` and so on.

They have the meaning of ``docker commit --change``. They change the field ``config`` of an image's
config. Sources: the Dockerfile reference; OCI image-spec 1.1, ``config.md``.
"""

from __future__ import annotations

import json
import posixpath
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from unionmount.errors import UsageError
from unionmount.system.text import printable

_Config = dict[str, Any]

_SHELL = ("/bin/sh", "-c")
_ESCAPED = '"$\\'  # characters that a backslash escapes inside double quotes
_VARIABLE = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)")
_BRACED = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)(?:(:?[-+])([^}]*))?\}")
_PORT = re.compile(r"([0-9]{1,5})(?:-([0-9]{1,5}))?(?:/(tcp|udp|sctp))?")
_DURATION = re.compile(r"([0-9]+(?:\.[0-9]+)?|\.[0-9]+)(ns|us|µs|ms|s|m|h)")
_NANOSECONDS = {
    "ns": 1,
    "us": 1000,
    "µs": 1000,
    "ms": 10**6,
    "s": 10**9,
    "m": 60 * 10**9,
    "h": 3600 * 10**9,
}
_SIGNAL = re.compile(r"[0-9]{1,2}|(?:SIG)?[A-Z][A-Z0-9]+(?:[+-][0-9]+)?")
_NOT_ON_BUILD = frozenset({"FROM", "MAINTAINER", "ONBUILD"})


def apply_instructions(config: Mapping[str, Any], lines: Sequence[str]) -> _Config:
    """Apply ``lines``, one instruction each, to an image's ``config``; may raise UsageError."""
    changed = dict(config)
    command_was_set = False
    for line in lines:
        name, rest = _split(line)
        if name == "ENTRYPOINT" and not command_was_set:
            changed.pop("Cmd", None)  # they were arguments of another program
        command_was_set = command_was_set or name == "CMD"
        _INSTRUCTIONS[name](changed, rest)
    return changed


def _split(line: str) -> tuple[str, str]:
    """Split an instruction into its name and the rest, after joining continued lines."""
    text = re.sub(r"\\[ \t]*\n", "", line).strip()
    name, _, rest = text.partition(" ") if " " in text else text.partition("\t")
    name, rest = name.upper(), rest.strip()
    if name not in _INSTRUCTIONS:
        known = ", ".join(sorted(_INSTRUCTIONS))
        raise UsageError(f"'{_shown(line)}' is not an instruction for images; use one of {known}")
    if not rest:
        raise UsageError(f"{name} needs an argument")
    if "\n" in rest:
        raise UsageError(f"{name}: an instruction must be one line")
    return name, rest


def _shown(text: str) -> str:
    return printable(text[:200])


# -- words


def _environment(config: _Config) -> dict[str, str]:
    """Return the variables that an instruction may use."""
    pairs = (entry.partition("=") for entry in config.get("Env") or ())
    return {name: value for name, _, value in pairs}


class _Words:
    """A line that is split into words like in a shell: quotes, backslashes and ``$variables``."""

    def __init__(self, text: str, variables: Mapping[str, str]) -> None:
        self._text = text
        self._variables = variables
        self._at = 0

    def all(self) -> list[str]:
        """Return all words."""
        found = []
        while self._skip_blanks():
            found.append(self._word())
        return found

    def first(self) -> tuple[str, str]:
        """Return the first word without its expansion, and the rest."""
        self._word()
        return self._text[: self._at], self._text[self._at :].strip()

    def whole(self) -> str:
        """Return the line as one word, including blanks."""
        return self._word(blanks=True)

    def _skip_blanks(self) -> bool:
        while self._at < len(self._text) and self._text[self._at].isspace():
            self._at += 1
        return self._at < len(self._text)

    def _word(self, *, blanks: bool = False) -> str:
        parts = []
        while self._at < len(self._text) and (blanks or not self._text[self._at].isspace()):
            parts.append(self._part())
        return "".join(parts)

    def _part(self) -> str:
        letter = self._next()
        if letter == "'":
            return self._until("'")
        if letter == '"':
            return self._double_quoted()
        if letter == "\\":
            return self._next() if self._at < len(self._text) else "\\"
        if letter == "$":
            return self._variable()
        return letter

    def _next(self) -> str:
        self._at += 1
        return self._text[self._at - 1]

    def _until(self, end: str) -> str:
        stop = self._text.find(end, self._at)
        if stop < 0:
            raise UsageError(f"a quote is not closed in '{_shown(self._text)}'")
        found, self._at = self._text[self._at : stop], stop + 1
        return found

    def _double_quoted(self) -> str:
        parts: list[str] = []
        while self._at < len(self._text):
            letter = self._next()
            if letter == '"':
                return "".join(parts)
            if letter == "\\" and self._at < len(self._text):
                following = self._next()
                parts.append(following if following in _ESCAPED else letter + following)
            else:
                parts.append(self._variable() if letter == "$" else letter)
        raise UsageError(f"a quote is not closed in '{_shown(self._text)}'")

    def _variable(self) -> str:
        """Return the value of the variable after a dollar sign; an unset one is empty."""
        if match := _VARIABLE.match(self._text, self._at):
            self._at = match.end()
            return self._variables.get(match[1], "")
        if match := _BRACED.match(self._text, self._at):
            self._at = match.end()
            return self._modified(*match.groups())
        if self._text.startswith("{", self._at):
            raise UsageError(f"invalid variable in '{_shown(self._text)}'")
        return "$"

    def _modified(self, name: str, operator: str | None, word: str | None) -> str:
        """Expand ``${name:-word}`` and similar forms."""
        value = self._variables.get(name)
        is_there = value is not None if operator in ("-", "+") else bool(value)
        if operator is None or (is_there and operator.endswith("-")):
            return value or ""
        if is_there == operator.endswith("+"):
            return _Words(word or "", self._variables).whole()
        return ""


def _words(config: _Config, text: str) -> list[str]:
    return _Words(text, _environment(config)).all()


def _json_list(text: str) -> list[str] | None:
    """Parse an argument in the JSON form; return None if it has the other form."""
    if not text.startswith("["):
        return None
    try:
        values = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return values if all(isinstance(value, str) for value in values) else None


def _command(config: _Config, text: str) -> list[str]:
    values = _json_list(text)
    return values if values is not None else [*(config.get("Shell") or _SHELL), text]


def _pairs(config: _Config, name: str, text: str) -> dict[str, str]:
    """Parse ``KEY=VALUE…``, or the old form ``KEY VALUE`` if the first word has no ``=``."""
    first, rest = _Words(text, _environment(config)).first()
    if "=" not in first:
        if not rest:
            raise UsageError(f"{name}: '{_shown(text)}' has no value")
        return {first: _Words(rest, _environment(config)).whole()}
    pairs = {}
    for word in _words(config, text):
        key, equals, value = word.partition("=")
        if not equals or not key:
            raise UsageError(f"{name}: '{_shown(word)}' is not KEY=VALUE")
        pairs[key] = value
    return pairs


def _one_word(config: _Config, name: str, text: str) -> str:
    value = _Words(text, _environment(config)).whole()
    if not value:
        raise UsageError(f"{name} needs an argument")
    return value


# -- instructions


def _cmd(config: _Config, text: str) -> None:
    config["Cmd"] = _command(config, text)


def _entrypoint(config: _Config, text: str) -> None:
    config["Entrypoint"] = _command(config, text) or None


def _env(config: _Config, text: str) -> None:
    values = _environment(config) | _pairs(config, "ENV", text)
    config["Env"] = [f"{name}={value}" for name, value in values.items()]


def _label(config: _Config, text: str) -> None:
    config["Labels"] = dict(config.get("Labels") or {}) | _pairs(config, "LABEL", text)


def _expose(config: _Config, text: str) -> None:
    ports = dict(config.get("ExposedPorts") or {})
    for word in _words(config, text):
        match = _PORT.fullmatch(word.lower())
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
        if match is None or first > last or not 0 < first <= last < 65536:
            raise UsageError(f"EXPOSE: '{_shown(word)}' is not PORT[-PORT][/PROTOCOL]")
        ports |= {f"{port}/{match[3] or 'tcp'}": {} for port in range(first, last + 1)}
    config["ExposedPorts"] = ports


def _user(config: _Config, text: str) -> None:
    config["User"] = _one_word(config, "USER", text)


def _volume(config: _Config, text: str) -> None:
    values = _json_list(text)
    paths = values if values is not None else _words(config, text)
    if not paths or not all(path.strip() for path in paths):
        raise UsageError("VOLUME needs paths")
    volumes = dict(config.get("Volumes") or {})
    config["Volumes"] = volumes | {path.strip(): {} for path in paths}


def _workdir(config: _Config, text: str) -> None:
    before = config.get("WorkingDir") or "/"
    path = posixpath.normpath(posixpath.join("/", before, _one_word(config, "WORKDIR", text)))
    config["WorkingDir"] = "/" + path.lstrip(
        "/"
    )  # POSIX gives two leading slashes a meaning of their own


def _stopsignal(config: _Config, text: str) -> None:
    signal = _one_word(config, "STOPSIGNAL", text)
    if not _SIGNAL.fullmatch(signal.upper()):
        raise UsageError(f"STOPSIGNAL: '{_shown(signal)}' is not a signal")
    config["StopSignal"] = signal


def _onbuild(config: _Config, text: str) -> None:
    if text.split(maxsplit=1)[0].upper() in _NOT_ON_BUILD:
        raise UsageError(f"ONBUILD: '{_shown(text)}' is not allowed here")
    config["OnBuild"] = [*(config.get("OnBuild") or ()), text]


def _healthcheck(config: _Config, text: str) -> None:
    options, rest = _options(text)
    kind, _, command = rest.partition(" ")
    command = command.strip()
    if kind.upper() == "NONE" and not command and not options:
        config["Healthcheck"] = {"Test": ["NONE"]}
        return
    if kind.upper() != "CMD" or not command:
        raise UsageError(f"HEALTHCHECK: '{_shown(text)}' is neither NONE nor CMD …")
    values = _json_list(command)
    test = ["CMD-SHELL", command] if values is None else ["CMD", *values]
    check: _Config = {"Test": test}
    for name, value in options.items():
        if name not in _CHECK_OPTIONS:
            raise UsageError(f"HEALTHCHECK: unknown option '--{_shown(name)}'")
        key, parse = _CHECK_OPTIONS[name]
        check[key] = parse(value)
    config["Healthcheck"] = check


def _options(text: str) -> tuple[dict[str, str], str]:
    """Split words ``--name=value`` from the beginning of a text."""
    options = {}
    while text.startswith("--"):
        word, _, text = text.partition(" ")
        name, _, value = word.removeprefix("--").partition("=")
        options[name] = value
        text = text.lstrip()
    return options, text


def _duration(text: str) -> int:
    """Parse a duration as Go writes it (``1m30s``) into nanoseconds; at least 1 ms is required."""
    if not re.fullmatch(f"(?:{_DURATION.pattern})+", text):
        raise UsageError(f"HEALTHCHECK: '{_shown(text)}' is not a duration")
    total = round(sum(float(n) * _NANOSECONDS[unit] for n, unit in _DURATION.findall(text)))
    if 0 < total < 10**6:
        raise UsageError(f"HEALTHCHECK: '{_shown(text)}' is less than 1ms")
    return total


def _retries(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,9}", text):
        raise UsageError(f"HEALTHCHECK: '{_shown(text)}' is not a number of retries")
    return int(text)


_CHECK_OPTIONS: dict[str, tuple[str, Callable[[str], int]]] = {
    "interval": ("Interval", _duration),
    "timeout": ("Timeout", _duration),
    "start-period": ("StartPeriod", _duration),
    "start-interval": ("StartInterval", _duration),
    "retries": ("Retries", _retries),
}

_INSTRUCTIONS: dict[str, Callable[[_Config, str], None]] = {
    "CMD": _cmd,
    "ENTRYPOINT": _entrypoint,
    "ENV": _env,
    "EXPOSE": _expose,
    "HEALTHCHECK": _healthcheck,
    "LABEL": _label,
    "ONBUILD": _onbuild,
    "STOPSIGNAL": _stopsignal,
    "USER": _user,
    "VOLUME": _volume,
    "WORKDIR": _workdir,
}
