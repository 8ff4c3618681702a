"""Write a validator for The Eye: one function over a dataclass, and a few examples.

Data that does not fit the dataclass never reaches the function: it is rejected, with a violation for each field that is
missing (`required`) or wrong (`type`, `value`). Fields that the dataclass does not name are let pass.
"""

from .contract import Event, Verdict, accept, amend, reject, validator
from .data import Object
from .decimals import Decimal, parse_decimal, places_of
from .pattern import Pattern
from .reading import I32, I64, U8, U16, U32, U64, at_most, whole
from .rules import is_country, is_currency, is_email, is_host_name, is_url, is_uuid
from .violations import Place, Violation, Violations, pointer

__all__ = [
    "Decimal", "Event", "I32", "I64", "Object", "Pattern", "Place", "U16", "U32", "U64", "U8", "Verdict", "Violation",
    "Violations", "accept", "amend", "at_most", "is_country", "is_currency", "is_email", "is_host_name", "is_url", "is_uuid",
    "parse_decimal", "places_of", "pointer", "reject", "validator", "whole",
]
