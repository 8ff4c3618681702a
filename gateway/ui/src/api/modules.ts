// The modules that judge events: how their event types are named, and what is wrong with them in one line.
import { get, type Schemas } from "./client";

export type Validator = Schemas["Validator"];
export type LoadError = Schemas["LoadError"];
export type ModuleChange = Schemas["ModuleChange"];
export type GatewayRefusal = Schemas["GatewayRefusal"];
export type Preparation = Schemas["Preparation"];
/** One event type. With modules from the database, an event type without a module has its versions alone. */
export type One = Schemas["OneValidator"] & Partial<Omit<Validator, "event_type" | "digest" | "versions">>;

/** The event types that one module judges. Null is a wildcard: the other names of a category, or everything else. */
export interface Slot {
  category: string | null;
  name: string | null;
}

/** Most characters of a category or name. */
const WORD_CHARACTERS_MAX = 200;

/** The slot in the words of an address: `shop/sale`, `shop/*`, `*` `/` `*`; what has another meaning is percent-encoded. */
export function wordsOf({ category, name }: Slot): string {
  const word = (text: string | null) => (text === null ? "*" : text.replaceAll(/[%/*]/g, (one) => `%${one.charCodeAt(0).toString(16).toUpperCase()}`));
  return `${word(category)}/${word(name)}`;
}

/** The slot that an address names; null if it names none. */
export function slotOf(words: string): Slot | null {
  const parts = words.split("/");
  const [category, name] = parts.map((part) => (part === "*" ? null : decoded(part)));
  if (parts.length !== 2 || category === undefined || name === undefined || (category === null && name !== null)) return null;
  return wrongOf({ category, name }) === null ? { category, name } : null;
}

function decoded(text: string): string | undefined {
  try {
    return decodeURIComponent(text);
  } catch {
    return undefined;
  }
}

/** Why no event can have this type, or no address name it; null if one can. */
export function wrongOf({ category, name }: Slot): string | null {
  for (const [what, text] of [["category", category], ["name", name]] as const) {
    if (text === null) continue;
    if (text === "") return `Give a ${what}.`;
    if ([...text].length > WORD_CHARACTERS_MAX) return `A ${what} has ${WORD_CHARACTERS_MAX} characters at most.`;
    if (text.trim() !== text) return `A ${what} has no space at its ends.`;
    if (/[\u0000-\u001f\u007f-\u009f]/.test(text)) return `A ${what} has no control characters.`;
    if (text === "." || text === "..") return `An address cannot name the ${what} ${text}: put the file into the modules directory.`;
  }
  if (category === null && name !== null) return "The category * goes with the name * alone.";
  return null;
}

export const placesOf = ({ category, name }: Slot) => ({ category, name });
export const isSame = (one: Slot, other: Slot) => one.category === other.category && one.name === other.name;

/** One event type, with its versions. */
export async function oneOf(slot: Slot, signal: AbortSignal): Promise<One> {
  return (await get("/v1/validators/{category}/{name}", undefined, { places: placesOf(slot), signal })) as One;
}

/** The slot that judges an event type: its own, that of its category, or that of everything else. */
export function judgeOf<S extends Slot>(slots: readonly S[], category: string | null, name: string | null): S | undefined {
  const find = (of: Slot) => slots.find((slot) => isSame(slot, of));
  return find({ category, name }) ?? find({ category, name: null }) ?? find({ category: null, name: null });
}

/** What is wrong with a module, if something is. */
export function troubleOf(one: One | Validator): string | null {
  const [error, settings] = [one.last_error ?? null, one.settings_error ?? null];
  if (error !== null) return `${one.digest === null ? "Nothing serves" : "An older version serves on"}. Found: ${error.found}. To mend it: ${error.mend}`;
  if (settings !== null) return `Its settings are not in force. Found: ${settings.found}. To mend it: ${settings.mend}`;
  if (one.held != null) return "Nothing serves, so its events are not judged.";
  if (one.lost_since != null) return "Its file is lost. The last good version serves on.";
  if (one.standing === "off-path") return "It is off the path, since it kept using up its time.";
  if (one.standing === "slow") return "It is slow, so it is called away from the request threads.";
  return null;
}
