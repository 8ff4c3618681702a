"""Amounts of money, exactly: 19.99 is 19.99 and no binary fraction near it."""

import decimal
import re
from decimal import Decimal

#: Digits of a decimal number, before and after the point together.
DIGITS_MAX = 38

# Sums and products of amounts stay exact, and a float beside an amount is a mistake that is told.
for _context in (decimal.DefaultContext, decimal.getcontext()):
    _context.prec = 4 * DIGITS_MAX
    _context.traps[decimal.FloatOperation] = True

_NUMBER = re.compile(r"(-?)(0|[1-9][0-9]*)(?:\.([0-9]+))?(?:[eE]([+-]?)([0-9]+))?")


def parse_decimal(text):
    """The number of a text such as `-1234.50` or `1.5e3`, as JSON writes numbers, or None. It has 38 digits at most."""
    found = _NUMBER.fullmatch(text)
    if found is None:
        return None
    sign, whole, part, minus, exponent = found.groups()
    part = part or ""
    digits = (whole + part).lstrip("0")
    if len(digits) > DIGITS_MAX or len(part) > DIGITS_MAX:
        return None
    if not digits:
        return Decimal(0)
    # No number of 38 digits has an exponent of four.
    exponent = int((exponent or "0").lstrip("0")[:4] or "0") * (-1 if minus == "-" else 1)
    places = len(part) - exponent
    while digits[-1] == "0" and places > 0:
        digits, places = digits[:-1], places - 1
    if places > DIGITS_MAX or len(digits) - min(places, 0) > DIGITS_MAX:
        return None
    return Decimal((1 if sign else 0, tuple(map(int, digits)), -places))


def places_of(number):
    """Digits after the point, without zeros at the end: 2 for 19.99, 0 for 20.00."""
    _, digits, exponent = Decimal(number).as_tuple()
    places = -exponent
    for digit in reversed(digits):
        if digit != 0 or places <= 0:
            break
        places -= 1
    return max(places, 0) if any(digits) else 0


def shown(number):
    """A number as people write it."""
    if not isinstance(number, Decimal):
        return str(number)
    text = format(number, "f")
    return text.rstrip("0").rstrip(".") if "." in text else text
