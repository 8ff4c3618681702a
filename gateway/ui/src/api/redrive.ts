// Judging dead letters again: a dry run says what would come of it, a redrive stores what passes now. Both go on page by page
// until all letters of the choice were looked at, or until somebody stops them.
import { type Schemas, send } from "./client";

export type Report = Schemas["RedriveReport"];
export type Result = Report["results"][number];

/** The letters to judge: these, or those of a filter that were not redriven yet. */
export type Choice = { ids: string[] } | { filter: Record<string, string> };

export const ENDS = ["stored", "duplicate", "rejected", "quarantined", "skipped"] as const;
export type Sum = Record<(typeof ENDS)[number], number>;

export interface Progress extends Sum {
  done: number;
  /** The first letters that were not stored, or would not be. */
  failures: Result[];
}

/** Letters of a request. */
const LETTERS = 200;
/** Failures that are kept to be shown. */
const FAILURES = 50;
/** Milliseconds that one request may take. */
const ANSWER_MS = 30_000;

/** Judges all letters of the choice, and tells the progress after each page. */
export async function judgeAgain(choice: Choice, dryRun: boolean, signal: AbortSignal, told: (progress: Progress) => void): Promise<Progress> {
  const sum: Sum = { stored: 0, duplicate: 0, rejected: 0, quarantined: 0, skipped: 0 };
  const failures: Result[] = [];
  let cursor: string | null = null;
  let done = 0;
  do {
    const body = { ...choice, dry_run: dryRun, ...("ids" in choice ? {} : { limit: LETTERS }), ...(cursor === null ? {} : { cursor }) };
    const report: Report = await send<Report>("POST", "/v1/dead-letters/redrive", { body, signal, answerMs: ANSWER_MS });
    for (const end of ENDS) {
      sum[end] += report[end];
      done += report[end];
    }
    failures.push(...report.results.filter(({ outcome }) => outcome !== "stored" && outcome !== "duplicate").slice(0, FAILURES - failures.length));
    told({ ...sum, done, failures: [...failures] });
    cursor = report.next;
  } while (cursor !== null && !signal.aborted);
  return { ...sum, done, failures };
}
