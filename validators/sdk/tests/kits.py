"""Holds the Python kit to `kits.json`, as `kits.rs` holds the one for Rust: says every difference, and ends with 1 if there is
one. `make test-authors` runs it, with the kit in PYTHONPATH.
"""

import dataclasses
import json
import pathlib
import sys
from typing import Literal

from eye_validator import U8, U32, Decimal, Pattern, Violations, parse_decimal
from eye_validator.data import parse
from eye_validator.decimals import shown
from eye_validator.reading import reader

TABLE = pathlib.Path(__file__).with_name("kits.json")


@dataclasses.dataclass
class Line:
    product: str
    quantity: U32


@dataclasses.dataclass
class Order:
    order: str
    total: Decimal
    paid: bool
    count: U8
    kind: Literal["new", "old"]
    note: str | None
    lines: list[Line]
    shift: int = 0
    more: "dict[str, Decimal] | None" = None


def apply(rule, value):
    violations, name, arguments = Violations(), rule["rule"], rule["arguments"]
    if name == "one_of":
        arguments = [arguments]
    if name == "pattern":
        arguments = [Pattern(arguments[0])]
    if name in ("range", "decimals") and isinstance(value, str):
        value = parse_decimal(value)
        arguments = [parse_decimal(one) if isinstance(one, str) else one for one in arguments]
    getattr(violations, name)("/it", value, *arguments)
    return [dataclasses.asdict(one) for one in violations]


def rows(table):
    """What each row is, what the kit says of it, and what it must say."""
    for rule in table["rules"]:
        told = [{"pointer": "/it", "code": rule["rule"], "message": rule["message"]}]
        for values, wanted in ((rule["holds"], []), (rule["breaks"], told)):
            for value in values:
                yield f"{rule['rule']} {rule['arguments']} of {value!r}", apply(rule, value), wanted
    for wrong in table["wrong_patterns"]:
        try:
            Pattern(wrong)
            yield f"the pattern {wrong!r}", "taken", "refused"
        except ValueError:
            yield f"the pattern {wrong!r}", "refused", "refused"
    for case in table["decimals"]:
        number = parse_decimal(case["text"])
        yield repr(case["text"]), None if number is None else shown(number), case["shown"]
    for case in table["reading"]:
        found = [dataclasses.asdict(one) for one in reader(Order)(case["data"])[1] or ()]
        yield case["data"], sorted(found, key=str), sorted(case.get("python", case["violations"]), key=str)
    for case in table["edits"]:
        data = parse(case["data"])
        data.redact(case["redact"])
        yield case["data"], data.to_text(), case["text"]


def main():
    count, wrong = 0, 0
    for what, found, wanted in rows(json.loads(TABLE.read_text())):
        count += 1
        if found != wanted:
            wrong += 1
            print(f"{what[:200]}: {found}, not {wanted}")
    print(f"{count} rows, {wrong} wrong")
    return 1 if wrong else 0


sys.exit(main())
