"""Reads and writes the data of an event. Numbers keep the text that the sender wrote, so that none loses a digit."""

import json
import re
from decimal import Decimal
from json.encoder import c_make_encoder, encode_basestring

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


def _constant(_text):
    raise ValueError("no number of JSON")


def _decoder(objects):
    return json.JSONDecoder(object_pairs_hook=objects, parse_float=Number, parse_int=Number, parse_constant=_constant)


# Neither calls a function of Python's for an object, of which a hostile sender sends very many. As pairs, a key that is there
# twice is seen.
_PAIRS, _OBJECTS = _decoder(tuple), _decoder(None)
_BLANK = re.compile(r"[ \t\r\n]*")


def parse(text):
    """The value of a JSON text. Of a key that is there twice, the last value counts."""
    value = _parse(_OBJECTS, text)
    return Object(value) if isinstance(value, dict) else value


def parse_pairs(text):
    """The value of a JSON text, with each object as a tuple of its pairs."""
    return _parse(_PAIRS, text)


def objects_of(value):
    """A value that has pairs, with objects in their place."""
    if isinstance(value, tuple):
        return {key: objects_of(part) for key, part in value}
    return [objects_of(part) for part in value] if isinstance(value, list) else value


def _parse(decoder, text):
    try:
        value, end = decoder.raw_decode(text, _BLANK.match(text).end())
    except json.JSONDecodeError as error:
        raise Malformed(_bytes(text, error.pos)) from None
    except (ValueError, RecursionError):
        # No number of JSON, or nested deeper than any gateway lets pass.
        raise Malformed(0) from None
    end = _BLANK.match(text, end).end()
    if end != len(text):
        raise Malformed(_bytes(text, end))
    return value


def _bytes(text, at):
    return len(text[:at].encode("utf-8", "replace"))


def readable(text):
    """A text without halves of characters, which no other program takes."""
    return _SURROGATE.sub("\ufffd", text)


def _quoted(text):
    if isinstance(text, Number):
        return str(text)
    return _SURROGATE.sub(lambda half: f"\\u{ord(half.group()):04x}", encode_basestring(text))


def _other(value):
    if isinstance(value, Decimal):
        return Number(format(value, "f"))
    raise TypeError(f"{type(value).__name__} is nothing that JSON has: give text, a number, a list or a dict")


# Python's own writer in C, with the text of numbers as it is. It is no public part of `json`; the pinned tool has it.
_WRITE = c_make_encoder(None, _other, _quoted, None, ":", ",", False, False, False)


def to_text(value):
    """A value as JSON text."""
    return "".join(_WRITE(value, 0))


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
