// Collects the reasons why an event is rejected, so that the sender is told all of them at once. Each rule has a method, with a
// code of its own and a message that says how to mend the event. No message quotes a value of the event, which may be a secret.

import { Decimal } from "./decimal.ts";
import type { JsonObject } from "./json.ts";
import type { Pattern } from "./pattern.ts";
import { Place } from "./place.ts";
import * as rules from "./rules.ts";

/** The gateway takes no more violations than this of one event. */
const VIOLATIONS_MAX = 100;

/** One reason why an event is rejected. */
export interface Violation {
  /** Where in the data the reason lies: an RFC 6901 pointer. The empty string is the whole data. */
  pointer: string;
  /** A stable word for programs: 1 to 64 of A-Z, a-z, 0-9, `_`, `.` and `-`. */
  code: string;
  /** A sentence for people that says how to mend the event. */
  message: string;
}

/** What a validator says of an event. */
export type Verdict = { tag: "accept" } | { tag: "amend"; val: string } | { tag: "reject"; val: Violation[] };

/** A pointer, or a place that becomes one. */
export type At = string | Place;

export class Violations {
  private readonly found: Violation[] = [];

  /** Adds a violation unless `held` is true, and gives `held` back. */
  require(held: boolean, at: At, code: string, message: string): boolean {
    if (!held) this.add(at, code, message);
    return held;
  }

  /** Adds a violation. After the hundredth, nothing is added: the gateway takes no more. */
  add(at: At, code: string, message: string): void {
    if (!this.isFull()) this.found.push({ pointer: typeof at === "string" ? at : at.pointer(), code, message });
  }

  /** A rule with a message that is only made if it does not hold. */
  private rule(held: boolean, at: At, code: string, message: () => string): boolean {
    if (!held && !this.isFull()) this.add(at, code, message());
    return held;
  }

  /** A value that may be missing by its shape and must be there by a rule. Gives it back. Code `required`. */
  required<T>(at: At, value: T | undefined): T | undefined {
    this.require(value !== undefined, at, "required", "Add this field.");
    return value;
  }

  /** A text is one of these. Code `one_of`. */
  oneOf(at: At, text: string, allowed: readonly string[]): boolean {
    const words = () => allowed.map((word) => `\`${word}\``).join(", ");
    return this.rule(allowed.includes(text), at, "one_of", () => `Give one of ${words()}.`);
  }

  /** A text has so many characters, or a list so many elements. Code `length`. */
  length(at: At, value: string | readonly unknown[], from: number, to: number): boolean {
    const isText = typeof value === "string";
    const length = isText ? charactersOf(value) : value.length;
    const unit = isText ? "characters" : "elements";
    return this.rule(length >= from && length <= to, at, "length", () => `Give ${from} to ${to} ${unit}.`);
  }

  /** A number is within these bounds: a whole number or a `Decimal`. Code `range`. */
  range<N extends number | bigint | Decimal>(at: At, number: N, from: NoInfer<N>, to: NoInfer<N>): boolean {
    const held = isNoMore(from, number) && isNoMore(number, to);
    return this.rule(held, at, "range", () => `Give a number from ${from} to ${to}.`);
  }

  /** A decimal number has so many digits after the point at most: 2 for most currencies. Code `decimals`. */
  decimals(at: At, number: Decimal, placesMax: number): boolean {
    const message = () => `Give a number with ${placesMax} digits after the point at most.`;
    return this.rule(number.places() <= placesMax, at, "decimals", message);
  }

  /** The whole of a text matches a pattern. Code `pattern`. */
  pattern(at: At, text: string, pattern: Pattern): boolean {
    return this.rule(pattern.matches(text), at, "pattern", () => `Give a text of the form \`${pattern.text}\`.`);
  }

  /** A text is an e-mail address, see `isEmail`. Code `email`. */
  email(at: At, text: string): boolean {
    return this.require(rules.isEmail(text), at, "email", "Give an e-mail address, such as `ada@shop.example`.");
  }

  /** A text is the address of a page, see `isUrl`. Code `url`. */
  url(at: At, text: string): boolean {
    const message = "Give an address such as `https://shop.example/shoes`, without a password in it.";
    return this.require(rules.isUrl(text), at, "url", message);
  }

  /** A text is a UUID. Code `uuid`. */
  uuid(at: At, text: string): boolean {
    const message = "Give a UUID, such as `0198c8b2-41d7-7e0a-9c35-7d2f60a1b9e4`.";
    return this.require(rules.isUuid(text), at, "uuid", message);
  }

  /** A text is a host name, see `isHostName`. Code `host`. */
  host(at: At, text: string): boolean {
    const message = "Give the host name alone, such as `shop.example`: no scheme, port or path.";
    return this.require(rules.isHostName(text), at, "host", message);
  }

  /** A text is a currency by ISO 4217. Code `currency`. */
  currency(at: At, text: string): boolean {
    const message = "Give the three letters of a currency by ISO 4217, such as `EUR`.";
    return this.require(rules.isCurrency(text), at, "currency", message);
  }

  /** A text is a country by ISO 3166-1. Code `country`. */
  country(at: At, text: string): boolean {
    const message = "Give the two letters of a country by ISO 3166-1, such as `DE`.";
    return this.require(rules.isCountry(text), at, "country", message);
  }

  /** Holds each element of a list to rules, with its place. Ends early once no more violations are kept. */
  each<T>(at: At, list: readonly T[], judge: (violations: this, at: Place, item: T) => void): void {
    const place = typeof at === "string" ? Place.from(at) : at;
    for (let index = 0; index < list.length && !this.isFull(); index += 1) {
      judge(this, place.item(index), list[index] as T);
    }
  }

  /** The violations found so far. */
  list(): readonly Violation[] {
    return this.found;
  }

  isEmpty(): boolean {
    return this.found.length === 0;
  }

  /** Whether no more are kept. */
  isFull(): boolean {
    return this.found.length >= VIOLATIONS_MAX;
  }

  /** Accepts the event as it was sent if there are no violations, else rejects it. */
  verdict(): Verdict {
    return this.isEmpty() ? { tag: "accept" } : { tag: "reject", val: this.found };
  }

  /** Accepts the event with changed data if there are no violations, else rejects it. */
  verdictWith(data: JsonObject): Verdict {
    return this.isEmpty() ? { tag: "amend", val: data.toText() } : { tag: "reject", val: this.found };
  }
}

function isNoMore(one: number | bigint | Decimal, other: number | bigint | Decimal): boolean {
  return one instanceof Decimal && other instanceof Decimal ? one.compare(other) <= 0 : one <= other;
}

/** Characters as people count them, and not the halves of which JavaScript makes some. */
function charactersOf(text: string): number {
  return text.length - (text.match(/[\ud800-\udbff][\udc00-\udfff]/g)?.length ?? 0);
}
