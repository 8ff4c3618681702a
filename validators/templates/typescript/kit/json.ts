// JSON without loss. JavaScript's numbers hold 15 digits for sure; amounts and ids may have more. JSON.parse reads a text natively,
// and only numbers that it would change are taken out before: each becomes a string with U+0000 in front, which tells it from
// all others, since no event has that character.

import { Decimal } from "./decimal.ts";

/** A JSON value. A string that begins with U+0000 is the text of a number that JavaScript would change. */
export type Exact = string | number | boolean | null | Exact[] | { [key: string]: Exact };

const MARK = "\u0000";

/** A number that JavaScript may change stands here, or in a string something that looks like one. */
const MAY_CHANGE = /[:,[\s]-?(?:[0-9.]{16}|[0-9.]{1,15}[eE][+-]?[0-9]{3})/;

/** All up to such a number. Bounded, so that the engine's memory is. */
const BEFORE =
  /(?:[^"0-9-]+|"[^"\\]*(?:\\.[^"\\]*)*"|-?[0-9.]{1,15}(?![0-9.])(?:[eE][+-]?[0-9]{1,2}(?![0-9])|(?![eE]))){0,1000}/y;
const NUMBER = /-?[0-9][0-9.eE+-]*/y;
const MARKED = /"\\u0000(-?[0-9][^"]*)"/g;

/** Reads JSON text. Throws a SyntaxError if it is none. */
export function parse(text: string): Exact {
  return JSON.parse(MAY_CHANGE.test(text) ? marked(text) : text) as Exact;
}

/** A text with its long numbers as strings. */
function marked(text: string): string {
  const parts: string[] = [];
  let at = 0;
  while (at < text.length) {
    BEFORE.lastIndex = at;
    NUMBER.lastIndex = at + (BEFORE.exec(text)?.[0].length ?? 0);
    const number = NUMBER.lastIndex < text.length ? NUMBER.exec(text)?.[0] : undefined;
    if (number === undefined) {
      // The bound was reached, or the text is no JSON, which JSON.parse tells.
      const end = Math.max(BEFORE.lastIndex, at);
      if (end === at) return text;
      parts.push(text.slice(at, end));
      at = end;
    } else {
      const end = NUMBER.lastIndex;
      parts.push(text.slice(at, end - number.length), `"\\u0000${number}"`);
      at = end;
    }
  }
  return parts.join("");
}

/** The JSON text of a value. */
export function textOf(value: Exact): string {
  return JSON.stringify(value).replace(MARKED, "$1");
}

/** What a value is, for people. */
export function kindOf(value: Exact): string {
  if (value === null) return "null";
  if (isNumber(value)) return "a number";
  if (typeof value === "string") return "a string";
  if (typeof value === "boolean") return "a boolean";
  return Array.isArray(value) ? "a list" : "an object";
}

export function isText(value: Exact | undefined): value is string {
  return typeof value === "string" && !value.startsWith(MARK);
}

export function isNumber(value: Exact | undefined): value is string | number {
  return typeof value === "number" || (typeof value === "string" && value.startsWith(MARK));
}

/** The text of a number. */
export function numberText(value: string | number): string {
  return typeof value === "number" ? String(value) : value.slice(MARK.length);
}

export function isObject(value: Exact | undefined): value is { [key: string]: Exact } {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

/** The value of a key, if the object has it for its own. */
export function member(value: { [key: string]: Exact }, key: string): Exact | undefined {
  return Object.hasOwn(value, key) ? value[key] : undefined;
}

/** Gives a key a value, be the key `__proto__`. */
function put(value: { [key: string]: Exact }, key: string, inner: Exact): void {
  Object.defineProperty(value, key, { value: inner, writable: true, enumerable: true, configurable: true });
}

/** What may become JSON. A number that is not finite is none; an amount is a `Decimal`. */
export type Value =
  | string
  | number
  | bigint
  | boolean
  | null
  | Decimal
  | Json
  | JsonObject
  | readonly Value[]
  | { readonly [key: string]: Value };

function exactOf(value: Value): Exact {
  if (value === null || typeof value === "boolean") return value;
  if (typeof value === "string") {
    if (value.startsWith(MARK)) throw new RangeError("no event has the character U+0000");
    return value;
  }
  if (typeof value === "number") {
    if (!Number.isFinite(value)) throw new RangeError("a number of JSON is finite");
    return value;
  }
  if (typeof value === "bigint" || value instanceof Decimal) return MARK + value.toString();
  if (value instanceof Json || value instanceof JsonObject) return value.exact;
  if (Array.isArray(value)) return (value as readonly Value[]).map(exactOf);
  const made: { [key: string]: Exact } = {};
  for (const [key, inner] of Object.entries(value)) put(made, key, exactOf(inner as Value));
  return made;
}

/** One JSON value, of which nothing is lost: a number keeps its value, whatever its length. */
export class Json {
  readonly exact: Exact;

  constructor(value: Exact) {
    this.exact = value;
  }

  /** Reads the text of one JSON value. Throws a SyntaxError if it is none. */
  static parse(text: string): Json {
    return new Json(parse(text));
  }

  static of(value: Value): Json {
    return new Json(exactOf(value));
  }

  /** The text of the value. */
  text(): string {
    return textOf(this.exact);
  }

  /** The content of the value if it is a string. */
  asString(): string | undefined {
    return isText(this.exact) ? this.exact : undefined;
  }
}

/** What `rewrite` asks about: an object or a list, whose members are asked about next; a string; or another value's text. */
export type Part = { kind: "object" | "list" } | { kind: "text" | "other"; text: string };

/**
 * A JSON object that can be edited without loss: every number keeps its value. Keys keep their order, but for those that are whole
 * numbers, which JavaScript puts first.
 */
export class JsonObject {
  exact: { [key: string]: Exact };

  constructor(value: { [key: string]: Exact }) {
    this.exact = value;
  }

  /** Reads the text of a JSON object. Throws a SyntaxError if it is none. */
  static parse(text: string): JsonObject {
    const value = parse(text);
    if (!isObject(value)) throw new SyntaxError("the text is no JSON object");
    return new JsonObject(value);
  }

  /** The keys in their order. */
  keys(): string[] {
    return Object.keys(this.exact);
  }

  get(key: string): Json | undefined {
    const value = member(this.exact, key);
    return value === undefined ? undefined : new Json(value);
  }

  /** Gives a key a value: in its place if the key is there, else at the end. */
  set(key: string, value: Value): void {
    put(this.exact, key, exactOf(value));
  }

  /** Takes a key away, and says whether it was there. */
  remove(key: string): boolean {
    const isThere = Object.hasOwn(this.exact, key);
    delete this.exact[key];
    return isThere;
  }

  /**
   * Puts `[redacted]` in place of the values at these pointers, whatever they are. In a pointer, `*` stands for any key or
   * index: `/cards/*\/number`. What is not there is passed over.
   */
  redact(pointers: readonly string[]): void {
    for (const pointer of pointers) {
      redactAt(this.exact, pointer.split("/").slice(1).map(untoken));
    }
  }

  /**
   * Replaces values anywhere within, outermost first. `replace` gets the key, for values that have one, and the value; what it
   * returns takes the place of the whole value. Without an answer the values within are asked about. Says whether anything was
   * replaced.
   */
  rewrite(replace: (key: string | undefined, part: Part) => Value | undefined): boolean {
    let any = false;
    const within = (key: string | undefined, value: Exact): Exact => {
      const other = replace(key, partOf(value));
      if (other !== undefined) {
        any = true;
        return exactOf(other);
      }
      if (Array.isArray(value)) return value.map((item) => within(undefined, item));
      if (!isObject(value)) return value;
      const made: { [key: string]: Exact } = {};
      for (const name of Object.keys(value)) put(made, name, within(name, value[name] as Exact));
      return made;
    };
    const made = within(undefined, this.exact);
    if (!isObject(made)) throw new TypeError("an event's data stays an object");
    this.exact = made;
    return any;
  }

  toText(): string {
    return textOf(this.exact);
  }
}

function partOf(value: Exact): Part {
  if (isText(value)) return { kind: "text", text: value };
  if (Array.isArray(value)) return { kind: "list" };
  if (isObject(value)) return { kind: "object" };
  return { kind: "other", text: isNumber(value) ? numberText(value) : String(value) };
}

function untoken(token: string): string {
  return token.replaceAll("~1", "/").replaceAll("~0", "~");
}

function redactAt(value: Exact, tokens: readonly string[]): void {
  const [token, ...rest] = tokens;
  if (token === undefined || typeof value !== "object" || value === null) return;
  const inside = value as { [key: string]: Exact };
  for (const key of token === "*" ? Object.keys(inside) : [token]) {
    if (!Object.hasOwn(inside, key) || (Array.isArray(value) && key === "length")) continue;
    if (rest.length === 0) put(inside, key, "[redacted]");
    else redactAt(inside[key] as Exact, rest);
  }
}
