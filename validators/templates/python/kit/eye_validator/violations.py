"""Collects the reasons why an event is rejected, so that the sender is told all of them at once. Each rule has a method,
with a code of its own and a message that says how to mend the event. No message quotes a value of the event, which may
be a secret.
"""

from dataclasses import dataclass

from . import rules
from .data import readable, to_text
from .decimals import places_of, shown

#: The gateway takes no more violations than this of one event.
VIOLATIONS_MAX = 100


@dataclass(frozen=True)
class Violation:
    """One reason why an event is rejected."""

    pointer: str
    code: str
    message: str


@dataclass(frozen=True)
class Verdict:
    """What a validator says of an event: `accept`, `amend` with data, `reject` with violations."""

    kind: str
    data: str = ""
    violations: tuple = ()


class Place:
    """The place of a value in an event's data. It becomes an RFC 6901 pointer only when a rule does not hold."""

    __slots__ = ("_above", "_token")

    def __init__(self, above, token):
        self._above, self._token = above, token

    def key(self, key):
        """The value of a key within this one."""
        return Place(self, key)

    def item(self, index):
        """An element of this list, from 0."""
        return Place(self, index)

    def pointer(self):
        """The RFC 6901 pointer."""
        tokens, place = [], self
        while isinstance(place, Place):
            tokens.append(str(place._token))
            place = place._above
        return place + pointer(reversed(tokens))


def pointer(tokens):
    """Makes an RFC 6901 pointer of keys and indexes: `pointer(["commits", "0", "a/b"])` is `/commits/0/a~1b`."""
    return "".join("/" + token.replace("~", "~0").replace("/", "~1") for token in tokens)


class Violations:
    """The reasons found so far."""

    __slots__ = ("_found",)

    def __init__(self):
        self._found = []

    def require(self, held, at, code, message):
        """Adds a violation unless `held` is true, and gives `held` back. `at` is the pointer of the value, or its place."""
        if not held:
            self.add(at, code, message)
        return held

    def add(self, at, code, message):
        """Adds a violation. After the hundredth, nothing is added: the gateway takes no more."""
        if len(self._found) < VIOLATIONS_MAX:
            at = at.pointer() if isinstance(at, Place) else at
            self._found.append(Violation(readable(at), code, readable(message)))

    def required(self, at, value):
        """A value that may be missing by its type and must be there by a rule. Gives it back. Code `required`."""
        self.require(value is not None, at, "required", "Add this field.")
        return value

    def one_of(self, at, text, allowed):
        """A text is one of these. Code `one_of`."""
        held = text in allowed
        if not held:
            self.add(at, "one_of", f"Give one of {', '.join(f'`{word}`' for word in allowed)}.")
        return held

    def length(self, at, value, least, most):
        """A text has so many characters, or a list so many elements. Code `length`."""
        held = least <= len(value) <= most
        if not held:
            unit = "characters" if isinstance(value, str) else "elements"
            self.add(at, "length", f"Give {least} to {most} {unit}.")
        return held

    def range(self, at, number, least, most):
        """A number is within these bounds: a whole number or a Decimal. Code `range`."""
        held = least <= number <= most
        if not held:
            self.add(at, "range", f"Give a number from {shown(least)} to {shown(most)}.")
        return held

    def decimals(self, at, number, places_max):
        """A decimal number has so many digits after the point at most: 2 for most currencies. Code `decimals`."""
        held = places_of(number) <= places_max
        if not held:
            self.add(at, "decimals", f"Give a number with {places_max} digits after the point at most.")
        return held

    def pattern(self, at, text, pattern):
        """The whole of a text matches a pattern. Code `pattern`."""
        held = pattern.matches(text)
        if not held:
            self.add(at, "pattern", f"Give a text of the form `{pattern.text}`.")
        return held

    def email(self, at, text):
        """A text is an e-mail address, see `is_email`. Code `email`."""
        return self.require(rules.is_email(text), at, "email", "Give an e-mail address, such as `ada@shop.example`.")

    def url(self, at, text):
        """A text is the address of a page, see `is_url`. Code `url`."""
        message = "Give an address such as `https://shop.example/shoes`, without a password in it."
        return self.require(rules.is_url(text), at, "url", message)

    def uuid(self, at, text):
        """A text is a UUID. Code `uuid`."""
        message = "Give a UUID, such as `0198c8b2-41d7-7e0a-9c35-7d2f60a1b9e4`."
        return self.require(rules.is_uuid(text), at, "uuid", message)

    def host(self, at, text):
        """A text is a host name, see `is_host_name`. Code `host`."""
        message = "Give the host name alone, such as `shop.example`: no scheme, port or path."
        return self.require(rules.is_host_name(text), at, "host", message)

    def currency(self, at, text):
        """A text is a currency by ISO 4217. Code `currency`."""
        message = "Give the three letters of a currency by ISO 4217, such as `EUR`."
        return self.require(rules.is_currency(text), at, "currency", message)

    def country(self, at, text):
        """A text is a country by ISO 3166-1. Code `country`."""
        message = "Give the two letters of a country by ISO 3166-1, such as `DE`."
        return self.require(rules.is_country(text), at, "country", message)

    def each(self, at, items):
        """Each element of a list with its place. Ends early once no more violations are kept."""
        for index, item in enumerate(items):
            if len(self._found) >= VIOLATIONS_MAX:
                return
            yield Place(at, index), item

    def __iter__(self):
        return iter(self._found)

    def __len__(self):
        return len(self._found)

    def verdict(self):
        """Accepts the event as it was sent if there are no violations, else rejects it."""
        return Verdict("reject", violations=tuple(self._found)) if self._found else Verdict("accept")

    def verdict_with(self, data):
        """Accepts the event with changed data if there are no violations, else rejects it."""
        return self.verdict() if self._found else Verdict("amend", data=to_text(data))
