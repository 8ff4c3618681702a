// A form of an application as text, and what of it is sent. Only what a person has changed is sent, so that a list which
// nobody touched stays as it is to the letter.
import type { Schemas } from "../../api/client";
import type { Scope } from "../../session";
import type { Application, Touched } from "./words";

export interface Draft {
  name: string;
  note: string;
  token: boolean;
  expires: string;
  scopes: readonly Scope[];
  known_by: Application["known_by"];
  networks: string;
  certificates: string;
  events_per_second: string;
  burst_events: string;
  event_types: string;
  read_event_types: string;
  read_applications: string;
  ship_event_types: string;
  force: boolean;
}

type Lists = "networks" | "certificates" | "event_types" | "read_event_types" | "read_applications" | "ship_event_types";
const LISTS: readonly Lists[] = ["networks", "certificates", "event_types", "read_event_types", "read_applications", "ship_event_types"];
export type Errors = Readonly<Partial<Record<string, string>>>;
/** The most that a number of the gateway holds. What is beyond it would be no number to it. */
const NUMBER_MAX = 2_147_483_647;

export const EMPTY: Draft = {
  name: "",
  note: "",
  token: true,
  expires: "",
  scopes: ["ingest"],
  known_by: "token",
  networks: "",
  certificates: "",
  events_per_second: "",
  burst_events: "",
  event_types: "",
  read_event_types: "",
  read_applications: "",
  ship_event_types: "",
  force: false,
};

export function draftOf(of: Application): Draft {
  const lists = Object.fromEntries(LISTS.map((name) => [name, of[name].map((line) => line.replaceAll(/[\r\n]/g, encodeURIComponent)).join("\n")]));
  return {
    ...EMPTY,
    ...lists,
    name: of.name,
    note: of.note,
    scopes: of.scopes,
    known_by: of.known_by,
    events_per_second: of.events_per_second?.toString() ?? "",
    burst_events: of.burst_events?.toString() ?? "",
  };
}

/** The lines of a list. Spaces around one are a slip, unless it was there before with them. */
function linesOf(text: string, before: readonly string[]): string[] {
  const each = text.split("\n").map((line) => (before.includes(line) ? line : line.trim()));
  return each.filter((line) => line !== "");
}

function numberOf(text: string): number | null {
  const plain = text.replaceAll(/[\s,_]/g, "");
  return plain === "" ? null : Number(plain);
}

/** What the page itself can say is no number. All else is for the gateway to judge. */
export function faultsOf(draft: Draft): Errors {
  const errors: Record<string, string> = {};
  for (const name of ["events_per_second", "burst_events"] as const) {
    const number = numberOf(draft[name]);
    if (number !== null && !(Number.isInteger(number) && Math.abs(number) <= NUMBER_MAX)) errors[name] = "Give a whole number, such as 500.";
  }
  return errors;
}

/** The draft with lists and numbers read, to be compared with what is in force. */
export function touchedOf(draft: Draft, before: Touched | null): Touched {
  const lists = Object.fromEntries(LISTS.map((name) => [name, linesOf(draft[name], before?.[name] ?? [])])) as Record<Lists, string[]>;
  const numbers = { events_per_second: numberOf(draft.events_per_second), burst_events: numberOf(draft.burst_events) };
  return { ...lists, ...numbers, scopes: [...draft.scopes], known_by: draft.known_by };
}

/** What is sent to add an application. */
export function newOf(draft: Draft): Schemas["NewApplication"] {
  const touched = touchedOf(draft, null);
  const lists = LISTS.filter((name) => touched[name].length > 0).map((name) => [name, touched[name]]);
  return {
    name: draft.name,
    token: draft.token,
    scopes: touched.scopes,
    ...Object.fromEntries(lists),
    ...(draft.note === "" ? {} : { note: draft.note }),
    ...(draft.expires === "" || !draft.token ? {} : { expires: draft.expires.trim() }),
    ...(touched.events_per_second === null ? {} : { events_per_second: touched.events_per_second }),
    ...(touched.burst_events === null ? {} : { burst_events: touched.burst_events }),
    force: draft.force,
  };
}

/** What is sent to change an application; null if nothing differs. */
export function changeOf(draft: Draft, before: Application): Schemas["ApplicationChange"] | null {
  const [was, touched] = [draftOf(before), touchedOf(draft, before)];
  const change: Partial<Schemas["ApplicationChange"]> = {};
  for (const name of LISTS) if (draft[name] !== was[name]) change[name] = touched[name];
  if (draft.note !== was.note) change.note = draft.note;
  if (draft.known_by !== was.known_by) change.known_by = draft.known_by;
  if (JSON.stringify(draft.scopes) !== JSON.stringify(was.scopes)) change.scopes = touched.scopes;
  if (draft.events_per_second !== was.events_per_second || draft.burst_events !== was.burst_events) {
    change.events_per_second = touched.events_per_second;
    if (touched.burst_events !== null) change.burst_events = touched.burst_events;
  }
  if (Object.keys(change).length === 0) return null;
  return { ...change, force: draft.force };
}
