"""Dataclasses without their cost: the standard library's are the oracle."""

from __future__ import annotations

import copy
import dataclasses
import pickle
from collections.abc import Callable
from typing import Any

import pytest

from unionmount.system import values


def make(module: Any, **how: bool) -> Any:
    """The same class by one of the two."""

    @module.dataclass(**how)
    class Sample:
        """A class."""

        name: str
        size: int = 3
        secret: str = module.field(default="x", repr=False)
        parts: list[int] = module.field(default_factory=list)

        @property
        def double(self) -> int:
            return self.size * 2

    return Sample


KINDS: tuple[dict[str, bool], ...] = (
    {},
    {"frozen": True},
    {"slots": True},
    {"frozen": True, "slots": True},
)
ORDERED = {"frozen": True, "slots": True, "order": True}


def outcome(action: Callable[[], Any]) -> Any:
    """What comes of it, so that two can be compared."""
    try:
        return action()
    except (TypeError, AttributeError) as error:
        return type(error)


def observe(cls: Any) -> list[Any]:
    """All that can be seen of a class."""
    one, other = cls("a"), cls("a", 4, parts=[1])

    def assign() -> None:
        one.size = 7

    def delete() -> None:
        del one.name

    def add() -> None:
        one.nothing = 1

    return [
        repr(one),
        repr(other),
        one == cls("a"),
        one == other,
        one == "a",
        one.parts is not cls("a").parts,
        other.double,
        outcome(cls),
        outcome(lambda: cls("a", wrong=1)),
        outcome(lambda: cls(1, 2, 3, 4, 5)),
        outcome(lambda: hash(cls("a", parts=()))) == outcome(lambda: hash(("a", 3, "x", ()))),
        outcome(lambda: hash(other)),
        outcome(assign),
        outcome(add) is None,  # the error differs: that of the standard library is by mistake
        outcome(delete),
        outcome(lambda: other < one),
        copy.copy(other) == other,
        copy.deepcopy(other) == other,
        [one.name for one in dataclasses.fields(cls)],
        dataclasses.asdict(other),
        dataclasses.replace(other, size=9).size,
        dataclasses.is_dataclass(other),
        cls.__match_args__,
        cls.__name__,
        cls.__qualname__,
        cls.__doc__,
        hasattr(one, "__dict__"),
    ]


@pytest.mark.parametrize("how", KINDS, ids=str)
def test_it_is_a_dataclass(how: dict[str, bool]) -> None:
    assert observe(make(values, **how)) == observe(make(dataclasses, **how))


def test_values_are_ordered() -> None:
    ours, theirs = (make(module, **ORDERED) for module in (values, dataclasses))
    pairs = [("a", "b"), ("b", "a"), ("a", "a")]
    for name, operator in {"lt": "__lt__", "le": "__le__", "gt": "__gt__", "ge": "__ge__"}.items():
        compared = [getattr(ours(x), operator)(ours(y)) for x, y in pairs]
        assert compared == [getattr(theirs(x), operator)(theirs(y)) for x, y in pairs], name
    assert outcome(lambda: ours("a") < 1) is TypeError


def test_its_own_functions_agree() -> None:
    cls = make(values, frozen=True, slots=True)
    one = cls("a", parts=[1])
    assert [one.name for one in values.fields(cls)] == ["name", "size", "secret", "parts"]
    assert values.asdict(one) == dataclasses.asdict(one)
    assert values.replace(one, size=9) == dataclasses.replace(one, size=9)
    with pytest.raises(TypeError):
        values.replace(one, wrong=1)
    with pytest.raises(dataclasses.FrozenInstanceError):
        one.size = 4


@values.dataclass(frozen=True, slots=True)
class Pickled:
    name: str


def test_values_are_pickled() -> None:
    assert pickle.loads(pickle.dumps(Pickled("a"))) == Pickled("a")
