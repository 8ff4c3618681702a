// Holds the kit for TypeScript to `kits.json`, as `kits.rs` holds the one for Rust: says every difference, and exits with 1 if
// there is one. `make test-authors` runs it within a new project.

import {
  big,
  choice,
  Decimal,
  decimal,
  flag,
  JsonObject,
  list,
  map,
  object,
  optional,
  Pattern,
  text,
  Violations,
  validator,
  whole,
} from "eye-validator";
import table from "./kits.json";

declare const process: { exitCode: number };
declare const console: { log(text: string): void };

let rows = 0;

function expect(what: string, found: unknown, wanted: unknown): void {
  rows += 1;
  const [one, other] = [JSON.stringify(found), JSON.stringify(wanted)];
  if (one === other) return;
  console.log(`${what.slice(0, 200)}\n  wanted ${other}\n  found  ${one}`);
  process.exitCode = 1;
}

function apply(violations: Violations, rule: (typeof table.rules)[number], value: unknown): boolean {
  const it = value as string;
  const [one, other] = rule.arguments as [never, never];
  switch (rule.rule) {
    case "required":
      return violations.required("/it", value ?? undefined) !== undefined;
    case "one_of":
      return violations.oneOf("/it", it, rule.arguments as string[]);
    case "length":
      return violations.length("/it", it, one, other);
    case "range":
      if (typeof value === "number") return violations.range<number>("/it", value, one, other);
      return violations.range("/it", Decimal.of(it), Decimal.of(one), Decimal.of(other));
    case "decimals":
      return violations.decimals("/it", Decimal.of(it), one);
    case "pattern":
      return violations.pattern("/it", it, new Pattern(one));
    case "email":
    case "url":
    case "uuid":
    case "host":
    case "currency":
    case "country":
      return violations[rule.rule]("/it", it);
    default:
      throw new Error(`no rule ${rule.rule}`);
  }
}

for (const rule of table.rules) {
  const wanted = [{ pointer: "/it", code: rule.rule, message: rule.message }];
  for (const [values, held] of [[rule.holds, true], [rule.breaks, false]] as const) {
    for (const value of values) {
      const violations = new Violations();
      const what = `${rule.rule} ${rule.arguments} ${JSON.stringify(value)}`;
      expect(what, apply(violations, rule, value), held);
      expect(what, violations.list(), held ? [] : wanted);
    }
  }
}

for (const wrong of table.wrong_patterns) {
  let isTaken = true;
  try {
    new Pattern(wrong);
  } catch (error) {
    isTaken = !(error instanceof SyntaxError);
  }
  expect(`pattern ${wrong}`, isTaken, false);
}

for (const { text, shown } of table.decimals) {
  expect(`decimal ${text}`, Decimal.parse(text)?.toString() ?? null, shown);
}

const order = validator({
  summary: "",
  data: object({
    order: text(),
    total: decimal(),
    paid: flag(),
    count: whole(0, 255),
    kind: choice("new", "old"),
    note: optional(text()),
    lines: list(object({ product: text(), quantity: whole(0, 4_294_967_295) })),
    shift: optional(big(-(2n ** 63n), 2n ** 63n - 1n)),
    more: optional(map(decimal())),
  }),
  judge: () => ({ tag: "accept" }),
  examples: [],
});

function sorted(violations: readonly { pointer: string; code: string; message: string }[]): string[] {
  return violations.map(({ pointer, code, message }) => `${pointer} ${code} ${message}`).sort();
}

interface Reading {
  readonly data: string;
  readonly violations: readonly { pointer: string; code: string; message: string }[];
  /** What this kit says instead. */
  readonly typescript?: Reading["violations"];
}

for (const { data, violations, typescript } of table.reading as readonly Reading[]) {
  const event = { id: "", application: "", sessionId: "", category: "", name: "", timestamp: 0n, data };
  const verdict = order.validate(event);
  expect(data, sorted(verdict.tag === "reject" ? verdict.val : []), sorted(typescript ?? violations));
}

for (const { data, redact, text } of table.edits) {
  const edited = JsonObject.parse(data);
  edited.redact(redact);
  expect(data, edited.toText(), text);
}

console.log(`${rows} rows`);
