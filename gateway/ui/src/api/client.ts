// Asks the gateway. Paths, parameters and answers have the types of `openapi.json`. A refused request is a `Refused` with the
// problem that the gateway gives; a gateway that does not answer is `Unreachable`.
import type { components, paths } from "./schema";

export type Schemas = components["schemas"];
type Problem = Schemas["Problem"];

/** The header with the secret of this tab. */
const HEADER = "x-eye-panel";
/** Milliseconds after which a request counts as unanswered. The gateway answers within 5 s, whatever happens behind it. */
const ANSWER_MS = 10_000;

/** The gateway refused a request. */
export class Refused extends Error {
  constructor(
    readonly status: number,
    readonly problem: Partial<Problem> & { title: string },
  ) {
    super(problem.title);
  }

  get code(): string {
    return this.problem.code ?? `status_${this.status}`;
  }
}

/** The gateway did not answer. */
export class Unreachable extends Error {}

/** How this tab shows who it is. `session.ts` alone sets it. */
export const access: { secret: string | null; ended: (why: Refused) => void } = { secret: null, ended: () => {} };

type Json<T> = T extends { content: { "application/json": infer Body } } ? Body : never;
type Getting<P extends keyof paths> = paths[P] extends { get: infer O } ? O : never;
/** The paths that answer a read with JSON. */
export type Path = {
  [P in keyof paths]: Getting<P> extends { responses: { 200: { content: { "application/json": unknown } } } } ? P : never;
}[keyof paths];
/** The answer to a read of this path. */
export type Answer<P extends Path> = Getting<P> extends { responses: { 200: infer R } } ? Json<R> : never;
type Query<P extends keyof paths> = Getting<P> extends { parameters: { query?: infer Q } } ? NonNullable<Q> : Record<string, never>;
/** What stands in the places of a path. Null is the wildcard of validators, `*`, which is none when it is text. */
type Places = Record<string, string | null>;

interface Asking {
  signal?: AbortSignal | undefined;
  /** Sent as JSON, but a `Blob` as it is, with its own type. */
  body?: unknown;
  token?: string;
  /** Headers besides those that say who asks and what the body is. */
  headers?: Record<string, string>;
}

/** The address of a path with its parameters filled in. */
export function addressOf(path: string, places: Places = {}, query: Record<string, unknown> = {}): string {
  const filled = path.replaceAll(/\{(\w+)\}/g, (_, name: string) => inPlace(places[name]));
  const given = Object.entries(query).filter(([, value]) => value !== undefined && value !== "");
  const text = new URLSearchParams(given.map(([name, value]) => [name, String(value)])).toString();
  return text === "" ? filled : `${filled}?${text}`;
}

function inPlace(text: string | null | undefined): string {
  return text === null ? "*" : encodeURIComponent(text ?? "").replaceAll("*", "%2A");
}

/** Sends a request, and returns the answer unless it is a refusal. */
export async function ask(method: string, address: string, asking: Asking = {}): Promise<Response> {
  const { secret } = access;
  const headers: Record<string, string> = { ...asking.headers };
  if (asking.token !== undefined) headers.authorization = `Bearer ${asking.token}`;
  else if (secret !== null) headers[HEADER] = secret;
  const { body } = asking;
  if (body !== undefined) headers["content-type"] = body instanceof Blob ? body.type : "application/json";
  let response: Response;
  try {
    response = await fetch(address, {
      method,
      headers,
      cache: "no-store",
      ...(asking.signal === undefined ? {} : { signal: asking.signal }),
      ...(body === undefined ? {} : { body: body instanceof Blob ? body : JSON.stringify(body) }),
    });
  } catch (error) {
    if (asking.signal?.aborted === true && asking.signal.reason?.name !== "TimeoutError") throw error;
    throw new Unreachable("The gateway does not answer.");
  }
  if (response.ok) return response;
  const refused = new Refused(response.status, await problemOf(response));
  // A request with a token says nothing of the session. An answer to a secret that is no longer ours is late.
  if (response.status === 401 && asking.token === undefined && secret !== null && secret === access.secret) {
    access.ended(refused);
  }
  throw refused;
}

async function problemOf(response: Response): Promise<Partial<Problem> & { title: string }> {
  const title = `The gateway answered with status ${response.status}`;
  const requestId = response.headers.get("x-request-id");
  const known = requestId === null ? {} : { request_id: requestId };
  try {
    return { title, ...known, ...((await response.json()) as Partial<Problem>) };
  } catch {
    return { title, ...known };
  }
}

/** A signal that ends a request when its caller does, or when the gateway does not answer. */
function within(signal: AbortSignal | undefined, answerMs = ANSWER_MS): AbortSignal {
  const time = AbortSignal.timeout(answerMs);
  return signal === undefined ? time : AbortSignal.any([signal, time]);
}

async function read(address: string, signal: AbortSignal | undefined): Promise<string> {
  const response = await ask("GET", address, { signal: within(signal) });
  try {
    return await response.text();
  } catch (error) {
    if (signal?.aborted === true) throw error;
    throw new Unreachable("The gateway has broken off its answer.");
  }
}

/** Reads JSON. */
export async function get<P extends Path>(
  path: P,
  query?: Query<P>,
  { places, signal }: { places?: Places; signal?: AbortSignal } = {},
): Promise<Answer<P>> {
  return JSON.parse(await read(addressOf(path, places, query), signal), keepNumber) as Answer<P>;
}

/** Reads text. */
export function getText(path: keyof paths, signal?: AbortSignal): Promise<string> {
  return read(path, signal);
}

interface Sending extends Asking {
  places?: Places;
  query?: Record<string, unknown>;
  /** Milliseconds after which it counts as unanswered, for what may take longer than an answer usually does. */
  answerMs?: number;
}

/** Sends a change or an event, and returns the JSON that comes back, whatever `T` says it is. */
export async function send<T>(method: "POST" | "PUT" | "PATCH" | "DELETE", path: keyof paths, sending: Sending = {}): Promise<T> {
  const { places, query, answerMs, ...asking } = sending;
  const response = await ask(method, addressOf(path, places, query), { ...asking, signal: within(asking.signal, answerMs) });
  return JSON.parse(await response.text(), keepNumber) as T;
}

/** JSON that somebody typed, with its numbers as they are; undefined if it is none. */
export function parsed(text: string): unknown {
  try {
    return JSON.parse(text, keepNumber) as unknown;
  } catch {
    return undefined;
  }
}

/** A number of the gateway's own, which may be written as 5.0, as one to count with. */
export function figure(value: number): number {
  return Number(JSON.stringify(value));
}

interface RawJson {
  rawJSON?: (text: string) => unknown;
}

/** Keeps a number of an event that JavaScript would change, so that it is shown as it was sent. */
function keepNumber(_: string, value: unknown, context?: { source?: string }): unknown {
  const source = context?.source;
  if (typeof value !== "number" || source === undefined || String(value) === source) return value;
  return (JSON as RawJson).rawJSON?.(source) ?? value;
}
