// Judges `EVENT_TYPE`. Promises that a stored event names an order, who placed it, and an amount in a currency.
//
// This is an order, to begin with. Change the shape to your data and the rules to yours; `eye validator test` says what became
// of it.

import {
  accept,
  Decimal,
  decimal,
  type Event,
  list,
  object,
  Pattern,
  type Read,
  reject,
  text,
  type Verdict,
  Violations,
  validator,
  whole,
} from "eye-validator";

/** What an order number looks like. A wrong pattern does not build. */
const ORDER = new Pattern("[A-Z]{2}-\\d{4,8}");

/** The data of the event. Other fields are let pass; a field that may be missing is `optional(...)`. */
const order = object({
  order: text(),
  email: text(),
  total: decimal(),
  currency: text(),
  lines: list(object({ product: text(), quantity: whole(0, 4_294_967_295) })),
});

/** The rules. Data of another shape never comes here: it is rejected with `required`, `type` or `value`. */
function judge(event: Event<Read<typeof order>>): Verdict {
  const { order, email, total, currency, lines } = event.data;
  const violations = new Violations();
  violations.pattern("/order", order, ORDER);
  violations.email("/email", email);
  violations.decimals("/total", total, 2);
  violations.range("/total", total, Decimal.of("0.01"), Decimal.of("1000000"));
  violations.currency("/currency", currency);
  violations.length("/lines", lines, 1, 200);
  violations.each("/lines", lines, (violations, at, line) => {
    violations.length(at.key("product"), line.product, 1, 80);
    violations.range(at.key("quantity"), line.quantity, 1, 10_000);
  });
  return violations.verdict();
}

const right = `{"order":"EU-1042","email":"ada@shop.example","total":19.99,"currency":"EUR",
  "lines":[{"product":"tea","quantity":2}]}`;

export default validator({
  summary: "An order was placed: number, e-mail address, total with currency, and its lines.",
  data: order,
  judge,
  examples: [
    accept("an order", right),
    accept("an amount as text", right.replace("19.99", '"19.99"').replace("{", '{"note":"other fields pass",')),
    reject("half a cent", right.replace("19.99", "0.005")),
    reject("no lines", right.replace(/\[.*\]/, "[]")),
    reject("nothing", "{}"),
  ],
});
