// What is arriving, what is refused and why, and whether the gateway is well.
import { useMemo, useRef } from "preact/hooks";
import { type Filters, go, hrefOf } from "../address";
import { get } from "../api/client";
import { all, type Counts, countsSince, none, RANGES, type Range, rateNow, seriesOf, type Sums, type Tick, Ticks } from "../api/counts";
import { type Figures, figures } from "../api/figures";
import { reasonsSince, sentence } from "../api/reasons";
import { Chart } from "../parts/chart";
import { type Loaded, unlessHidden, useLoaded } from "../parts/loading";
import { Problem } from "../parts/problem";
import { Ranges } from "../parts/ranges";
import { bytes, EventType, milliseconds, number, OUTCOMES, percent, rate, Time, whole } from "../parts/words";
import { FirstSteps } from "./first-steps";
import { Gateways, Modules } from "./health";

const NOW_EVERY = 2000;
const FIGURES_EVERY = 4000;
const REASONS_EVERY = 6000;
/** Rows of each list of the most frequent. */
const TOP = 8;

export function Overview({ filters }: { filters: Filters }) {
  const range: Range = filters.range !== undefined && filters.range in RANGES ? (filters.range as Range) : "1h";
  const { seconds, bucket, words } = RANGES[range];
  const from = () => new Date(Date.now() - seconds * 1000);
  const counts = useLoaded(range, seconds <= 3600 ? 4000 : 30_000, (signal) => countsSince(from(), bucket, signal));
  const ticker = useRef(new Ticks());
  const ticks = useLoaded("ticks", NOW_EVERY, (signal) => ticker.current.look(signal));
  const reasons = useLoaded(range, REASONS_EVERY, (signal) => reasonsSince(from(), signal));
  const commits = useRef<{ last: Figures | null; mean: number | null }>({ last: null, mean: null });
  const running = useLoaded("figures", FIGURES_EVERY, (signal) =>
    unlessHidden(async () => {
      const read = await figures(signal);
      const { last } = commits.current;
      const grown = last === null || read.commits < last.commits ? read : { ...read, commits: read.commits - last.commits, commitSeconds: read.commitSeconds - last.commitSeconds };
      const mean = grown.commits > 0 ? grown.commitSeconds / grown.commits : commits.current.mean;
      commits.current = { last: read, mean };
      return { ...read, commitMean: mean };
    }),
  );
  const ever = useLoaded("ever", 5000, async (signal) => (await get("/v1/categories", { limit: 1 }, { signal })).categories.length > 0);
  const isEmpty = ever.data === false && (counts.data === undefined || all(counts.data.total) === 0);
  const problem = counts.problem ?? ticks.problem ?? reasons.problem;

  return (
    <>
      {problem !== null && <Problem of={problem} doing="The figures below are not up to date." />}
      {isEmpty && <FirstSteps />}
      <Ranges range={range} choose={(chosen) => go("overview", { range: chosen })} />
      <Tiles counts={counts.data} ticks={ticks.data} running={running} words={words} />
      <section class="card" aria-labelledby="rates">
        <h2 id="rates">Events a second</h2>
        <Rates counts={counts.data} ticks={ticks.data ?? []} seconds={seconds} words={words} />
      </section>
      <div class="columns">
        <section class="card" aria-labelledby="reasons">
          <h2 id="reasons">Refused, by reason</h2>
          <Reasons data={reasons.data} words={words} />
        </section>
        <section class="card" aria-labelledby="types">
          <h2 id="types">Top event types</h2>
          <Top
            of="Event type"
            rows={counts.data?.types.slice(0, TOP).map(({ category, name, sums }) => ({
              key: JSON.stringify([category, name]),
              label: <EventType category={category} name={name} />,
              href: category === null ? null : hrefOf("live", { category, name }),
              sums,
            }))}
            words={words}
          />
        </section>
        <section class="card" aria-labelledby="applications">
          <h2 id="applications">Top applications</h2>
          <Top
            of="Application"
            rows={counts.data?.applications.slice(0, TOP).map(({ application, sums }) => ({
              key: application,
              label: application === "" ? <em class="quiet">unknown</em> : <bdi>{application}</bdi>,
              href: application === "" ? null : hrefOf("live", { application }),
              sums,
            }))}
            words={words}
          />
        </section>
        <Modules />
        <Gateways />
      </div>
    </>
  );
}

interface Shown {
  counts: Counts | undefined;
  ticks: readonly Tick[] | undefined;
  running: Loaded<(Figures & { commitMean: number | null }) | null>;
  words: string;
}

function Tiles({ counts, ticks, running, words }: Shown) {
  const now = rateNow(ticks ?? [], 10);
  const total = counts?.total ?? none();
  const refused = total.rejected + total.quarantined;
  const known = running.data;
  return (
    <dl class="tiles">
      <Tile name="Now" value={now === null ? "…" : `${rate(all(now))}/s`} note="events, over 10 seconds" />
      <Tile
        name="Events"
        value={counts === undefined ? "…" : `${counts.whole ? "" : "at least "}${number(all(total))}`}
        title={whole(all(total))}
        note={`in ${words}`}
      />
      <Tile
        name="Refused"
        value={counts === undefined ? "…" : percent(refused, all(total))}
        note={`${number(total.rejected)} rejected, ${number(total.quarantined)} quarantined`}
        state={total.quarantined > 0 ? "bad" : ""}
      />
      {known !== null && (
        <>
          <Tile
            name="Writer queue"
            value={known === undefined ? "…" : whole(known.queued)}
            note={known === undefined ? "requests" : `requests, the oldest waits ${milliseconds(known.oldestSeconds)}`}
            state={(known?.oldestSeconds ?? 0) > 1 ? "bad" : ""}
          />
          <Tile
            name="Commit"
            value={known === undefined ? "…" : known.commitMean === null ? "–" : milliseconds(known.commitMean)}
            note="mean of the last ones"
          />
          <Tile
            name="Database"
            value={known === undefined ? "…" : known.databaseUp ? "Up" : "Away"}
            note={known?.databaseBytes == null ? "size unknown" : `${bytes(known.databaseBytes)} of events and letters`}
            state={known === undefined || known.databaseUp ? "" : "bad"}
          />
        </>
      )}
    </dl>
  );
}

function Tile({ name, value, note, title, state = "" }: { name: string; value: string; note: string; title?: string; state?: string }) {
  return (
    <div class={`tile ${state}`}>
      <dt>{name}</dt>
      <dd>
        <b {...(title === undefined ? {} : { title })}>{value}</b>
        <span class="quiet">{note}</span>
      </dd>
    </div>
  );
}

function Rates({ counts, ticks, seconds, words }: { counts: Counts | undefined; ticks: readonly Tick[]; seconds: number; words: string }) {
  const { times, lines, span } = useMemo(() => {
    const now = Date.now() / 1000;
    const empty: Counts = { bucket: "minute", whole: true, buckets: new Map(), total: none(), types: [], applications: [] };
    const series = seriesOf(counts ?? empty, seconds, ticks, now);
    const lines = OUTCOMES.map((name) => ({ name, color: `--${name}`, values: series.rates.map((rates: Sums) => rates[name]) }));
    return { ...series, lines };
  }, [counts, ticks, seconds]);
  return <Chart title={`Events a second by outcome, ${words}`} times={times} lines={lines} span={span} />;
}

interface TopRow {
  key: string;
  label: preact.ComponentChild;
  href: string | null;
  sums: Sums;
}

function Top({ of, rows, words }: { of: string; rows: TopRow[] | undefined; words: string }) {
  if (rows === undefined) return <p class="quiet">…</p>;
  if (rows.length === 0) return <p class="quiet">No events in {words}.</p>;
  const most = Math.max(...rows.map((row) => all(row.sums)));
  return (
    <table class="top">
      <thead>
        <tr>
          <th scope="col">{of}</th>
          <th scope="col" class="number">
            Events
          </th>
          <th scope="col" class="number">
            Refused
          </th>
        </tr>
      </thead>
      <tbody>
        {rows.map(({ key, label, href, sums }) => (
          <tr key={key}>
            <th scope="row">
              {href === null ? label : <a href={href}>{label}</a>}
              <span class="bar" style={{ width: `${(all(sums) / most) * 100}%` }} />
            </th>
            <td class="number" title={whole(all(sums))}>
              {number(all(sums))}
            </td>
            <td class={`number ${sums.quarantined > 0 ? "bad" : ""}`}>{percent(sums.rejected + sums.quarantined, all(sums))}</td>
          </tr>
        ))}
      </tbody>
    </table>
  );
}

function Reasons({ data, words }: { data: Awaited<ReturnType<typeof reasonsSince>> | undefined; words: string }) {
  if (data === undefined) return <p class="quiet">…</p>;
  if (data.list.length === 0) return <p class="quiet">Nothing was refused in {words}.</p>;
  return (
    <>
      <ul class="reasons">
        {data.list.slice(0, TOP).map(({ code, violation, category, name, count, latest }) => (
          <li key={JSON.stringify([code, violation, category, name])}>
            <a href={hrefOf("letter", { id: latest.id })}>
              <span class="count">{number(count)}</span>
              <span class="why">
                <bdi>{sentence(latest)}</bdi>
              </span>
              <span class="quiet where">
                <span class={`mark ${latest.reason}`}>{violation ?? code}</span> <EventType category={category} name={name} />{" "}
                <span>
                  last <Time at={latest.received_at} />
                </span>
              </span>
            </a>
          </li>
        ))}
      </ul>
      <p class="quiet">
        {data.more && "Of the newest 1,000 refused events. "}
        <a href={hrefOf("refused")}>All that was refused</a>
      </p>
    </>
  );
}
