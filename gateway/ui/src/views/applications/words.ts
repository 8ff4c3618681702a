// What the fields of an application mean, in words: what it may do now, what a change of it does, and why it was refused.
import type { Schemas } from "../../api/client";
import type { Scope } from "../../session";

export type Application = Schemas["Application"];
export type Token = Application["token_details"][number];

export const SCOPES: readonly { scope: Scope; means: string }[] = [
  { scope: "ingest", means: "send events" },
  { scope: "read", means: "read stored events and the state of the gateway, and sign in to the panel" },
  { scope: "raw", means: "what read allows, and see what is kept of refused events" },
  { scope: "ship", means: "push modules, and read the events that these judge" },
  { scope: "admin", means: "everything, and manage applications" },
];

export const STATES = ["active", "suspended", "revoked"] as const;

const REFUSALS: Record<string, string> = {
  unknown_token: "a token or certificate of no application",
  revoked_token: "a token that was ended",
  expired_token: "a token whose time is over",
  unknown_network: "a network that is not its own, or no token",
  scope: "a scope that it has not",
  rate_limited: "more events than its rate allows",
  event_type: "an event type that it may not send",
  foreign_page: "a page of another site in a browser",
  unnamed_proxy: "a proxy on this machine that is not named",
  unknown_session: "a session of the panel that is not open",
  unknown_code: "a code for the panel that opens nothing",
};

export function refusalInWords(kind: string): string {
  return REFUSALS[kind] ?? kind;
}

/** Its refusals since this gateway started, the most frequent first; null if the gateway does not know it yet. */
export function refusalsOf({ refused }: Application): { kind: string; count: number }[] | null {
  if (refused === null) return null;
  const each = Object.entries(refused).map(([kind, count]) => ({ kind, count: count ?? 0 }));
  return each.sort((one, other) => other.count - one.count);
}

export function count(number: number, one: string, many = `${one}s`): string {
  return `${number.toLocaleString()} ${number === 1 ? one : many}`;
}

/** How a caller proves that it is this application. */
export function knownBy({ known_by, tokens, certificates, networks, state }: Application): string {
  if (state === "revoked") return "nothing any more";
  const proofs = [tokens > 0 ? count(tokens, "token") : "", certificates.length > 0 ? count(certificates.length, "certificate") : ""].filter((one) => one !== "");
  const proof = proofs.length > 0 ? proofs.join(" or ") : "no live token";
  const where = count(networks.length, "network");
  if (known_by === "network") return where;
  return known_by === "both" ? `${proof}, from ${where}` : proof;
}

export function rateInWords(eventsPerSecond: number | null, burst: number | null): string {
  if (eventsPerSecond === null) return "no limit";
  const atOnce = burst === null || burst === eventsPerSecond ? "" : `, ${burst.toLocaleString()} at once`;
  return `${eventsPerSecond.toLocaleString()}/s${atOnce}`;
}

/** When any token of it was last used; null if none was. */
export function lastUse({ token_details }: Application): string | null {
  return token_details.reduce<string | null>((last, { last_used_at: at }) => (at !== null && (last === null || at > last) ? at : last), null);
}

/** Days until the first of its tokens ends, if that is within this many; else null. */
export function endsWithin({ token_details }: Application, days: number): number | null {
  const ends = token_details.flatMap(({ expires_at: at }) => (at === null ? [] : [(Date.parse(at) - Date.now()) / 86_400_000]));
  const first = Math.min(...ends);
  return first <= days ? Math.max(0, Math.floor(first)) : null;
}

/** Whether a token was used within a day: then the gateway does not end it for a third one. */
export function isInUse({ last_used_at: at }: Token): boolean {
  return at !== null && Date.now() - Date.parse(at) < 86_400_000;
}

/** The fields of an application that a change can touch. */
export type Touched = Pick<
  Application,
  "scopes" | "known_by" | "networks" | "certificates" | "events_per_second" | "burst_events" | "event_types" | "read_event_types" | "read_applications" | "ship_event_types"
>;

const LOSSES: Record<Scope, string> = {
  ingest: "It can no longer send: its events are refused, and it has to keep them.",
  read: "It can no longer read events, nor sign in to the panel.",
  raw: "It no longer sees what is kept of refused events.",
  ship: "It can no longer push modules.",
  admin: "It can no longer manage applications, nor do all else that needs this scope.",
};
const GAINS: Record<Scope, string> = {
  ingest: "It may send events.",
  read: "It may read stored events, all of them unless its reading is limited below.",
  raw: "It sees what is kept of refused events, as it was sent.",
  ship: "It may replace the modules that judge events. Grant this as you would grant access to the database.",
  admin: "It may do everything: read all events, change and end applications, this one included.",
};

/** What a change of it will mean, where that is not plain from the fields. */
export function consequences(before: Touched, after: Touched): string[] {
  const told: string[] = [];
  for (const { scope } of SCOPES) {
    const [had, has] = [before.scopes.includes(scope), after.scopes.includes(scope)];
    if (had && !has) told.push(LOSSES[scope]);
    if (!had && has) told.push(GAINS[scope]);
  }
  told.push(...ofKnowing(before, after), ...ofRate(before, after), ...ofTypes(before, after));
  return told;
}

function ofKnowing(before: Touched, after: Touched): string[] {
  const told: string[] = [];
  if (after.known_by === "network" && before.known_by !== "network") {
    told.push("Every caller from its networks counts as it, without a token. Its tokens and certificates count no more.");
  }
  if (after.known_by === "both" && before.known_by !== "both") told.push("A caller needs its token or certificate, and has to call from its networks.");
  if (after.known_by === "token" && before.known_by !== "token") told.push("Its token or certificate counts from everywhere.");
  const gone = before.networks.filter((one) => !after.networks.includes(one)).length;
  if (gone > 0 && after.known_by !== "token") told.push(`Callers from ${count(gone, "network")} are refused from then on.`);
  const more = after.networks.filter((one) => !before.networks.includes(one)).length;
  if (more > 0 && after.known_by === "network") told.push(`Callers from ${count(more, "more network", "more networks")} count as it.`);
  const lost = before.certificates.filter((one) => !after.certificates.includes(one)).length;
  if (lost > 0) told.push(`Callers with ${count(lost, "certificate")} are refused from then on.`);
  return told;
}

function ofRate(before: Touched, after: Touched): string[] {
  const rate = after.events_per_second;
  if (rate === before.events_per_second && after.burst_events === before.burst_events) return [];
  if (rate === null) return ["It may send as many events as the gateway takes."];
  const burst = after.burst_events ?? rate;
  return [
    `At each gateway, more than ${count(rate, "event")} a second in the long run are answered 429, to be sent again later.`,
    `A request of more than ${count(burst, "event")} never fits, and is refused.`,
  ];
}

function ofTypes(before: Touched, after: Touched): string[] {
  const told: string[] = [];
  const isSame = (one: readonly string[], other: readonly string[]) => JSON.stringify(one) === JSON.stringify(other);
  if (!isSame(before.event_types, after.event_types)) {
    told.push(after.event_types.length === 0 ? "It may send every event type." : "Events of all other types are refused.");
  }
  if (!isSame(before.read_event_types, after.read_event_types) || !isSame(before.read_applications, after.read_applications)) {
    const isFree = after.read_event_types.length === 0 && after.read_applications.length === 0;
    told.push(isFree ? "It may read every event." : "All else that is stored does not exist for it. Its streams that are open now end.");
  }
  if (!isSame(before.ship_event_types, after.ship_event_types)) {
    told.push(after.ship_event_types.length === 0 ? "It may push modules for every event type." : "It may push modules for these event types alone.");
  }
  return told;
}
