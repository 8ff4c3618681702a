"""What the gateway calls, made of an author's function, a summary and examples."""

import dataclasses
import typing

from .data import Malformed, Object, parse, readable
from .reading import reader
from .violations import Verdict

T = typing.TypeVar("T")

#: The time at which an example's event occurs, if it says none.
_MADE_UP_TIME = 1_767_604_527_000_000


@dataclasses.dataclass
class Event(typing.Generic[T]):
    """One fact that an application reported, with its data read as `T`."""

    #: The event's UUID in lower case with hyphens.
    id: str
    #: The name of the application that sent the event.
    application: str
    #: The session's UUID in lower case with hyphens.
    session_id: str
    #: The first half of the event type, and the second.
    category: str
    name: str
    #: When the event occurred, in microseconds since 1970-01-01T00:00:00Z.
    timestamp: int
    #: When the gateway received the event first, in microseconds since then. It is the same whenever it is judged again.
    received_at: int
    #: The event's data, as far as `T` names it.
    data: T
    #: The text of the whole data, as the sender wrote it.
    text: str

    def object(self):
        """The whole data, to be edited and given to `Violations.verdict_with`."""
        return parse(self.text)


@dataclasses.dataclass(frozen=True)
class Example:
    """An example by which the gateway tries a module before it trusts it."""

    title: str
    data: str
    expect: str
    name: "str | None" = None
    timestamp: "int | None" = None
    application: "str | None" = None
    codes: tuple = ()


def accept(title, data, **more):
    """An example that is stored as it is. `more` may name a `name`, a `timestamp` and an `application`."""
    return _example(title, data, "accept", more)


def amend(title, data, **more):
    """An example that is stored with other data."""
    return _example(title, data, "amend", more)


def reject(title, data, **more):
    """An example that is not stored. `codes` may name the codes of its violations, in any order."""
    return _example(title, data, "reject", more)


def _example(title, data, expect, more):
    try:
        is_object = isinstance(parse(data), Object)
    except Malformed:
        is_object = False
    if not is_object:
        raise ValueError(f"the data of the example {title!r} is not the text of a JSON object")
    return Example(title, data, expect, **{**more, "codes": tuple(more.get("codes", ()))})


def validator(judge, *, summary, examples, redact=None):
    """What the gateway calls, for a function whose one parameter is an `Event[T]`. `redact` is a function that gets the data
    of an event that is not stored, an `Object`, and returns what may be kept of it."""
    hints = typing.get_type_hints(judge, include_extras=True)
    hints.pop("return", None)
    wanted = typing.get_args(next(iter(hints.values()), None))
    if len(hints) != 1 or len(wanted) != 1:
        raise TypeError("the function that judges has one parameter with a type: `def judge(event: Event[Order])`")
    if redact is None and any(example.expect == "amend" for example in examples):
        raise TypeError(
            "this validator changes data, so it must say what may be kept of an event that is not stored: give `redact`, "
            "a function that takes out of the data what nobody is to read (`redact=lambda data: data` keeps all)"
        )

    class WitWorld(_Rules):
        _read, _judge, _redact = staticmethod(reader(wanted[0])), staticmethod(judge), redact and staticmethod(redact)
        _summary, _examples = summary, tuple(examples)

    return WitWorld


class _Rules:
    """The functions of the contract, in its own words. On a machine without the gateway's, only `judge` is used."""

    @classmethod
    def judge(cls, event, received_at):
        """The verdict of the author's function, or the reasons why the data does not fit its type."""
        data, unfit = cls._read(event.data)
        if unfit is not None:
            return unfit.verdict()
        verdict = cls._judge(Event(
            event.id, event.application, event.session_id, event.category, event.name, event.timestamp, received_at,
            data, event.data,
        ))
        if not isinstance(verdict, Verdict):
            raise TypeError(f"the function that judges returned {type(verdict).__name__}: end with `violations.verdict()`")
        return verdict

    @classmethod
    def try_examples(cls):
        """Judges every example once, so that a mistake is told with its line while the module is built."""
        for example in cls._examples:
            timestamp = _MADE_UP_TIME if example.timestamp is None else example.timestamp
            event = Event(
                "0198c8b2-41d7-7e0a-9c35-7d2f60a1b9e4", example.application or "test",
                "8f14e45f-ceea-467f-a9d2-1c7b3f5e6a70", "test", example.name or "test", timestamp, timestamp,
                example.data, example.data,
            )
            cls.judge(event, timestamp)
            cls._kept(example.data)

    @classmethod
    def _kept(cls, text):
        if cls._redact is None:
            return text
        try:
            data = parse(text)
        except Malformed:
            data = None
        # What is no object is no event, so there is nothing to be kept.
        if not isinstance(data, Object):
            return "{}"
        kept = cls._redact(data)
        if not isinstance(kept, Object):
            raise TypeError("redact returns the object that it was given, without what nobody is to read")
        return kept.to_text()

    def describe(self):
        from wit_world.imports import types

        plain = [one for one in self._examples if not _says_more(one)]
        examples = [types.Example(one.title, one.data, _expectation(one)) for one in plain]
        return types.Description(self._summary, examples)

    def examples(self):
        from wit_world.imports import trials

        return [
            trials.Example2(
                one.title, one.name, one.timestamp, one.application, one.data, _expectation(one), list(one.codes)
            )
            for one in self._examples
            if _says_more(one)
        ]

    def validate(self, event):
        return _verdict(self.judge(event, event.timestamp))

    def validate_at(self, event, received_at):
        return _verdict(self.judge(event, received_at))

    def redact(self, data):
        return self._kept(data)


def _says_more(example):
    return bool(example.codes) or (example.name, example.timestamp, example.application) != (None, None, None)


def _expectation(example):
    from wit_world.imports import types

    return types.Expectation[example.expect.upper()]


def _verdict(verdict):
    from wit_world.imports import types

    if verdict.kind == "accept":
        return types.Verdict_Accept()
    if verdict.kind == "amend":
        return types.Verdict_Amend(readable(verdict.data))
    return types.Verdict_Reject([types.Violation(one.pointer, one.code, one.message) for one in verdict.violations])
