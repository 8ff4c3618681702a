// Long work: what kind, how far, who asked for it, and what came of it.
import { type Filters, go, hrefOf } from "../../address";
import { get, type Schemas } from "../../api/client";
import { useLoaded } from "../../parts/loading";
import { Problem } from "../../parts/problem";
import { type Column, Table } from "../../parts/table";
import { legible, number, OUTCOMES, percent, Time, whole } from "../../parts/words";

export type Job = Schemas["Job"];
const EVERY = 2000;
const LIMIT = 20;
export const STATES = ["waiting", "running", "done", "failed", "cancelled"] as const;
const KINDS = ["redrive", "rejudge", "replay"] as const;

export function isOver({ state }: Job): boolean {
  return state === "done" || state === "failed" || state === "cancelled";
}

/** How far a job is, as a bar where its whole is known. */
export function Progress({ of }: { of: Job }) {
  const { done, total } = of.progress;
  if (of.state === "waiting") return <span class="quiet">not begun</span>;
  if (total === null) return <>{number(done)} done</>;
  return (
    <>
      <progress max={Math.max(total, 1)} value={total === 0 ? 1 : Math.min(done, total)} aria-label={`Progress of ${of.kind}`} />
      <div class="small" title={`${whole(done)} of ${whole(total)}`}>
        {number(done)} of {number(total)}
        {total > 0 && `, ${percent(done, total)}`}
      </div>
    </>
  );
}

/** What came of a job, or has so far. */
export function Result({ of }: { of: Job }) {
  if (of.problem !== null) return <bdi class="bad">{legible(of.problem)}</bdi>;
  const counts = of.progress;
  const each = [...OUTCOMES, "skipped" as const].filter((name) => counts[name] > 0);
  if (each.length === 0) return <span class="quiet">{isOver(of) ? "nothing" : "nothing yet"}</span>;
  return <>{each.map((name) => `${whole(counts[name])} ${name}`).join(", ")}</>;
}

export function JobState({ of }: { of: Job }) {
  const isEnding = of.cancel_requested && !isOver(of);
  return <span class={`job-${of.state}`}>{isEnding ? "ends after its step" : of.state}</span>;
}

const COLUMNS: readonly Column<Job>[] = [
  { title: "Job", show: ({ id, kind, dry_run: isDry }) => <><a href={hrefOf("job", { id })}>{kind}</a>{isDry && <span class="quiet small"> dry run</span>}</> },
  { title: "State", show: (job) => <JobState of={job} /> },
  { title: "Progress", show: (job) => <Progress of={job} /> },
  { title: "Came of it", wide: true, show: (job) => <Result of={job} /> },
  { title: "Asked by", show: ({ requested_by: by }) => <bdi>{by.name === "" ? `a ${by.kind}` : legible(by.name)}</bdi> },
  { title: "Asked", show: ({ requested_at: at }) => <Time at={at} /> },
  { title: "Ended", show: ({ ended_at: at }) => (at === null ? <span class="quiet">not yet</span> : <Time at={at} />) },
];

export function Jobs({ filters }: { filters: Filters }) {
  const { kind, state, cursor } = filters;
  const asked = Object.fromEntries(Object.entries({ kind, state, cursor }).filter(([, value]) => value !== undefined));
  const { data, problem } = useLoaded(JSON.stringify(asked), EVERY, (signal) => get("/v1/jobs", { ...asked, limit: LIMIT }, { signal }));
  const change = (changed: Record<string, string>) => go("fleet", { ...filters, cursor: "", ...changed });
  const choose = (name: string, words: readonly string[]) => (
    <label class="field">
      <span>{name}</span>
      <select value={filters[name] ?? ""} onChange={(event) => change({ [name]: event.currentTarget.value })}>
        <option value="">any</option>
        {words.map((word) => (
          <option key={word} value={word}>
            {word}
          </option>
        ))}
      </select>
    </label>
  );
  return (
    <section class="card" aria-labelledby="jobs">
      <h2 id="jobs">Jobs</h2>
      <search class="filters" aria-label="Jobs">
        {choose("kind", KINDS)}
        {choose("state", STATES)}
      </search>
      {problem !== null && <Problem of={problem} doing="The jobs could not be read." />}
      {data === undefined ? (
        problem === null && <p class="quiet">…</p>
      ) : data.jobs.length === 0 ? (
        <p class="quiet">{Object.keys(asked).length > 0 ? "No job fits these filters." : "There are none. Judging many refused events again is a job."}</p>
      ) : (
        <>
          <Table label="Jobs" columns={COLUMNS} rows={data.jobs} keyOf={({ id }) => id} />
          <p class="acts">
            {data.next !== null && <a class="button" href={hrefOf("fleet", { ...filters, cursor: data.next })}>Older jobs</a>}
            {cursor !== undefined && <a class="button" href={hrefOf("fleet", { ...filters, cursor: "" })}>To the latest</a>}
          </p>
        </>
      )}
    </section>
  );
}
