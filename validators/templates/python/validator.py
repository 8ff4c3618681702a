"""Judges `EVENT_TYPE`. Promises that a stored event names an order, who placed it, and an amount in a currency.

This is an order, to begin with. Change the dataclasses to your data and the rules to yours; `eye validator test` says what
became of it.
"""

from dataclasses import dataclass

from eye_validator import U32, Decimal, Event, Pattern, Verdict, Violations, accept, at_most, reject, validator

# What an order number looks like. A wrong pattern does not build.
ORDER = Pattern(r"[A-Z]{2}-\d{4,8}")


@dataclass
class Line:
    product: str
    quantity: U32


@dataclass
class Order:
    """The data of the event. Other fields are let pass; a field that may be missing is `... | None`. A list has a bound, so
    that no sender makes one that takes longer than an event may."""

    order: str
    email: str
    total: Decimal
    currency: str
    lines: at_most(200, Line)


def judge(event: Event[Order]) -> Verdict:
    """The rules. Data that does not fit the type never comes here: it is rejected with `required`, `type` or `value`."""
    data, violations = event.data, Violations()
    violations.pattern("/order", data.order, ORDER)
    violations.email("/email", data.email)
    violations.decimals("/total", data.total, 2)
    violations.range("/total", data.total, Decimal("0.01"), Decimal("1000000"))
    violations.currency("/currency", data.currency)
    violations.length("/lines", data.lines, 1, 200)
    for at, line in violations.each("/lines", data.lines):
        violations.length(at.key("product"), line.product, 1, 80)
        violations.range(at.key("quantity"), line.quantity, 1, 10_000)
    return violations.verdict()


WitWorld = validator(
    judge,
    summary="An order was placed: number, e-mail address, total with currency, and its lines.",
    examples=[
        accept("an order", """{"order":"EU-1042","email":"ada@shop.example","total":19.99,"currency":"EUR",
            "lines":[{"product":"tea","quantity":2}]}"""),
        accept("an amount as text", """{"order":"EU-1042","email":"ada@shop.example","total":"19.99","currency":"EUR",
            "lines":[{"product":"tea","quantity":2}],"note":"other fields pass"}"""),
        reject("half a cent", """{"order":"EU-1042","email":"ada@shop.example","total":0.005,"currency":"EUR",
            "lines":[{"product":"tea","quantity":2}]}"""),
        reject("no lines", """{"order":"EU-1042","email":"ada@shop.example","total":19.99,"currency":"EUR","lines":[]}"""),
        reject("nothing", "{}", codes=["required"]),
    ],
)
