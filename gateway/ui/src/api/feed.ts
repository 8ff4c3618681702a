// The outcomes of `/v1/live`, newest last, for as long as a view shows them. It keeps a bounded number of them, counts what
// the gateway left out, and opens the stream again when it breaks off.
import { signal } from "@preact/signals";
import { Refused, Unreachable } from "./client";
import { type Outcome, type Told, watch } from "./lines";

/** A line of the feed. Its number tells it from all others. */
export interface Line {
  number: number;
  outcome: Outcome;
}

export interface FeedState {
  lines: readonly Line[];
  /** Outcomes a second over the last seconds, those that were left out included. */
  rate: number;
  /** Outcomes since the feed began, those that were left out included; null if nobody knows. */
  total: number | null;
  /** How many outcomes were not told, since there were too many or this page was too slow; null if nobody knows. */
  leftOut: number | null;
  state: "opening" | "open" | "broken";
  problem: Refused | null;
}

/** Most lines that are kept. */
const LINES_MAX = 5000;
/** Milliseconds between two drawings. */
const DRAW_MS = 250;
const RATE_S = 5;
const RETRY_MS = 1000;

export class Feed {
  readonly state = signal<FeedState>({ lines: [], rate: 0, total: 0, leftOut: 0, state: "opening", problem: null });
  #control = new AbortController();
  #lines: Line[] = [];
  #numbers = 0;
  #leftOut: number | null = 0;
  #seconds: { at: number; count: number }[] = [];
  #state: FeedState["state"] = "opening";
  #problem: Refused | null = null;
  #timer: ReturnType<typeof setInterval>;

  constructor(filters: Record<string, string>) {
    void this.#run(filters);
    this.#timer = setInterval(() => this.#draw(), DRAW_MS);
  }

  end(): void {
    this.#control.abort();
    clearInterval(this.#timer);
  }

  async #run(filters: Record<string, string>): Promise<void> {
    const { signal } = this.#control;
    while (!signal.aborted) {
      try {
        await watch(filters, signal, () => this.#set("open", null), (told) => this.#take(told));
        this.#set("broken", null);
      } catch (error) {
        if (signal.aborted) return;
        if (error instanceof Refused) this.#set("broken", error);
        else if (error instanceof Unreachable) this.#set("broken", null);
        else throw error;
      }
      await new Promise((done) => setTimeout(done, RETRY_MS));
    }
  }

  #set(state: FeedState["state"], problem: Refused | null): void {
    this.#state = state;
    this.#problem = problem;
    this.#draw();
  }

  #take(told: Told[]): void {
    let count = 0;
    for (const one of told) {
      if (one.kind === "outcome") {
        count++;
        this.#lines.push({ number: this.#numbers++, outcome: one.data });
      } else if (one.kind !== "end") {
        const some = one.kind === "missed" ? one.data.missed : sum(one.data.left_out);
        count += some ?? 0;
        this.#leftOut = some === null || this.#leftOut === null ? null : this.#leftOut + some;
      }
    }
    // Cut in one go now and then, since cutting moves all lines.
    if (this.#lines.length > LINES_MAX * 1.2) this.#lines = this.#lines.slice(-LINES_MAX);
    this.#seconds.push({ at: performance.now(), count });
  }

  #draw(): void {
    const since = performance.now() - RATE_S * 1000;
    this.#seconds = this.#seconds.filter((second) => second.at >= since);
    const rate = this.#seconds.reduce((total, second) => total + second.count, 0) / RATE_S;
    const before = this.state.peek();
    const last = this.#lines.at(-1)?.number;
    const isSame =
      before.lines.at(-1)?.number === last &&
      before.rate === rate &&
      before.leftOut === this.#leftOut &&
      before.state === this.#state &&
      before.problem === this.#problem;
    if (isSame) return;
    const lines = before.lines.at(-1)?.number === last ? before.lines : this.#lines.slice(-LINES_MAX);
    this.state.value = { lines, rate, total: this.#leftOut === null ? null : this.#numbers + this.#leftOut, leftOut: this.#leftOut, state: this.#state, problem: this.#problem };
  }
}

function sum(counts: Record<string, number> | null): number | null {
  return counts === null ? null : Object.values(counts).reduce((total, count) => total + count, 0);
}
