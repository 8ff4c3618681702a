// Makes a validator of a shape, a function and examples: the functions that a gateway calls.

import { isObject, Json, JsonObject, parse, type Value } from "./json.ts";
import { read, type Shape } from "./read.ts";
import type { Verdict } from "./violations.ts";

/** One fact that an application reported, with its data read as `T`. */
export interface Event<T> {
  /** The event's UUID in lower case with hyphens. */
  readonly id: string;
  /** The name of the application that sent the event. */
  readonly application: string;
  /** The session's UUID in lower case with hyphens. */
  readonly sessionId: string;
  /** The first half of the event type. */
  readonly category: string;
  /** The second half of the event type. */
  readonly name: string;
  /** When the event occurred, in microseconds since 1970-01-01T00:00:00Z. */
  readonly timestamp: bigint;
  /** The event's data, as far as its shape names it. */
  readonly data: T;
  /** The text of the whole data, as the sender wrote it. */
  readonly text: string;
  /** The whole data, to be edited and given to `verdictWith`. */
  object(): JsonObject;
}

/** An event with the time of its receipt. */
export interface ReceivedEvent<T> extends Event<T> {
  /** When the gateway received the event first, in microseconds since 1970-01-01T00:00:00Z. */
  readonly receivedAt: bigint;
}

/** An event as a gateway gives it. */
export interface RawEvent {
  id: string;
  application: string;
  sessionId: string;
  category: string;
  name: string;
  timestamp: bigint;
  data: string;
}

/** What an example says besides; what is left out is made up. */
export interface More {
  /** The codes of the violations, in any order; none means any. */
  codes?: readonly string[];
  /** The second half of the event type, for a module that serves several names. */
  name?: string;
  /** When the event occurs, in microseconds since 1970-01-01T00:00:00Z. */
  timestamp?: bigint;
  /** The application that sends it. */
  application?: string;
}

/** An example by which the gateway tries a module before it trusts it. */
export interface Example {
  title: string;
  data: string;
  expect: "accept" | "amend" | "reject";
  more?: More;
}

function example(expect: Example["expect"], title: string, data: string | object, more?: More): Example {
  const text = typeof data === "string" ? data : Json.of(data as Value).text();
  return { title, data: text, expect, ...(more === undefined ? {} : { more }) };
}

/** An example that is accepted as it stands. Data is JSON text, or what becomes it. */
export function accept(title: string, data: string | object, more?: More): Example {
  return example("accept", title, data, more);
}

/** An example that is accepted with changed data. */
export function amend(title: string, data: string | object, more?: More): Example {
  return example("amend", title, data, more);
}

/** An example that is rejected. */
export function reject(title: string, data: string | object, more?: More): Example {
  return example("reject", title, data, more);
}

/** What a validator is made of. */
export interface Definition<T> {
  /** One line for people: which events this judges, and by which rules. */
  summary: string;
  /** What the data must be. Data of another shape never reaches `judge`. */
  data: Shape<T>;
  /** Judges one event. */
  judge?: (event: Event<T>) => Verdict;
  /** In place of `judge`: judges one event by the time of its receipt. */
  judgeAt?: (event: ReceivedEvent<T>) => Verdict;
  /** What may be kept of an event that is refused: nothing else of it is. It gets any data that a sender may send. */
  redact?: (data: JsonObject) => JsonObject;
  /** The self-test. */
  examples: readonly Example[];
}

interface WitExample {
  title: string;
  data: string;
  expect: Example["expect"];
}

interface WitExample2 extends WitExample {
  name: string | undefined;
  timestamp: bigint | undefined;
  application: string | undefined;
  codes: string[];
}

/** The functions of the contract. Those that a validator does not need are not there, and its component has no such export. */
export interface Validator {
  describe(): { summary: string; examples: WitExample[] };
  validate(event: RawEvent): Verdict;
  validateAt?: (event: RawEvent, receivedAt: bigint) => Verdict;
  redact?: (data: string) => string;
  examples?: () => WitExample2[];
}

/** Makes a validator. A project's `src/rule.ts` has it as its default export. */
export function validator<T>(definition: Definition<T>): Validator {
  const { summary, judge, judgeAt, redact, examples } = definition;
  if ((judge === undefined) === (judgeAt === undefined)) {
    throw new TypeError("a validator has one of `judge` and `judgeAt`");
  }
  const at = (raw: RawEvent, receivedAt: bigint): Verdict => {
    const found = read(definition.data, parse(raw.data));
    if ("violations" in found) return found.violations.verdict();
    const event = { ...named(raw), data: found.data, receivedAt };
    return judgeAt === undefined ? (judge as (event: Event<T>) => Verdict)(event) : judgeAt(event);
  };
  const plain = examples.filter((one) => one.more === undefined);
  const more = examples.filter((one) => one.more !== undefined);
  const described = plain.map(({ title, data, expect }) => ({ title, data, expect }));
  return {
    describe: () => ({ summary, examples: described }),
    validate: (event) => at(event, event.timestamp),
    ...(judgeAt === undefined ? {} : { validateAt: at }),
    ...(redact === undefined ? {} : { redact: (data) => redacted(data, redact) }),
    ...(more.length === 0 ? {} : { examples: () => more.map(example2) }),
  };
}

/** The parts of an event that its shape does not change. */
function named(raw: RawEvent): Omit<Event<unknown>, "data"> {
  const { id, application, sessionId, category, name, timestamp, data } = raw;
  // Edits must not change what was read.
  const object = () => JsonObject.parse(data);
  return { id, application, sessionId, category, name, timestamp, text: data, object };
}

function redacted(data: string, redact: (data: JsonObject) => JsonObject): string {
  const value = parse(data);
  // What is no object is no event, so there is nothing to be kept.
  return isObject(value) ? redact(new JsonObject(value)).toText() : "{}";
}

function example2({ title, data, expect, more }: Example): WitExample2 {
  const { name, timestamp, application, codes } = more ?? {};
  return { title, data, expect, name, timestamp, application, codes: [...(codes ?? [])] };
}

