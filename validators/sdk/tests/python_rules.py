"""Holds the Python kit to the table that holds the Rust kit too: same codes, same pointers, same messages. Run with the kit in
PYTHONPATH; says what differs, and ends with 1 if anything does. With `--write`, the table gets what this kit says.
"""

import dataclasses
import json
import pathlib
import sys

from eye_validator import U32, Decimal, Pattern, Violations, parse_decimal
from eye_validator.reading import reader

TABLE = pathlib.Path(__file__).with_name("rules.json")


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


def main():
    table, wrong = json.loads(TABLE.read_text()), 0
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
    if "--write" in sys.argv:
        rows = ",\n".join(" " + json.dumps(case) for case in table["rules"])
        decimals = ",\n".join(" " + json.dumps(case) for case in table["decimals"])
        TABLE.write_text(f'{{"rules": [\n{rows}\n], "decimals": [\n{decimals}\n]}}\n')
    print(f"{len(table['rules']) + len(table['decimals'])} cases, {wrong} wrong")
    return 1 if wrong else 0


sys.exit(main())
