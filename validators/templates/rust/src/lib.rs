//! Judges `EVENT_TYPE`. Promises that a stored event names an order, who placed it, and an amount in a currency.
//!
//! This is an order, to begin with. Change the type to your data and the rules to yours; `eye validator test` says what
//! became of it.

use std::borrow::Cow;

use eye_validator::{Decimal, Event, Pattern, Verdict, Violations};
use serde::Deserialize;

/// What an order number looks like. A wrong pattern does not compile.
const ORDER: Pattern = Pattern::new("[A-Z]{2}-\\d{4,8}");

/// The data of the event. Other fields are let pass; a field that may be missing is an `Option`.
#[derive(Deserialize)]
struct Order<'a> {
    #[serde(borrow)]
    order: Cow<'a, str>,
    #[serde(borrow)]
    email: Cow<'a, str>,
    total: Decimal,
    #[serde(borrow)]
    currency: Cow<'a, str>,
    #[serde(borrow)]
    lines: Vec<Line<'a>>,
}

#[derive(Deserialize)]
struct Line<'a> {
    #[serde(borrow)]
    product: Cow<'a, str>,
    quantity: u32,
}

/// The rules. Data that does not fit the type never comes here: it is rejected with `required`, `type` or `value`.
fn judge(event: &Event<Order>) -> Verdict {
    let Order { order, email, total, currency, lines } = &event.data;
    let mut violations = Violations::new();
    violations.pattern("/order", order, &ORDER);
    violations.email("/email", email);
    violations.decimals("/total", *total, 2);
    violations.range("/total", *total, Decimal::of("0.01")..=Decimal::of("1000000"));
    violations.currency("/currency", currency);
    violations.length("/lines", lines, 1..=200);
    violations.each("/lines", lines, |violations, at, line| {
        violations.length(at.key("product"), &line.product, 1..=80);
        violations.range(at.key("quantity"), line.quantity, 1..=10_000);
    });
    violations.verdict()
}

eye_validator::validator! {
    judge,
    summary: "An order was placed: number, e-mail address, total with currency, and its lines.",
    examples: [
        accept "an order": r#"{"order":"EU-1042","email":"ada@shop.example","total":19.99,"currency":"EUR",
            "lines":[{"product":"tea","quantity":2}]}"#,
        accept "an amount as text": r#"{"order":"EU-1042","email":"ada@shop.example","total":"19.99","currency":"EUR",
            "lines":[{"product":"tea","quantity":2}],"note":"other fields pass"}"#,
        reject "half a cent": r#"{"order":"EU-1042","email":"ada@shop.example","total":0.005,"currency":"EUR",
            "lines":[{"product":"tea","quantity":2}]}"#,
        reject "no lines": r#"{"order":"EU-1042","email":"ada@shop.example","total":19.99,"currency":"EUR","lines":[]}"#,
        reject "nothing": "{}",
    ],
}
