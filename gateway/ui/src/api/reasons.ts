// Why events were refused: the newest dead letters, grouped by the first reason of each.
import { type Answer, get, type Schemas } from "./client";

export type Letter = Schemas["DeadLetter"];

/** Most dead letters that are looked at. */
const LETTERS_MAX = 1000;

export interface Reason {
  code: string;
  /** The code of the first violation; null where there is none. */
  violation: string | null;
  category: string | null;
  name: string | null;
  count: number;
  latest: Letter;
}

export interface Reasons {
  list: Reason[];
  /** Whether there are more dead letters than those that were looked at. */
  more: boolean;
}

export async function reasonsSince(from: Date, signal: AbortSignal): Promise<Reasons> {
  const page: Answer<"/v1/dead-letters"> = await get(
    "/v1/dead-letters",
    { from: from.toISOString(), limit: LETTERS_MAX },
    { signal },
  );
  const found = new Map<string, Reason>();
  for (const letter of page.dead_letters) {
    const { code, category, name } = letter;
    const violation = letter.violations[0]?.code ?? null;
    const key = JSON.stringify([code, violation, category, name]);
    // The latest comes first.
    const reason = found.get(key) ?? { code, violation, category, name, count: 0, latest: letter };
    reason.count++;
    found.set(key, reason);
  }
  return { list: [...found.values()].sort((a, b) => b.count - a.count), more: page.next !== null };
}

/** The sentence that says best why an event was refused. */
export function sentence(letter: Letter): string {
  return letter.violations[0]?.message ?? letter.detail;
}
