// The gateways of the database: what each serves, what it alone does for all, and what is wrong.
import { type Answer, get } from "../../api/client";
import { unlessHidden, useLoaded } from "../../parts/loading";
import { Problem } from "../../parts/problem";
import { type Column, Table } from "../../parts/table";
import { legible, Short, Time, whole } from "../../parts/words";

const EVERY = 2000;
type Gateway = Answer<"/v1/gateways">["gateways"][number];

/** What a duty is, in words. */
const DUTIES: Record<string, string> = {
  retention: "removes what is due",
  folds: "sums up the counts",
  scrub: "takes secrets out of older dead letters",
  jobs: "works on the jobs",
};

export function Gateways() {
  const { data, problem } = useLoaded("gateways", EVERY, (signal) => unlessHidden(() => get("/v1/gateways", undefined, { signal })));
  if (data === null) {
    return <p>What your application may read is limited, so the gateways and generations are not shown to it.</p>;
  }
  return (
    <section class="card" aria-labelledby="gateways">
      <h2 id="gateways">Gateways</h2>
      {problem !== null && <Problem of={problem} doing="The gateways could not be read." />}
      {data === undefined ? <p class="quiet">…</p> : <Table label="Gateways" columns={columnsOf(data.generation)} rows={data.gateways} keyOf={({ id }) => id} />}
    </section>
  );
}

function columnsOf(current: number): Column<Gateway>[] {
  return [
    { title: "Name", show: Name },
    { title: "State", wide: true, show: (one) => <State of={one} current={current} /> },
    { title: "Modules", show: ({ modules_from: from, generation }) => (from === "directory" ? "its own directory" : <span class="of-row">generation {whole(generation)}</span>) },
    { title: "Prepares", number: true, show: ({ preparing }) => whole(preparing) },
    { title: "Duties", show: ({ duties }) => (duties.length === 0 ? <span class="quiet">no duty</span> : <ul>{duties.map((duty) => <li key={duty} title={duty}>{DUTIES[duty] ?? duty}</li>)}</ul>) },
    { title: "Version", show: ({ version }) => version },
    { title: "Since", show: ({ since }) => <Time at={since} /> },
    { title: "Seen", show: ({ seen }) => <Time at={seen} /> },
  ];
}

function Name({ name, listen, answers }: Gateway) {
  return (
    <>
      <bdi>{legible(name)}</bdi>
      {answers && <span class="quiet"> (this one)</span>}
      <div class="quiet small">
        <code>{listen}</code>
      </div>
    </>
  );
}

function State({ of, current }: { of: Gateway; current: number }) {
  if (!of.live) return <span class="bad">gone: it has not been seen for more than ten seconds</span>;
  const isBehind = of.modules_from === "database" && of.generation < current;
  if (!isBehind && of.problems.length === 0) return <span class="stored">well</span>;
  return (
    <ul>
      {isBehind && <li class="bad">behind: generation {whole(current)} is the current one</li>}
      {of.problems.map(({ why, event_type: type, digest }) => (
        <li key={`${type} ${digest} ${why}`} class="bad">
          {type !== undefined && <bdi>{legible(type)}: </bdi>}
          <bdi>{legible(why)}</bdi> {digest != null && <Short id={digest} />}
        </li>
      ))}
    </ul>
  );
}
