// What was refused: how much of it when, grouped by reason, code, type, application and module, the letters themselves, and the
// way to judge them again.
import { RefreshCw } from "lucide";
import { useMemo, useRef, useState } from "preact/hooks";
import { type Filters, go, hrefOf } from "../address";
import { type Answer, get } from "../api/client";
import { Chart } from "../parts/chart";
import { Icon } from "../parts/icon";
import { useLoaded } from "../parts/loading";
import { Problem } from "../parts/problem";
import { SpanChoice, spanOf } from "../parts/span";
import { EventType, number, Time, whole } from "../parts/words";
import { Again } from "./refused/again";
import { Letters } from "./refused/letters";
import "./refused.css";

type Summary = Answer<"/v1/dead-letters/summary">;
type Group = Summary["groups"][number];

const TEXTS = ["code", "violation", "category", "name", "application"] as const;
/** The filters that the API takes for dead letters. */
const FILTERS = ["reason", ...TEXTS, "validator"] as const;
/** What is counted without a beginning is counted from here. */
const EVER = "1970-01-01T00:00:00Z";
const EVERY = 10_000;
/** Groups that are shown before somebody asks for all. */
const GROUPS = 25;
const BY = "reason,code,violation,category,name,application";

/** The filters of the address as the API takes them, with their time. */
export function queryOf(filters: Filters): Record<string, string> {
  const { from, to } = spanOf(filters, "24h");
  const given = FILTERS.flatMap((name) => (filters[name] === undefined ? [] : [[name, filters[name]]]));
  return { ...(Object.fromEntries(given) as Record<string, string>), ...(from === undefined ? {} : { from }), ...(to === undefined ? {} : { to }) };
}

export function Refused({ filters }: { filters: Filters }) {
  const [round, setRound] = useState(0);
  const key = JSON.stringify(filters);
  // What is chosen stays the same for as long as its result is shown.
  const choice = useMemo(() => ({ filter: queryOf(filters) }), [key]);
  const loaded = useLoaded(`${key} ${round}`, EVERY, (signal) => get("/v1/dead-letters/summary", { from: EVER, ...queryOf(filters), by: BY }, { signal }));
  const before = useRef<{ key: string; data: Summary } | null>(null);
  if (loaded.data !== undefined) before.current = { key, data: loaded.data };
  const data = loaded.data ?? (before.current?.key === key ? before.current.data : undefined);
  const { problem } = loaded;
  const { words } = spanOf(filters, "24h");
  return (
    <div class="refused">
      <Filtering filters={filters} />
      {problem !== null && <Problem of={problem} doing="What was refused could not be counted." />}
      <p class="quiet" role="status">
        {data === undefined ? "Counting…" : `${data.whole ? "" : "At least "}${whole(data.count)} ${data.count === 1 ? "event was" : "events were"} refused in ${words}.`}
        {data !== undefined && !data.whole && data.reached !== null && (
          <>
            {" "}
            There was no time to count those before <Time at={data.reached} />: choose a shorter time.
          </>
        )}
      </p>
      {data !== undefined && data.count === 0 ? (
        <Nothing filters={filters} words={words} />
      ) : (
        <>
          <section class="card" aria-labelledby="over-time">
            <h2 id="over-time">Over time</h2>
            <OverTime summary={data} words={words} />
          </section>
          <section class="card" aria-labelledby="groups">
            <h2 id="groups">By reason</h2>
            {data === undefined ? <p class="quiet">…</p> : <Groups groups={data.groups} more={data.more_groups} filters={filters} />}
          </section>
          <section class="card" aria-labelledby="all-again">
            <h2 id="all-again">Judge them again</h2>
            {data !== undefined && <Again choice={choice} {...chosen(data)} changed={() => setRound(round + 1)} />}
          </section>
          <Letters filters={filters} round={round} changed={() => setRound(round + 1)} />
        </>
      )}
    </div>
  );
}

function chosen({ groups, whole: isWhole }: Summary): { what: string; count: number | null } {
  const count = groups.reduce((sum, group) => sum + group.redrivable, 0);
  return isWhole ? { what: `${whole(count)} ${count === 1 ? "letter" : "letters"}`, count } : { what: "all of these letters", count: null };
}

function Nothing({ filters, words }: { filters: Filters; words: string }) {
  const isFiltered = FILTERS.some((name) => filters[name] !== undefined);
  return (
    <div class="card empty">
      <p>
        Nothing {isFiltered ? "that fits these filters " : ""}was refused in {words}.
      </p>
      <p class="quiet">
        {isFiltered ? "Filters have to be exact. Choose fewer, or a longer time." : "Choose a longer time above."} What arrives is in <a href={hrefOf("live")}>live</a>.
      </p>
    </div>
  );
}

function Filtering({ filters }: { filters: Filters }) {
  const change = (changed: Record<string, string>) => go("refused", { ...filters, ...changed });
  return (
    <search class="filters">
      <SpanChoice filters={filters} usual="24h" change={change} />
      <fieldset class="choice">
        <legend class="unseen">Reason</legend>
        {["", "rejected", "quarantined"].map((reason) => (
          <label key={reason} class={(filters.reason ?? "") === reason ? "chosen" : ""}>
            <input type="radio" name="reason" checked={(filters.reason ?? "") === reason} onChange={() => change({ reason })} />
            <span>{reason === "" ? "both" : reason}</span>
          </label>
        ))}
      </fieldset>
      {TEXTS.map((name) => (
        <label key={name} class="field">
          <span>{name}</span>
          <input type="text" value={filters[name] ?? ""} placeholder="any" spellcheck={false} onChange={(event) => change({ [name]: event.currentTarget.value.trim() })} />
        </label>
      ))}
      <label class="field">
        <span>validator</span>
        <input type="text" value={filters.validator ?? ""} placeholder="a digest" spellcheck={false} onChange={(event) => change({ validator: event.currentTarget.value.trim() })} />
      </label>
      {Object.keys(filters).length > 0 && (
        <button type="button" class="plain" onClick={() => go("refused")}>
          Show all
        </button>
      )}
    </search>
  );
}

function OverTime({ summary, words }: { summary: Summary | undefined; words: string }) {
  const { times, lines, span } = useMemo(() => series(summary), [summary]);
  return <Chart title={`Refused events, ${words}`} times={times} lines={lines} span={span} unit="" />;
}

const SECONDS = { minute: 60, hour: 3600, day: 86_400 } as const;

/** How many of each reason were refused in each bucket, those without any included. */
function series(summary: Summary | undefined) {
  const reasons = ["rejected", "quarantined"] as const;
  const width = SECONDS[summary?.bucket ?? "hour"];
  const now = Date.now() / 1000;
  const counts = new Map<number, Record<(typeof reasons)[number], number>>();
  for (const { reason, buckets } of summary?.groups ?? []) {
    for (const { start, count } of buckets) {
      const time = Date.parse(start) / 1000;
      const sums = counts.get(time) ?? { rejected: 0, quarantined: 0 };
      if (reason === "rejected" || reason === "quarantined") sums[reason] += count;
      counts.set(time, sums);
    }
  }
  const earliest = Math.min(...counts.keys(), now);
  const told = summary === undefined ? now : Date.parse(summary.from) / 1000;
  const from = told === 0 ? earliest : told;
  const to = summary === undefined ? now : Math.min(Date.parse(summary.to) / 1000, now);
  const times: number[] = [];
  for (let time = Math.floor(from / width) * width; time <= to; time += width) times.push(time);
  times.push(to);
  const at = (time: number, index: number) => counts.get(index === times.length - 1 ? (times[index - 1] ?? time) : time);
  const lines = reasons.map((name) => ({ name, color: `--${name}`, values: times.map((time, index) => at(time, index)?.[name] ?? 0) }));
  return { times, lines, span: [from, to] as [number, number] };
}

function Groups({ groups, more, filters }: { groups: readonly Group[]; more: boolean; filters: Filters }) {
  const [most, setMost] = useState(GROUPS);
  const sentences = useLoaded(groups.slice(0, most).map((group) => group.latest_id).join(), 0, (signal) => sentencesOf(groups.slice(0, most), signal));
  return (
    <>
      <ul class="groups">
        {groups.slice(0, most).map((group) => {
          const { reason, code, violation, category, name, application, count, latest_id, last_received_at: last } = group;
          const narrower = { ...filters, reason, code, violation, category, name, application };
          return (
            <li key={JSON.stringify([reason, code, violation, category, name, application])}>
              <b class="count" title={whole(count)}>
                {number(count)}
              </b>
              <div>
                <a class="why" href={hrefOf("refused", narrower)}>
                  <bdi>{sentences.data?.get(latest_id) ?? violation ?? code}</bdi>
                </a>
                <span class="quiet where">
                  <span class={`mark ${reason ?? ""}`}>{violation ?? code}</span> <EventType category={category ?? null} name={name ?? null} />
                  <span>
                    from <bdi>{application ?? "nobody known"}</bdi>
                  </span>
                  <span>
                    last <Time at={last} />
                  </span>
                  <a href={hrefOf("letter", { id: latest_id })}>the latest</a>
                </span>
              </div>
            </li>
          );
        })}
      </ul>
      {groups.length > most && (
        <button type="button" onClick={() => setMost(groups.length)}>
          All {whole(groups.length)} groups
        </button>
      )}
      {more && groups.length <= most && <p class="quiet">There are more groups than are told. Filter to see the others.</p>}
    </>
  );
}

const known = new Map<string, string>();

/** What the latest letter of each group says. A letter never changes, so each is read once. */
async function sentencesOf(groups: readonly Group[], signal: AbortSignal): Promise<ReadonlyMap<string, string>> {
  if (known.size > 1000) known.clear();
  for (const { latest_id: id } of groups) {
    if (known.has(id)) continue;
    try {
      const letter = await get("/v1/dead-letters/{id}", undefined, { places: { id }, signal });
      known.set(id, letter.violations[0]?.message ?? letter.detail);
    } catch (error) {
      if (signal.aborted) throw error;
      // It was removed meanwhile; its code is shown.
    }
  }
  return new Map(known);
}

export function ReadAgain({ onClick, disabled }: { onClick: () => void; disabled: boolean }) {
  return (
    <button type="button" class="plain" onClick={onClick} disabled={disabled}>
      <Icon of={RefreshCw} /> Read again
    </button>
  );
}
