// The rule for a page or Node: `eye validator bundle --js` makes one module of this and the project.

import { Json, type Value } from "./json.ts";
import type { Validator } from "./validator.ts";
import type { Violation } from "./violations.ts";

/** An event as a page would send it. What is left out is made up. */
export interface PageEvent {
  readonly id?: string;
  readonly session_id?: string;
  readonly application?: string;
  readonly category?: string;
  readonly name?: string;
  /** When it occurs, such as `2026-01-05T09:15:27Z`. */
  readonly timestamp?: string;
  /** Its data, or the JSON text of it, of which nothing is lost. */
  readonly data: string | { readonly [key: string]: unknown };
}

/** What would become of an event. */
export type Answer =
  | { verdict: "accept" }
  | { verdict: "amend"; data: string }
  | { verdict: "reject"; violations: Violation[] };

const TIME = /^(.*?)(?:\.([0-9]{1,6})[0-9]*)?(Z|z|[+-][0-9]{2}:[0-9]{2})$/;

function microseconds(text: string): bigint {
  const parts = TIME.exec(text);
  const seconds = parts === null ? Number.NaN : globalThis.Date.parse(`${parts[1]}${parts[3]}`);
  if (parts === null || Number.isNaN(seconds)) {
    throw new TypeError("the timestamp of an event is written such as 2026-01-05T09:15:27Z");
  }
  return BigInt(seconds) * 1_000n + BigInt((parts[2] ?? "").padEnd(6, "0"));
}

/** Judges an event as a gateway would, received as it occurred unless its receipt is given. */
export function judge(rule: Validator, types: readonly [string, string], event: PageEvent, receivedAt?: string): Answer {
  const timestamp = microseconds(event.timestamp ?? "2023-11-14T22:13:20Z");
  const raw = {
    id: event.id ?? "01890a5d-ac96-774b-bcce-b302099a8057",
    application: event.application ?? "test",
    sessionId: event.session_id ?? "67e55044-10b1-426f-9247-bb680e5fe0c8",
    category: event.category ?? types[0],
    name: event.name ?? types[1],
    timestamp,
    data: typeof event.data === "string" ? event.data : Json.of(event.data as { [key: string]: Value }).text(),
  };
  const received = receivedAt === undefined ? timestamp : microseconds(receivedAt);
  const verdict = rule.validateAt === undefined ? rule.validate(raw) : rule.validateAt(raw, received);
  switch (verdict.tag) {
    case "accept":
      return { verdict: "accept" };
    case "amend":
      return { verdict: "amend", data: verdict.val };
    case "reject":
      return { verdict: "reject", violations: verdict.val };
  }
}
