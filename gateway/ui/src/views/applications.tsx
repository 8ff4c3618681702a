// All applications: what each may do, how it is known, when it was last there and what was refused. Below them the networks
// that callers came from which are no application.
import { Plus } from "lucide";
import { useState } from "preact/hooks";
import { type Filters, go, hrefOf } from "../address";
import { get, type Schemas } from "../api/client";
import { Icon } from "../parts/icon";
import { useLoaded } from "../parts/loading";
import { Problem } from "../parts/problem";
import { type Column, Table } from "../parts/table";
import { legible, number, Time, whole } from "../parts/words";
import { type Application, count, endsWithin, knownBy, lastUse, rateInWords, refusalInWords, refusalsOf, SCOPES, STATES } from "./applications/words";
import "./applications/applications.css";

const EVERY = 4000;
/** Rows that are drawn until somebody asks for the rest. */
const DRAWN_MAX = 200;
/** Applications that gateways make by themselves. */
const OWN = ["local", "admin.token", "bootstrap"];
/** Days before the end of a token in which the list tells of it. */
const ENDS_SOON_DAYS = 14;

export function Applications({ filters }: { filters: Filters }) {
  const { data, problem } = useLoaded("applications", EVERY, (signal) => get("/v1/applications", undefined, { signal }));
  const hasOwn = data?.applications.some((one) => !OWN.includes(one.name)) ?? true;
  return (
    <>
      {problem !== null && <Problem of={problem} doing="The applications could not be read." />}
      <div class="view-acts">
        <Filtering filters={filters} />
        <a class="button primary" href={hrefOf("add-application")}>
          <Icon of={Plus} /> Add one
        </a>
      </div>
      <section class="card" aria-labelledby="all">
        <h2 id="all">Applications</h2>
        {!hasOwn && (
          <p class="notice">
            Only the applications that the gateway makes for itself are here. <a href={hrefOf("add-application")}>Add one</a> for each program that sends events: then each
            can be told from the others, limited, and ended alone.
          </p>
        )}
        {data === undefined ? <p class="quiet">…</p> : <List all={data.applications} filters={filters} />}
      </section>
      {data !== undefined && <Strangers rows={data.unknown} />}
    </>
  );
}

function Filtering({ filters }: { filters: Filters }) {
  const chosen = (filters.state ?? "").split(",").filter((one) => one !== "");
  const toggle = (state: string) => {
    const next = STATES.filter((one) => (one === state ? !chosen.includes(one) : chosen.includes(one)));
    go("applications", { ...filters, state: next.join(",") });
  };
  return (
    <search class="filters">
      <fieldset class="choice">
        <legend class="unseen">States</legend>
        {STATES.map((state) => (
          <label key={state} class={chosen.includes(state) ? "chosen" : ""}>
            <input type="checkbox" checked={chosen.includes(state)} onChange={() => toggle(state)} />
            <span>{state}</span>
          </label>
        ))}
      </fieldset>
      <label class="field">
        <span>scope</span>
        <select value={filters.scope ?? ""} onChange={(event) => go("applications", { ...filters, scope: event.currentTarget.value })}>
          <option value="">any</option>
          {SCOPES.map(({ scope }) => (
            <option key={scope} value={scope}>
              {scope}
            </option>
          ))}
        </select>
      </label>
      <label class="field">
        <span>name or note</span>
        <input
          type="text"
          value={filters.text ?? ""}
          placeholder="any"
          spellcheck={false}
          onInput={(event) => go("applications", { ...filters, text: event.currentTarget.value }, true)}
        />
      </label>
      {Object.keys(filters).length > 0 && (
        <button type="button" class="plain" onClick={() => go("applications")}>
          Show all
        </button>
      )}
    </search>
  );
}

function fits(one: Application, { state = "", scope = "", text = "" }: Filters): boolean {
  const wanted = text.trim().toLowerCase();
  return (
    (state === "" || state.split(",").includes(one.state)) &&
    (scope === "" || one.scopes.some((own) => own === scope)) &&
    (wanted === "" || one.name.toLowerCase().includes(wanted) || one.note.toLowerCase().includes(wanted))
  );
}

const COLUMNS: readonly Column<Application>[] = [
  {
    title: "Name",
    wide: true,
    show: (one) => (
      <>
        <a href={hrefOf("application", { name: one.name })}>
          <bdi>{one.name}</bdi>
        </a>
        {one.note !== "" && (
          <bdi class="note" title={one.note}>
            {one.note}
          </bdi>
        )}
      </>
    ),
  },
  { title: "State", show: ({ state }) => <span class={`state ${state}`}>{state}</span> },
  { title: "Scopes", show: ({ scopes }) => (scopes.length === 0 ? <span class="quiet">none</span> : scopes.join(", ")) },
  { title: "Known by", show: knownBy },
  { title: "Rate", show: (one) => rateInWords(one.events_per_second, one.burst_events) },
  { title: "Sends", show: Sends },
  { title: "Last use", show: LastUse },
  { title: "Refused", number: true, show: RefusedCount },
];

function Sends({ event_types: types, scopes }: Application) {
  if (!scopes.includes("ingest") && !scopes.includes("admin")) return <span class="quiet">nothing</span>;
  if (types.length === 0) return <>all types</>;
  return types.length === 1 ? <bdi class="type clamp">{legible(types[0] ?? "")}</bdi> : <>{count(types.length, "type")}</>;
}

function LastUse(one: Application) {
  const at = lastUse(one);
  const ends = endsWithin(one, ENDS_SOON_DAYS);
  return (
    <>
      {at !== null ? <Time at={at} /> : one.token_details.length > 0 ? "never" : <span class="quiet">not noted</span>}
      {ends !== null && <div class="bad small">a token ends in {count(ends, "day")}</div>}
    </>
  );
}

function RefusedCount(one: Application) {
  const refusals = refusalsOf(one);
  if (refusals === null) return <span class="quiet">not known yet</span>;
  const first = refusals[0];
  if (first === undefined) return <>0</>;
  const sum = refusals.reduce((sum, { count }) => sum + count, 0);
  return (
    <>
      <span title={whole(sum)}>{number(sum)}</span>
      <div class="small quiet">{refusals.length > 1 ? `most: ${first.kind}` : first.kind}</div>
    </>
  );
}

function List({ all, filters }: { all: readonly Application[]; filters: Filters }) {
  const [isWhole, setWhole] = useState(false);
  const found = all.filter((one) => fits(one, filters));
  // Those that have ended stand last.
  const sorted = [...found.filter((one) => one.state !== "revoked"), ...found.filter((one) => one.state === "revoked")];
  const drawn = isWhole ? sorted : sorted.slice(0, DRAWN_MAX);
  if (found.length === 0) {
    return (
      <div class="empty">
        <p>No application fits these filters.</p>
        <p>
          <a href={hrefOf("applications")}>Show all {all.length.toLocaleString()}</a>
        </p>
      </div>
    );
  }
  return (
    <>
      <Table label="Applications" columns={COLUMNS} rows={drawn} keyOf={({ name }) => name} />
      {drawn.length < sorted.length && (
        <p>
          <button type="button" onClick={() => setWhole(true)}>
            Show {count(sorted.length - drawn.length, "more", "more")}
          </button>
        </p>
      )}
    </>
  );
}

type Stranger = Schemas["ApplicationList"]["unknown"][number];

const STRANGER_COLUMNS: readonly Column<Stranger>[] = [
  { title: "Network", show: ({ network }) => (network === "other" ? "all other networks" : <code>{network}</code>) },
  { title: "They showed", wide: true, show: ({ refused }) => refusalInWords(refused) },
  { title: "Requests", number: true, show: ({ count }) => <span title={whole(count)}>{number(count)}</span> },
];

function Strangers({ rows }: { rows: readonly Stranger[] }) {
  const [isWhole, setWhole] = useState(false);
  const sorted = [...rows].sort((one, other) => other.count - one.count);
  const drawn = isWhole ? sorted : sorted.slice(0, 20);
  return (
    <section class="card" aria-labelledby="strangers">
      <h2 id="strangers">Strangers, by network</h2>
      {rows.length === 0 ? (
        <p class="quiet">Nobody has called this gateway since it started who is no application.</p>
      ) : (
        <>
          <p class="quiet">Callers that are no application, since this gateway started.</p>
          <Table label="Strangers" columns={STRANGER_COLUMNS} rows={drawn} keyOf={({ network, refused }) => `${network} ${refused}`} />
          {drawn.length < sorted.length && (
            <button type="button" onClick={() => setWhole(true)}>
              Show {count(sorted.length - drawn.length, "more", "more")}
            </button>
          )}
        </>
      )}
    </section>
  );
}
