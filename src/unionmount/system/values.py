"""Dataclasses that cost nothing at import.

The decorator of the standard library compiles six methods for each class, and imports ``inspect``.
With it an overlay takes a sixth longer to start, and an image a third (docs/dependencies.md). This
one has the same results for the arguments that are used here. Its ``__init__`` is compiled when the
first instance is created, and the other methods are shared. ``dataclasses.fields``, and what builds
on it, accept these classes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, TypeVar, dataclass_transform

T = TypeVar("T")

_FIELDS = "__value_fields__"


class _NoDefault:
    """Stands for a default that there is not."""


_MISSING = _NoDefault()


class ValueField:
    """A field of a class: its name, and what it is when nobody says."""

    __slots__ = ("default", "default_factory", "name", "repr")

    def __init__(self, default: Any, default_factory: Any, *, repr: bool) -> None:  # noqa: A002
        self.name = ""
        self.default = default
        self.default_factory = default_factory
        self.repr = repr


def field(
    *,
    default: Any = _MISSING,
    default_factory: Any = _MISSING,
    repr: bool = True,  # noqa: A002 - as dataclasses has it
) -> Any:
    """Describe a field, as ``dataclasses.field`` does."""
    return ValueField(default, default_factory, repr=repr)


@dataclass_transform(field_specifiers=(field,))
def dataclass(
    *, frozen: bool = False, slots: bool = False, order: bool = False
) -> Callable[[type[T]], type[T]]:
    """Make a dataclass of a class that inherits from no other one."""

    def decorate(cls: type[T]) -> type[T]:
        found = _fields_of(cls)
        members: dict[str, Any] = {
            _FIELDS: MappingProxyType(found),
            "__dataclass_fields__": _StandardFields(),
            "__match_args__": tuple(found),
            "__init__": _first_init,
            "__repr__": _repr,
            "__eq__": _eq,
            "__hash__": _hash if frozen else None,
        }
        if frozen:
            members |= {"__setattr__": _refuse_set, "__delattr__": _refuse_delete}
            members |= {"__getstate__": _getstate, "__setstate__": _setstate}
        if order:
            members |= {"__lt__": _lt, "__le__": _le, "__gt__": _gt, "__ge__": _ge}
        return _with_members(cls, members, found, slots=slots)

    return decorate


def fields(of: Any) -> tuple[ValueField, ...]:
    """Return the fields of a class or an instance."""
    return tuple(getattr(of, _FIELDS).values())


def replace(instance: T, /, **changes: Any) -> T:
    """Return the same value with other fields."""
    return type(instance)(**(asdict(instance) | changes))


def asdict(instance: Any) -> dict[str, Any]:
    """Return the fields by their names; values are not copied."""
    return {name: getattr(instance, name) for name in getattr(instance, _FIELDS)}


# ---- classes -------------------------------------------------------------------------------------


def _fields_of(cls: type) -> dict[str, ValueField]:
    found = {}
    for name in cls.__annotations__:
        default = cls.__dict__.get(name, _MISSING)
        one = (
            default if isinstance(default, ValueField) else ValueField(default, _MISSING, repr=True)
        )
        one.name = name
        found[name] = one
    return found


def _with_members(
    cls: type[T], members: dict[str, Any], found: Mapping[str, ValueField], *, slots: bool
) -> type[T]:
    """Add methods unless the class has its own; with ``slots``, that takes another class."""
    own = {
        name: value
        for name, value in cls.__dict__.items()
        if name not in ("__dict__", "__weakref__") and not (name in found and slots)
    }
    if "__eq__" not in own:
        own.pop("__hash__", None)
    namespace = members | own
    if not slots:
        for name, value in members.items():
            if name not in own:
                setattr(cls, name, value)
        for name, one in found.items():
            if isinstance(cls.__dict__.get(name), ValueField):
                if one.default is _MISSING:
                    delattr(cls, name)
                else:
                    setattr(cls, name, one.default)
        return cls
    namespace["__slots__"] = tuple(found)
    make: Any = type(cls)
    made: type[T] = make(cls.__name__, cls.__bases__, namespace)
    made.__qualname__ = cls.__qualname__
    return made


class _StandardFields:
    """The attribute by which ``dataclasses`` knows its classes, made when it is asked for."""

    def __get__(self, _instance: object, owner: type) -> dict[str, Any]:
        import dataclasses  # noqa: PLC0415 - that is the point

        made = {}
        for name, one in getattr(owner, _FIELDS).items():
            arguments: dict[str, Any] = {"repr": one.repr}
            if one.default is not _MISSING:
                arguments["default"] = one.default
            if one.default_factory is not _MISSING:
                arguments["default_factory"] = one.default_factory
            standard: Any = dataclasses.field(**arguments)
            standard.name, standard.type = name, owner.__annotations__[name]
            standard._field_type = dataclasses._FIELD  # type: ignore[attr-defined]  # noqa: SLF001
            made[name] = standard
        return made


def _first_init(self: Any, *arguments: Any, **named: Any) -> None:
    """Compile ``__init__``, use it, and leave it to later instances."""
    cls: Any = next(one for one in type(self).__mro__ if _FIELDS in one.__dict__)
    cls.__init__ = _compiled_init(cls)
    cls.__init__(self, *arguments, **named)


def _compiled_init(cls: Any) -> Any:
    found: Mapping[str, ValueField] = getattr(cls, _FIELDS)
    scope: dict[str, Any] = {"_set": object.__setattr__, "_missing": _MISSING}
    parameters, lines = [], []
    for name, one in found.items():
        value, has_default = name, one.default is not _MISSING
        if one.default_factory is not _MISSING:
            scope[f"_make_{name}"] = one.default_factory
            value = f"_make_{name}() if {name} is _missing else {name}"
            parameters.append(f"{name}=_missing")
        elif has_default:
            scope[f"_default_{name}"] = one.default
            parameters.append(f"{name}=_default_{name}")
        else:
            parameters.append(name)
        lines.append(f"    _set(self, {name!r}, {value})\n")
    if "__post_init__" in cls.__dict__:
        lines.append("    self.__post_init__()\n")
    source = f"def __init__({', '.join(['self', *parameters])}):\n" + "".join(lines or ["    pass"])
    exec(source, scope)  # noqa: S102 - of names in this program
    return scope["__init__"]


# ---- methods -------------------------------------------------------------------------------------


def _values(instance: Any) -> tuple[Any, ...]:
    return tuple([getattr(instance, name) for name in getattr(instance, _FIELDS)])


def _shown(instance: Any) -> Iterator[str]:
    for one in fields(instance):
        if one.repr:
            yield f"{one.name}={getattr(instance, one.name)!r}"


def _repr(self: Any) -> str:
    return f"{type(self).__qualname__}({', '.join(_shown(self))})"


def _eq(self: Any, other: object) -> Any:
    return _values(self) == _values(other) if type(other) is type(self) else NotImplemented


def _hash(self: Any) -> int:
    return hash(_values(self))


def _lt(self: Any, other: object) -> Any:
    return _values(self) < _values(other) if type(other) is type(self) else NotImplemented


def _le(self: Any, other: object) -> Any:
    return _values(self) <= _values(other) if type(other) is type(self) else NotImplemented


def _gt(self: Any, other: object) -> Any:
    return _values(self) > _values(other) if type(other) is type(self) else NotImplemented


def _ge(self: Any, other: object) -> Any:
    return _values(self) >= _values(other) if type(other) is type(self) else NotImplemented


def _getstate(self: Any) -> tuple[Any, ...]:
    return _values(self)


def _setstate(self: Any, state: tuple[Any, ...]) -> None:
    for name, value in zip(getattr(self, _FIELDS), state, strict=True):
        object.__setattr__(self, name, value)


def _refuse_set(self: Any, name: str, _value: Any) -> None:
    _refuse(self, f"cannot assign to field {name!r}")


def _refuse_delete(self: Any, name: str) -> None:
    _refuse(self, f"cannot delete field {name!r}")


def _refuse(_instance: Any, text: str) -> None:
    from dataclasses import FrozenInstanceError  # noqa: PLC0415 - see above

    raise FrozenInstanceError(text)
