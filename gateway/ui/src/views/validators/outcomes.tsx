// How the events of one slot ended over time, and what its module said to them.
import { useMemo } from "preact/hooks";
import type { Filters } from "../../address";
import { get } from "../../api/client";
import { added, type Counts, none, RANGES, type Range, rowsSince, seriesOf } from "../../api/counts";
import { type One, type Slot, wordsOf } from "../../api/modules";
import { Chart } from "../../parts/chart";
import { unlessHidden, useLoaded } from "../../parts/loading";
import { Problem } from "../../parts/problem";
import { Ranges } from "../../parts/ranges";
import { number, OUTCOMES, percent, whole } from "../../parts/words";
import { belonging } from "./verdicts";
import { micros } from "./words";

interface Given {
  slot: Slot;
  one: One | null;
  filters: Filters;
  choose: (range: Range) => void;
}

/** The counts of a slot. A wildcard has those that no other slot has. */
async function countsOf(slot: Slot, seconds: number, bucket: Counts["bucket"], signal: AbortSignal): Promise<Counts> {
  const only = { ...(slot.category === null ? {} : { category: slot.category }), ...(slot.name === null ? {} : { name: slot.name }) };
  const { rows, ...read } = await rowsSince(new Date(Date.now() - seconds * 1000), bucket, signal, only);
  const others = slot.name === null ? await unlessHidden(() => get("/v1/validators", undefined, { signal })) : null;
  return { ...read, ...added(slot.name === null ? belonging(rows, slot, others?.validators ?? []) : rows) };
}

export function Outcomes({ slot, one, filters, choose }: Given) {
  const range: Range = filters.range !== undefined && filters.range in RANGES ? (filters.range as Range) : "24h";
  const { seconds, bucket, words } = RANGES[range];
  const { data, problem } = useLoaded(`${wordsOf(slot)} ${range}`, seconds <= 3600 ? 4000 : 20_000, (signal) => countsOf(slot, seconds, bucket, signal));
  const { times, lines, span } = useMemo(() => {
    const counts: Counts = data ?? { bucket, whole: true, buckets: new Map(), total: none(), types: [], applications: [] };
    const series = seriesOf(counts, seconds, [], Date.now() / 1000);
    return { ...series, lines: OUTCOMES.map((name) => ({ name, color: `--${name}`, values: series.rates.map((rates) => rates[name]) })) };
  }, [data, seconds]);
  return (
    <section class="card" aria-labelledby="outcomes">
      <h2 id="outcomes">How its events end</h2>
      {problem !== null && <Problem of={problem} doing="The counts are not up to date." />}
      <Ranges range={range} choose={choose} />
      <dl class="sums">
        {OUTCOMES.map((outcome) => (
          <div key={outcome}>
            <dt class={outcome}>{outcome}</dt>
            <dd>
              <b title={data === undefined ? "" : whole(data.total[outcome])}>{data === undefined ? "…" : number(data.total[outcome])}</b>
            </dd>
          </div>
        ))}
      </dl>
      <Chart title={`Events a second by outcome, ${words}`} times={times} lines={lines} span={span} />
      {one?.counts !== undefined && <Verdicts one={one} counts={one.counts} />}
    </section>
  );
}

function Verdicts({ one, counts }: { one: One; counts: NonNullable<One["counts"]> }) {
  const faults = Object.entries(counts.faulted);
  const all = counts.accepted + counts.amended + counts.rejected + faults.reduce((sum, [, count]) => sum + count, 0);
  const deadline = (one.limits?.deadline_ms ?? 0) * 1000;
  return (
    <>
      <h3>Verdicts of this module at this gateway</h3>
      <dl class="sums">
        {(["accepted", "amended", "rejected"] as const).map((verdict) => (
          <div key={verdict}>
            <dt>{verdict}</dt>
            <dd>
              <b title={whole(counts[verdict])}>{number(counts[verdict])}</b> <span class="quiet">{percent(counts[verdict], all)}</span>
            </dd>
          </div>
        ))}
        {faults.map(([code, count]) => (
          <div key={code}>
            <dt>
              fault <a href={`/problems/${encodeURIComponent(code)}`} target="_blank" rel="noreferrer">{code}</a>
            </dt>
            <dd class="bad">
              <b title={whole(count)}>{number(count)}</b>
            </dd>
          </div>
        ))}
        {one.judging != null && (
          <>
            <div>
              <dt>half take at most</dt>
              <dd>
                <b>{micros(one.judging.p50_us)}</b>
              </dd>
            </div>
            <div>
              <dt>99 of 100 take at most</dt>
              <dd class={one.judging.p99_us > deadline / 2 ? "bad" : ""}>
                <b>{micros(one.judging.p99_us)}</b> <span class="quiet">the deadline is {micros(deadline)} of processor time</span>
              </dd>
            </div>
          </>
        )}
      </dl>
      {one.judging == null && <p class="quiet small">It has judged too few events to say how long it takes.</p>}
    </>
  );
}
