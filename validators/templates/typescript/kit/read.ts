// Turns an event's data into the author's type. A shape says what a value must be, and is the type for TypeScript at once.
// Whatever does not fit becomes a violation with its pointer, several together, with the codes and the messages of the Rust kit.

import { Decimal } from "./decimal.ts";
import { type Exact, isNumber, isObject, isText, Json, kindOf, member, numberText } from "./json.ts";
import { Place } from "./place.ts";
import { Violations } from "./violations.ts";

/** What a value must be. */
export interface Shape<T> {
  /** Reads a value. What it gives back counts only if nothing was added to the violations. */
  read(value: Exact, at: Place, violations: Violations): T;
  /** The value of a field that is missing, if it may be. */
  readonly missing?: () => T;
}

/** The type of what a shape reads. */
export type Read<S> = S extends Shape<infer T> ? T : never;

/** What stands in for a value that does not fit. Nobody sees it, since its event is rejected before. */
function wrong<T>(): T {
  return undefined as T;
}

function mismatch<T>(value: Exact, expected: string, at: Place, violations: Violations): T {
  violations.add(at, "type", `Give ${expected} here, not ${kindOf(value)}.`);
  return wrong();
}

/** A string. */
export function text(): Shape<string> {
  return {
    read: (value, at, violations) =>
      isText(value) ? value : mismatch(value, "a string", at, violations),
  };
}

/** `true` or `false`. */
export function flag(): Shape<boolean> {
  return {
    read: (value, at, violations) =>
      typeof value === "boolean" ? value : mismatch(value, "a boolean", at, violations),
  };
}

function wholeOf(value: Exact, from: bigint, to: bigint, at: Place, violations: Violations): bigint {
  const expected = `a whole number from ${from} to ${to}`;
  if (!isNumber(value)) return mismatch(value, expected, at, violations);
  // The gateway's own rules bound the digits of a number.
  const text = numberText(value);
  const number = /^-?[0-9]+$/.test(text) ? BigInt(text) : undefined;
  if (number === undefined || number < from || number > to) {
    violations.add(at, "value", `Give ${expected} here.`);
    return wrong();
  }
  return number;
}

/** A whole number within bounds that JavaScript's numbers hold; without bounds, from -(2^53 - 1) to 2^53 - 1. */
export function whole(from = Number.MIN_SAFE_INTEGER, to = Number.MAX_SAFE_INTEGER): Shape<number> {
  if (!Number.isSafeInteger(from) || !Number.isSafeInteger(to)) {
    throw new RangeError("these bounds are no numbers that JavaScript holds: use `big`");
  }
  const [low, high] = [BigInt(from), BigInt(to)];
  return {
    read: (value, at, violations) => {
      // Most are such numbers, and the way by BigInt is longer.
      if (Number.isInteger(value) && (value as number) >= from && (value as number) <= to) return value as number;
      return Number(wholeOf(value, low, high, at, violations) ?? 0n);
    },
  };
}

/** A whole number of any size within bounds, such as an id of 64 bits. */
export function big(from: bigint, to: bigint): Shape<bigint> {
  return { read: (value, at, violations) => wholeOf(value, from, to, at, violations) };
}

/** A number as JavaScript holds it, near the one that was sent. For amounts there is `decimal`. */
export function number(): Shape<number> {
  return {
    read: (value, at, violations) =>
      isNumber(value) ? Number(numberText(value)) : mismatch(value, "a number", at, violations),
  };
}

/** A decimal number, exact, from a number (`19.99`) or a string of one (`"19.99"`). */
export function decimal(): Shape<Decimal> {
  const expected = "a decimal number such as 19.99";
  return {
    read: (value, at, violations) => {
      if (!isText(value) && !isNumber(value)) return mismatch(value, expected, at, violations);
      const read = Decimal.parse(isText(value) ? value : numberText(value));
      if (read !== undefined) return read;
      violations.add(at, "value", `Give ${expected} here.`);
      return wrong();
    },
  };
}

/** One of these words. */
export function choice<const W extends string>(...words: readonly W[]): Shape<W> {
  const list = words.map((word) => `\`${word}\``).join(", ");
  return {
    read: (value, at, violations) => {
      if (!isText(value)) return mismatch(value, "a string", at, violations);
      const found = words.find((word) => word === value);
      if (found !== undefined) return found;
      violations.add(at, "unknown_value", `Give one of ${list} here.`);
      return wrong();
    },
  };
}

/** A value that may be missing or null. */
export function optional<T>(shape: Shape<T>): Shape<T | undefined> {
  return {
    read: (value, at, violations) => (value === null ? undefined : shape.read(value, at, violations)),
    missing: () => undefined,
  };
}

/** A list. */
export function list<T>(shape: Shape<T>): Shape<T[]> {
  return {
    read: (value, at, violations) => {
      if (!Array.isArray(value)) return mismatch(value, "a list", at, violations);
      const read: T[] = [];
      for (let index = 0; index < value.length && !violations.isFull(); index += 1) {
        read.push(shape.read(value[index] as Exact, at.item(index), violations));
      }
      return read;
    },
  };
}

/** An object with these fields. Others are let pass. */
export function object<F extends { readonly [name: string]: Shape<unknown> }>(
  fields: F,
): Shape<{ readonly [N in keyof F]: Read<F[N]> }> {
  const rows = Object.entries(fields);
  return {
    read: (value, at, violations) => {
      if (!isObject(value)) return mismatch(value, "an object", at, violations);
      const read: { [name: string]: unknown } = {};
      for (const [name, shape] of rows) {
        const inner = member(value, name);
        if (inner !== undefined) read[name] = shape.read(inner, at.key(name), violations);
        else if (shape.missing !== undefined) read[name] = shape.missing();
        else violations.add(at.key(name), "required", `Add the field \`${name}\`.`);
      }
      return read as { readonly [N in keyof F]: Read<F[N]> };
    },
  };
}

/** An object whose keys are not known, each with a value of one shape. */
export function map<T>(shape: Shape<T>): Shape<Map<string, T>> {
  return {
    read: (value, at, violations) => {
      if (!isObject(value)) return mismatch(value, "an object", at, violations);
      const read = new Map<string, T>();
      for (const key of Object.keys(value)) {
        if (violations.isFull()) break;
        read.set(key, shape.read(value[key] as Exact, at.key(key), violations));
      }
      return read;
    },
  };
}

/** Whatever value is there, without loss. */
export function json(): Shape<Json> {
  return { read: (value) => new Json(value) };
}

/** Reads data, or says every reason found why it does not fit. */
export function read<T>(shape: Shape<T>, value: Exact): { data: T } | { violations: Violations } {
  const violations = new Violations();
  const data = shape.read(value, Place.DATA, violations);
  return violations.isEmpty() ? { data } : { violations };
}
