// Reads `/v1/live`: server-sent events, by fetch, since only a fetch can send the header of the tab.
import { addressOf, ask, type Schemas, Unreachable } from "./client";

export type Outcome = Schemas["LiveOutcome"];
/** What the stream tells, with the schema of its data. */
export type Told =
  | { kind: "outcome"; data: Outcome }
  | { kind: "sampled"; data: Schemas["LiveSampled"] }
  | { kind: "missed"; data: Schemas["LiveMissed"] }
  | { kind: "end" };

/** Milliseconds without a byte after which the stream counts as broken. The gateway sends a comment every 10 s. */
const SILENCE_MS = 30_000;

/** Calls `take` with what each piece of the stream holds, until the stream ends. `opened` is called once it is open. */
export async function watch(
  filters: Record<string, string>,
  signal: AbortSignal,
  opened: () => void,
  take: (told: Told[]) => void,
): Promise<void> {
  const silence = new AbortController();
  const response = await ask("GET", addressOf("/v1/live", {}, filters), { signal: AbortSignal.any([signal, silence.signal]) });
  opened();
  const reader = response.body?.pipeThrough(new TextDecoderStream()).getReader();
  if (reader === undefined) return;
  let rest = "";
  try {
    for (;;) {
      const timer = setTimeout(() => silence.abort(), SILENCE_MS);
      const { done, value } = await reader.read().finally(() => clearTimeout(timer));
      if (done) return;
      const blocks = (rest + value).split("\n\n");
      rest = blocks.pop() ?? "";
      const told = blocks.map(toldBy).filter((one) => one !== null);
      if (told.length > 0) take(told);
      if (told.some((one) => one.kind === "end")) return;
    }
  } catch (error) {
    if (signal.aborted) throw error;
    throw new Unreachable("The stream broke off.");
  }
}

/** What a block of lines tells. Null for comments and for events that a later gateway may add. */
export function toldBy(block: string): Told | null {
  let kind = "";
  let data = "";
  for (const line of block.split("\n")) {
    if (line.startsWith("event: ")) kind = line.slice(7);
    else if (line.startsWith("data: ")) data += line.slice(6);
  }
  switch (kind) {
    case "outcome":
    case "sampled":
    case "missed":
      return { kind, data: JSON.parse(data) } as Told;
    case "end":
      return { kind };
    default:
      return null;
  }
}
