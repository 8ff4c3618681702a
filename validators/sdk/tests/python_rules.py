"""Holds the Python kit to the table that holds the Rust kit too: same codes, same pointers, same messages. Run with the kit in
PYTHONPATH; says what differs, and ends with 1 if anything does. With `--write`, the table gets what this kit says.
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

TABLE = pathlib.Path(__file__).with_name("rules.json")
SAME = pathlib.Path(__file__).with_name("same.json")


@dataclasses.dataclass
class Line:
    product: str
    quantity: U32


@dataclasses.dataclass
class Order:
    order: str
    total: Decimal
    paid: bool
    lines: list[Line]
    note: str | None
    shift: int = 0
    more: "dict[str, Decimal] | None" = None


@dataclasses.dataclass
class Parcel:
    order: str
    total: Decimal
    paid: bool
    count: U8
    kind: Literal["new", "old"]
    note: str | None
    lines: list[Line]


def hold(case):
    rule, value, violations = case["rule"], case["value"], Violations()
    if rule == "read":
        found = reader(Order)(value)[1]
        return [dataclasses.asdict(one) for one in found or ()]
    method, arguments = getattr(violations, rule), case.get("arguments", [])
    if rule == "pattern":
        arguments = [Pattern(arguments[0])]
    if rule in ("range", "decimals") and isinstance(value, str):
        value = parse_decimal(value)
        arguments = [parse_decimal(one) if isinstance(one, str) else one for one in arguments]
    method("/at", value, *arguments)
    return [dataclasses.asdict(one) for one in violations]


def hold_more(table):
    """The same for a table in which each rule has the values that hold and those that break it."""
    for rule in table["rules"]:
        for value in rule["holds"] + rule["breaks"]:
            told = {"pointer": "/at", "code": rule["rule"], "message": rule["message"]}
            arguments = [rule["arguments"]] if rule["rule"] == "one_of" else rule["arguments"]
            found = hold({"rule": rule["rule"], "value": value, "arguments": arguments})
            yield f"{rule['rule']} of {value!r}", found, [told] if value in rule["breaks"] else []
    for wrong in table["wrong_patterns"]:
        try:
            Pattern(wrong)
        except ValueError:
            continue
        yield f"the pattern {wrong!r}", "taken", "refused"
    for case in table["decimals"]:
        number = parse_decimal(case["text"])
        yield f"{case['text']!r}", None if number is None else shown(number), case["shown"]
    for case in table["reading"]:
        found = [dataclasses.asdict(one) for one in reader(Parcel)(case["data"])[1] or ()]
        yield case["data"], sorted(found, key=str), sorted(case["violations"], key=str)
    for case in table["edits"]:
        data = parse(case["data"])
        data.redact(case["redact"])
        yield case["data"], data.to_text(), case["text"]


def main():
    table, wrong, more = json.loads(TABLE.read_text()), 0, 0
    for case in table["rules"]:
        found = hold(case)
        if "--write" in sys.argv:
            case["violations"] = found
        elif found != case["violations"]:
            wrong += 1
            print(f"{case['rule']} of {case['value']!r}: {found}, not {case['violations']}")
    for text, whole in table["decimals"]:
        number = parse_decimal(text)
        if (number is None) != (whole is None) or (number is not None and number != parse_decimal(whole)):
            wrong += 1
            print(f"{text!r} is {number}, not {whole}")
    if SAME.exists():
        for what, found, wanted in hold_more(json.loads(SAME.read_text())):
            more += 1
            if found != wanted:
                wrong += 1
                print(f"{what[:200]}: {found}, not {wanted}")
    if "--write" in sys.argv:
        rows = ",\n".join(" " + json.dumps(case) for case in table["rules"])
        decimals = ",\n".join(" " + json.dumps(case) for case in table["decimals"])
        TABLE.write_text(f'{{"rules": [\n{rows}\n], "decimals": [\n{decimals}\n]}}\n')
    print(f"{len(table['rules']) + len(table['decimals']) + more} cases, {wrong} wrong")
    return 1 if wrong else 0


sys.exit(main())
