"""Reads and writes the data of an event. Numbers keep the text that the sender wrote, so that none loses a digit."""

import json
import re
from decimal import Decimal
from json.encoder import encode_basestring

#: Containers may be nested this deep. The gateway lets pass 64 by default.
DEPTH_MAX = 128

_SURROGATE = re.compile("[\ud800-\udfff]")


class Malformed(ValueError):
    """The text is not JSON. `at` is the byte at which it stops making sense."""

    def __init__(self, at):
        super().__init__(f"not JSON at byte {at}")
        self.at = at


class Number(str):
    """The text of a JSON number."""

    __slots__ = ()


class Object(dict):
    """An object of the data, which may be edited."""

    __slots__ = ()

    def remove(self, key):
        """Takes a key away, and says whether it was there."""
        return self.pop(key, self) is not self

    def redact(self, pointers):
        """Puts `[redacted]` in place of the values at these pointers, whatever they are. In a pointer, `*` stands for any
        key or index: `/cards/*/number`. What is not there is passed over."""
        for pointer in pointers:
            tokens = [token.replace("~1", "/").replace("~0", "~") for token in pointer.split("/")[1:]]
            if tokens:
                _redact(self, tokens)

    def to_text(self):
        """The object as JSON text."""
        return to_text(self)


class Repeating(Object):
    """An object that has a key twice. The last value counts; `pairs` has all."""

    __slots__ = ("pairs",)


def _object(pairs):
    made = Object(pairs)
    if len(made) != len(pairs):
        made = Repeating(pairs)
        made.pairs = pairs
    return made


def _constant(_text):
    raise ValueError("no number of JSON")


_DECODER = json.JSONDecoder(
    object_pairs_hook=_object, parse_float=Number, parse_int=Number, parse_constant=_constant
)
_BLANK = re.compile(r"[ \t\r\n]*")


def parse(text):
    """The value of a JSON text."""
    at = _BLANK.match(text).end()
    try:
        if _too_deep(text):
            raise Malformed(0)
        value, end = _DECODER.raw_decode(text, at)
    except json.JSONDecodeError as error:
        raise Malformed(_bytes(text, error.pos)) from None
    except (ValueError, RecursionError) as error:
        raise error if isinstance(error, Malformed) else Malformed(0) from None
    end = _BLANK.match(text, end).end()
    if end != len(text):
        raise Malformed(_bytes(text, end))
    return value


def _too_deep(text):
    """Whether the text could be nested too deep; only a text with so many brackets is looked at."""
    if text.count("[") + text.count("{") <= DEPTH_MAX:
        return False
    depth = 0
    for found in re.finditer(r'"(?:[^"\\]|\\.)*"|[\[{]|[\]}]', text, re.DOTALL):
        sign = found.group()
        if sign in "[{":
            depth += 1
            if depth > DEPTH_MAX:
                return True
        elif sign in "]}":
            depth -= 1
    return False


def _bytes(text, at):
    return len(text[:at].encode("utf-8", "replace"))


def readable(text):
    """A text without halves of characters, which no other program takes."""
    return _SURROGATE.sub("\ufffd", text)


def _quoted(text):
    return _SURROGATE.sub(lambda half: f"\\u{ord(half.group()):04x}", encode_basestring(text))


def to_text(value):
    """A value as JSON text."""
    if isinstance(value, Number):
        return str(value)
    if isinstance(value, str):
        return _quoted(value)
    if isinstance(value, dict):
        return "{" + ",".join(f"{_quoted(key)}:{to_text(part)}" for key, part in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ",".join(map(to_text, value)) + "]"
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, Decimal):
        return format(value, "f")
    raise TypeError(f"{type(value).__name__} is nothing that JSON holds exactly: give text, a whole number or a Decimal")


def _redact(value, tokens):
    token, rest = tokens[0], tokens[1:]
    if isinstance(value, dict):
        places = list(value) if token == "*" else [token] if token in value else []
    elif isinstance(value, list):
        places = [at for at in range(len(value)) if token == "*" or token == str(at)]
    else:
        return
    for place in places:
        if rest:
            _redact(value[place], rest)
        else:
            value[place] = "[redacted]"
