"""Turns an event's data into the author's dataclass. Whatever does not fit becomes a violation with its pointer, and all such
reasons are reported together. A type is looked at once, when the module is built; what cannot be read does not build.
"""

import dataclasses
import sys
import types
import typing

from .data import Malformed, Number, Object, objects_of, parse_pairs
from .decimals import Decimal, parse_decimal
from .violations import Place, Violations

#: So many reasons are told of data that does not fit its type.
REASONS_MAX = 33

#: Stands for a value that does not fit.
_UNFIT = object()


@dataclasses.dataclass(frozen=True)
class Whole:
    """The bounds of a whole number."""

    least: int
    most: int


def whole(least, most):
    """The type of a whole number within these bounds: `quantity: whole(1, 100)`."""
    return typing.Annotated[int, Whole(least, most)]


@dataclasses.dataclass(frozen=True)
class Most:
    """The bound of a list."""

    most: int


def at_most(most, wanted):
    """The type of a list of so many elements: `lines: at_most(200, Line)`. A longer one is refused before any element of it
    is read, which a hostile sender could make last longer than an event may take. Code `length`."""
    return typing.Annotated[list[wanted], Most(most)]


U8, U16, U32, U64 = (whole(0, 2**bits - 1) for bits in (8, 16, 32, 64))
I32, I64 = (whole(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) for bits in (32, 64))


class _Enough(Exception):
    """So many reasons were found that no more are looked for."""


def reader(wanted):
    """What reads the text of some data as a type: it gives the value and None, or None and the violations."""
    read = _of(wanted)

    def whole_data(text):
        found = Violations()
        try:
            value = read(parse_pairs(text), "", found)
        except Malformed as malformed:
            found.add("", "json", f"Send JSON: what is at byte {malformed.at} is not.")
        except _Enough:
            pass
        return (None, found) if len(found) else (value, None)

    return whole_data


def _add(found, at, code, message):
    found.add(at, code, message)
    if len(found) >= REASONS_MAX:
        raise _Enough
    return _UNFIT


def _kind(value):
    if isinstance(value, Number):
        return "a number"
    if isinstance(value, str):
        return "a string"
    if isinstance(value, bool):
        return "a boolean"
    if isinstance(value, tuple):
        return "an object"
    return "null" if value is None else "a list"


def _mismatch(found, at, expected, value):
    return _add(found, at, "type", f"Give {expected} here, not {_kind(value)}.")


def _of(wanted):
    """What reads a JSON value as a type."""
    if typing.get_origin(wanted) is typing.Annotated:
        base, *notes = typing.get_args(wanted)
        for note in notes:
            if isinstance(note, Whole):
                return _whole(note)
            if isinstance(note, Most):
                return _list(_of(typing.get_args(base)[0]), note.most)
        return _of(base)
    if wanted in _SIMPLE:
        return _SIMPLE[wanted]()
    if dataclasses.is_dataclass(wanted):
        return _dataclass(wanted)
    origin, arguments = typing.get_origin(wanted), typing.get_args(wanted)
    if origin is list and len(arguments) == 1:
        return _list(_of(arguments[0]))
    if origin is dict and len(arguments) == 2 and arguments[0] is str:
        return _dict(_of(arguments[1]))
    if origin is typing.Union or (sys.version_info >= (3, 10) and origin is types.UnionType):
        others = [one for one in arguments if one is not type(None)]
        if len(others) == 1 and len(arguments) == 2:
            return _optional(_of(others[0]))
    if origin is typing.Literal and all(isinstance(one, str) for one in arguments):
        return _literal(arguments)
    hint = "take Decimal, which holds 19.99 exactly" if wanted is float else (
        "take str, int, bool, Decimal, a dataclass, list[...], dict[str, ...], Literal[...], ... | None or Any"
    )
    raise TypeError(f"a field cannot be read as {wanted}: {hint}")


def _text():
    def read(value, at, found):
        if isinstance(value, str) and not isinstance(value, Number):
            return value
        return _mismatch(found, at, "a string", value)

    return read


def _boolean():
    return lambda value, at, found: value if isinstance(value, bool) else _mismatch(found, at, "a boolean", value)


def _anything():
    return lambda value, _at, _found: objects_of(value)


def _whole(bounds):
    expected = f"a whole number from {bounds.least} to {bounds.most}"
    digits_max = len(str(max(abs(bounds.least), abs(bounds.most)))) + 1

    def read(value, at, found):
        if not isinstance(value, Number):
            return _mismatch(found, at, expected, value)
        # A number without sign has none, not that of zero either.
        if len(value) <= digits_max and value.lstrip("-").isdigit() and not (bounds.least >= 0 and value[0] == "-"):
            number = int(value)
            if bounds.least <= number <= bounds.most:
                return number
        return _add(found, at, "value", f"Give {expected} here.")

    return read


def _decimal():
    expected = "a decimal number such as 19.99"

    def read(value, at, found):
        if not isinstance(value, str):
            return _mismatch(found, at, expected, value)
        number = parse_decimal(value)
        return _add(found, at, "value", f"Give {expected} here.") if number is None else number

    return read


def _object():
    def read(value, at, found):
        return Object(objects_of(value)) if isinstance(value, tuple) else _mismatch(found, at, "an object", value)

    return read


def _optional(read):
    return lambda value, at, found: None if value is None else read(value, at, found)


def _literal(words):
    listed = ", ".join(f"`{word}`" for word in words)

    def read(value, at, found):
        if not isinstance(value, str) or isinstance(value, Number):
            return _mismatch(found, at, "a string", value)
        return value if value in words else _add(found, at, "unknown_value", f"Give one of {listed} here.")

    return read


def _list(read, most=None):
    def list_of(value, at, found):
        if not isinstance(value, list):
            return _mismatch(found, at, "a list", value)
        if most is not None and len(value) > most:
            return _add(found, at, "length", f"Give no more than {most} elements here.")
        return [read(item, Place(at, index), found) for index, item in enumerate(value)]

    return list_of


def _dict(read):
    def dict_of(value, at, found):
        if not isinstance(value, tuple):
            return _mismatch(found, at, "an object", value)
        return {key: read(part, Place(at, key), found) for key, part in value}

    return dict_of


def _dataclass(wanted):
    hints = typing.get_type_hints(wanted, include_extras=True)
    readers, needed, blanks = {}, [], {}
    for field in dataclasses.fields(wanted):
        # A key that is no name of Python's, such as `class`, is named in the field's metadata.
        key = field.metadata.get("key", field.name)
        readers[key] = (field.name, _of(hints[field.name]))
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            if type(None) in typing.get_args(hints[field.name]):
                blanks[field.name] = None
            else:
                needed.append((key, field.name))

    def read(value, at, found):
        if not isinstance(value, tuple):
            return _mismatch(found, at, "an object", value)
        given = {}
        for key, part in value:
            field = readers.get(key)
            if field is None:
                continue
            if field[0] in given:
                _add(found, Place(at, key), "duplicate", f"Give the field `{key}` only once.")
                continue
            given[field[0]] = field[1](part, Place(at, key), found)
        for key, name in needed:
            if name not in given:
                _add(found, Place(at, key), "required", f"Add the field `{key}`.")
        # The author's own checks in `__post_init__` see no half of an object.
        return _UNFIT if len(found) else wanted(**{**blanks, **given})

    return read


_SIMPLE = {
    str: _text, bool: _boolean, Decimal: _decimal, typing.Any: _anything, Object: _object, dict: _object,
    int: lambda: _whole(Whole(-(2**63), 2**63 - 1)),
}
