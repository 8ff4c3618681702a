// The generations that the gateways have served, the latest first.
import { type Filters, hrefOf } from "../../address";
import { type Answer, get } from "../../api/client";
import { unlessHidden, useLoaded } from "../../parts/loading";
import { Problem } from "../../parts/problem";
import { type Column, Table } from "../../parts/table";
import { legible, Time, whole } from "../../parts/words";

const EVERY = 3000;
const LIMIT = 20;
/** Changes that a row names. */
const NAMED = 3;
export type Generation = Answer<"/v1/generations">["generations"][number];

const COLUMNS: readonly Column<Generation>[] = [
  { title: "Generation", show: ({ number }) => <a href={hrefOf("generation", { number: String(number) })}>{whole(number)}</a> },
  { title: "Made", show: ({ at }) => <Time at={at} /> },
  { title: "By", show: ({ by, from }) => <><bdi>{legible(by)}</bdi>{from !== null && <span class="quiet small"> from {legible(from)}</span>}</> },
  { title: "Cause", show: ({ cause, forced }) => <>{cause}{forced && <span class="bad"> forced</span>}</> },
  { title: "Changes", wide: true, show: Changes },
];

function Changes({ changes }: Generation) {
  if (changes.length === 0) return <span class="quiet">none</span>;
  return (
    <ul class="names">
      {changes.slice(0, NAMED).map(({ event_type: type, digest }) => (
        <li key={type}>
          <bdi class="clamp">{legible(type)}</bdi>
          {digest === null && <span class="quiet"> taken away</span>}
        </li>
      ))}
      {changes.length > NAMED && <li class="quiet">and {whole(changes.length - NAMED)} more</li>}
    </ul>
  );
}

export function Generations({ filters }: { filters: Filters }) {
  const before = Number(filters.before ?? "");
  const query = { limit: LIMIT, ...(before > 0 ? { before } : {}) };
  const { data, problem } = useLoaded(`generations ${before}`, EVERY, (signal) => unlessHidden(() => get("/v1/generations", query, { signal })));
  if (data === null) return null;
  return (
    <section class="card" aria-labelledby="generations">
      <h2 id="generations">Generations</h2>
      {problem !== null && <Problem of={problem} doing="The generations could not be read." />}
      {data === undefined ? (
        <p class="quiet">…</p>
      ) : data.generations.length === 0 ? (
        <p class="quiet">
          {before > 0 ? (
            <>There are none before that one. <a href={hrefOf("fleet", { ...filters, before: "" })}>To the latest</a></>
          ) : (
            <>There are none. Each gateway takes its modules from its own directory, or nothing was pushed yet. With <code>modules_from = "database"</code> all gateways serve the same set.</>
          )}
        </p>
      ) : (
        <>
          <Table label="Generations" columns={COLUMNS} rows={data.generations} keyOf={({ number }) => String(number)} />
          <p class="acts">
            {data.next !== null && (
              <a class="button" href={hrefOf("fleet", { ...filters, before: String(data.next) })}>
                Older generations
              </a>
            )}
            {before > 0 && <a class="button" href={hrefOf("fleet", { ...filters, before: "" })}>To the latest</a>}
          </p>
        </>
      )}
    </section>
  );
}
