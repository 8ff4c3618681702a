// Counts of events over a time, added up in the ways that the overview shows. The gateway counts by the minute at the finest,
// so what happens now is the growth of those counts between two looks.
import { type Counted, OUTCOMES } from "../parts/words";
import { type Answer, get } from "./client";

export type Bucket = "minute" | "hour" | "day";
export type Count = Answer<"/v1/stats">["counts"][number];
export type Sums = Record<Counted, number>;

export const RANGES = {
  "5m": { title: "5 min", words: "the last 5 minutes", seconds: 300, bucket: "minute" },
  "15m": { title: "15 min", words: "the last 15 minutes", seconds: 900, bucket: "minute" },
  "1h": { title: "1 h", words: "the last hour", seconds: 3600, bucket: "minute" },
  "6h": { title: "6 h", words: "the last 6 hours", seconds: 21_600, bucket: "minute" },
  "24h": { title: "24 h", words: "the last 24 hours", seconds: 86_400, bucket: "hour" },
  "7d": { title: "7 d", words: "the last 7 days", seconds: 604_800, bucket: "hour" },
  "30d": { title: "30 d", words: "the last 30 days", seconds: 2_592_000, bucket: "day" },
} as const satisfies Record<string, { title: string; words: string; seconds: number; bucket: Bucket }>;
export type Range = keyof typeof RANGES;

export const WIDTH_S: Record<Bucket, number> = { minute: 60, hour: 3600, day: 86_400 };
const WIDER: Record<Bucket, Bucket | null> = { minute: "hour", hour: "day", day: null };
/** Most pages of 10,000 counts that one look reads. Beyond them, wider buckets have fewer. */
const PAGES_MAX = 5;

export const none = (): Sums => ({ stored: 0, duplicate: 0, rejected: 0, quarantined: 0 });
export const all = (sums: Sums): number => OUTCOMES.reduce((sum, outcome) => sum + sums[outcome], 0);

/** What was counted in a time. */
export interface Counts {
  bucket: Bucket;
  /** False if there were too many counts to read them all. */
  whole: boolean;
  /** The sums of each bucket that has any, by its first second since 1970. */
  buckets: Map<number, Sums>;
  total: Sums;
  types: { category: string | null; name: string | null; sums: Sums }[];
  applications: { application: string; sums: Sums }[];
}

/** What was received since a moment, of all event types or of some. */
export async function rowsSince(
  from: Date,
  bucket: Bucket,
  signal: AbortSignal,
  only: { category?: string; name?: string } = {},
): Promise<{ bucket: Bucket; whole: boolean; rows: Count[] }> {
  const rows: Count[] = [];
  let cursor: string | null = null;
  for (let page = 0; page < PAGES_MAX; page++) {
    const query = { ...only, from: from.toISOString(), bucket, limit: 10_000, ...(cursor === null ? {} : { cursor }) };
    const answer: Answer<"/v1/stats"> = await get("/v1/stats", query, { signal });
    rows.push(...answer.counts);
    cursor = answer.next;
    if (cursor === null) break;
  }
  const wider = WIDER[bucket];
  if (cursor !== null && wider !== null) return rowsSince(from, wider, signal, only);
  return { bucket, whole: cursor === null, rows };
}

/** Counts what was received since a moment. */
export async function countsSince(from: Date, bucket: Bucket, signal: AbortSignal): Promise<Counts> {
  const { rows, ...read } = await rowsSince(from, bucket, signal);
  return { ...read, ...added(rows) };
}

/** The sums of counts. */
export function added(rows: Count[]): Pick<Counts, "buckets" | "total" | "types" | "applications"> {
  const buckets = new Map<number, Sums>();
  const types = new Map<string, Counts["types"][number]>();
  const applications = new Map<string, Counts["applications"][number]>();
  const total = none();
  const of = <K, V>(map: Map<K, V>, key: K, make: () => V): V => {
    const found = map.get(key) ?? make();
    map.set(key, found);
    return found;
  };
  for (const { start, application, category, name, outcome, count } of rows) {
    total[outcome] += count;
    of(buckets, Date.parse(start) / 1000, none)[outcome] += count;
    of(types, JSON.stringify([category, name]), () => ({ category, name, sums: none() })).sums[outcome] += count;
    of(applications, application, () => ({ application, sums: none() })).sums[outcome] += count;
  }
  const most = <T extends { sums: Sums }>(map: Map<string, T>) => [...map.values()].sort((a, b) => all(b.sums) - all(a.sums));
  return { buckets, total, types: most(types), applications: most(applications) };
}

/** The rates between two looks. Times are seconds since 1970. */
export interface Tick {
  from: number;
  to: number;
  rates: Sums;
}

/** Most seconds of ticks that are kept: as many as the longest range shows that has them. */
const KEPT_S = 900;

/** Makes rates of repeated looks at the counts of the last minutes. */
export class Ticks {
  #minutes = new Map<number, Sums>();
  #looked: number | null = null;
  readonly list: Tick[] = [];

  /** Looks, and returns the ticks so far. */
  async look(signal: AbortSignal): Promise<readonly Tick[]> {
    const now = Date.now() / 1000;
    const before = this.#looked;
    // After a long pause, such as of a sleeping machine, the counts between are no rate of now.
    const isNew = before === null || now - before > 120;
    const { buckets } = await countsSince(new Date((now - 180) * 1000), "minute", signal);
    const grown = none();
    for (const [minute, sums] of buckets) {
      for (const outcome of OUTCOMES) {
        grown[outcome] += Math.max(0, sums[outcome] - (this.#minutes.get(minute)?.[outcome] ?? 0));
      }
    }
    this.#minutes = buckets;
    this.#looked = now;
    if (isNew) {
      this.list.length = 0;
    } else {
      const rates = none();
      for (const outcome of OUTCOMES) rates[outcome] = grown[outcome] / Math.max(now - before, 0.5);
      this.list.push({ from: before, to: now, rates });
    }
    while ((this.list[0]?.to ?? now) < now - KEPT_S) this.list.shift();
    return [...this.list];
  }
}

/** The mean of the ticks of the last seconds; null before there are any. */
export function rateNow(ticks: readonly Tick[], seconds: number): Sums | null {
  const last = ticks.at(-1);
  if (last === undefined) return null;
  const rates = none();
  let time = 0;
  for (const tick of ticks) {
    if (tick.from < last.to - seconds - 0.5) continue;
    time += tick.to - tick.from;
    for (const outcome of OUTCOMES) rates[outcome] += tick.rates[outcome] * (tick.to - tick.from);
  }
  for (const outcome of OUTCOMES) rates[outcome] /= time;
  return rates;
}

/** The points of a chart: each rate holds from its time to the next. */
export interface Series {
  times: number[];
  rates: Sums[];
  span: [number, number];
}

export function seriesOf(counts: Counts, seconds: number, ticks: readonly Tick[], now: number): Series {
  const width = WIDTH_S[counts.bucket];
  const fine = seconds <= KEPT_S ? ticks : [];
  const begins = fine[0]?.from ?? now;
  const series: Series = { times: [], rates: [], span: [now - seconds, now] };
  const point = (time: number, rates: Sums) => {
    series.times.push(time);
    series.rates.push(rates);
  };
  const first = Math.floor((now - seconds) / width) * width;
  for (let start = first; start < begins; start += width) {
    const sums = counts.buckets.get(start) ?? none();
    // The bucket of now is not over, so its rate is that of its part.
    const over = Math.max(Math.min(width, now - start), 1);
    const rates = none();
    for (const outcome of OUTCOMES) rates[outcome] = sums[outcome] / over;
    point(start, rates);
  }
  for (const tick of fine) point(tick.from, tick.rates);
  const last = series.rates.at(-1);
  if (last !== undefined) point(now, last);
  return series;
}
