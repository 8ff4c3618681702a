// Modules that are tried beside those that serve, and what a module would have said of past events.
import { get, Refused, send, type Schemas } from "./client";
import { type ModuleChange, placesOf, type Slot, wordsOf } from "./modules";

export type Candidate = Schemas["Candidate"];
export type PairCounts = Schemas["PairCounts"];
export type Replay = Schemas["ReplayResult"];
export type Job = Schemas["Job"];

const PATH = "/v1/validators/{category}/{name}/candidate";

/** How a module is to be used: it serves, or it is tried. */
export type Mode = "live" | "shadow" | "canary";

/** The candidate of a slot; null if it has none. */
export async function candidateOf(slot: Slot, signal: AbortSignal): Promise<Candidate | null> {
  try {
    return await get(PATH, undefined, { places: placesOf(slot), signal });
  } catch (error) {
    if (error instanceof Refused && error.code === "no_candidate") return null;
    throw error;
  }
}

interface Asked {
  slot: Slot;
  /** The candidate that is meant. */
  digest: string;
  query: Record<string, boolean>;
  waitS: number;
  answerMs: number;
}

const asking = ({ slot, digest, query, waitS, answerMs }: Asked) => ({
  places: placesOf(slot),
  query,
  headers: { prefer: `wait=${waitS}`, "if-match": `"${digest}"` },
  answerMs,
});

export const promote = (asked: Asked): Promise<ModuleChange> => send<ModuleChange>("POST", `${PATH}/promote`, asking(asked));
export const discard = (asked: Asked): Promise<ModuleChange> => send<ModuleChange>("DELETE", PATH, asking(asked));

/** Asks what a module would have said of past events. */
export function replay(slot: Slot, content: Blob, last: string, sample: number | null): Promise<Job> {
  const query = { kind: "replay", type: wordsOf(slot), last, ...(sample === null ? {} : { sample }) };
  return send<Job>("POST", "/v1/jobs", { query, body: content, answerMs: 120_000 });
}

/** The result of a replay; null for another job, or while there is none. */
export function replayOf(job: Job): Replay | null {
  const { result } = job;
  return job.kind === "replay" && result !== null && "rows" in result ? result : null;
}
