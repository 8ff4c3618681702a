// One generation: what it changed, all modules of it, and the way back to it. Going back shows first what would change.
import { Undo2 } from "lucide";
import { useState } from "preact/hooks";
import { type Filters, go, hrefOf } from "../address";
import { get, Refused, type Schemas, send } from "../api/client";
import { Ask } from "../parts/form";
import { Icon } from "../parts/icon";
import { unlessHidden, useLoaded } from "../parts/loading";
import { Problem } from "../parts/problem";
import { type Column, Table } from "../parts/table";
import { legible, Short, Time, whole } from "../parts/words";
import { may } from "../session";
import { type Difference, Differences, differences } from "./fleet/differences";
import type { Generation } from "./fleet/generations";
import "./fleet/fleet.css";

type Slot = Schemas["GenerationSlot"];
type Back = Schemas["GenerationBack"];

const EVERY = 5000;
/** Seconds that the gateway waits for the others, and milliseconds after which its answer is missing. */
const WAIT_S = 30;
const ANSWER_MS = 45_000;

interface Shown {
  facts: Generation | undefined;
  slots: readonly Slot[];
  changed: readonly Difference[];
  current: number;
}

async function read(number: number, signal: AbortSignal): Promise<Shown> {
  const places = (of: number) => ({ places: { number: String(of) }, signal });
  const [set, list, before, gateways] = await Promise.all([
    get("/v1/generations/{number}", undefined, places(number)),
    get("/v1/generations", { before: number + 1, limit: 1 }, { signal }),
    number === 1 ? { slots: [] } : unlessHidden(() => get("/v1/generations/{number}", undefined, places(number - 1))),
    get("/v1/gateways", undefined, { signal }),
  ]);
  const facts = list.generations.find((one) => one.number === number);
  const told = (facts?.changes ?? []).map(({ event_type: type, digest, settings }) => ({ type, before: undefined, after: digest, settings, isSettings: settings !== null }));
  return { facts, slots: set.slots, changed: before === null ? told : differences(before.slots, set.slots), current: gateways.generation };
}

export function GenerationView({ filters }: { filters: Filters }) {
  const number = Number(filters.number ?? "");
  return Number.isInteger(number) && number > 0 ? <One key={number} number={number} act={filters.act ?? ""} /> : <NotThere />;
}

function NotThere() {
  return (
    <p>
      There is no such generation, or it is not kept any more: the last thousand are. <a href={hrefOf("fleet")}>Go to the fleet</a>.
    </p>
  );
}

const SLOT_COLUMNS: readonly Column<Slot>[] = [
  { title: "Event type", wide: true, show: ({ event_type: type }) => <bdi>{legible(type)}</bdi> },
  { title: "Module", show: ({ digest }) => (digest === null ? <span class="quiet">taken away</span> : <Short id={digest} />) },
  { title: "Settings", show: ({ settings }) => (settings === null || settings === "" ? <span class="quiet">none</span> : <bdi>{legible(settings)}</bdi>) },
];

function One({ number, act }: { number: number; act: string }) {
  const [said, setSaid] = useState<Back | null>(null);
  const { data, problem } = useLoaded(`generation ${number}`, EVERY, (signal) => read(number, signal));
  if (data === undefined) {
    if (problem instanceof Refused && problem.status === 404) return <NotThere />;
    return problem === null ? <p class="quiet">…</p> : <Problem of={problem} doing="The generation could not be read." />;
  }
  const { facts, slots, changed, current } = data;
  const isCurrent = number === current;
  const leave = () => {
    go("generation", { number: String(number) }, true);
    requestAnimationFrame(() => document.getElementById("act-back")?.focus());
  };
  return (
    <>
      {said !== null && act === "" && <Came of={said} />}
      {act === "back" && may("admin") && !isCurrent && (
        <GoBack
          number={number}
          leave={leave}
          done={(answer) => {
            setSaid(answer);
            go("generation", { number: String(number) }, true);
          }}
        />
      )}
      <section class="card" aria-labelledby="generation">
        <div class="of-one">
          <h2 id="generation">Generation {whole(number)}</h2>
          <span class={isCurrent ? "stored" : "quiet"}>{isCurrent ? "serves now" : `generation ${whole(current)} serves now`}</span>
        </div>
        {facts !== undefined && (
          <dl class="fields">
            <dt>Made</dt>
            <dd>
              <Time at={facts.at} />
            </dd>
            <dt>By</dt>
            <dd>
              <bdi>{legible(facts.by)}</bdi>
              {facts.from !== null && <span class="quiet"> from {legible(facts.from)}</span>}
            </dd>
            <dt>Cause</dt>
            <dd>
              {facts.cause}
              {facts.forced && <span class="bad">, although a gateway could not serve it</span>}
            </dd>
          </dl>
        )}
        {may("admin") && !isCurrent && (
          <p class="acts">
            <a id="act-back" class="button" href={hrefOf("generation", { number: String(number), act: "back" })}>
              <Icon of={Undo2} /> Go back to it
            </a>
          </p>
        )}
      </section>
      <section class="card" aria-labelledby="changed">
        <h2 id="changed">What it changed</h2>
        {changed.length === 0 ? <p class="quiet">Nothing.</p> : <Differences rows={changed} label="What it changed" />}
      </section>
      <section class="card" aria-labelledby="slots">
        <h2 id="slots">All modules of it</h2>
        {slots.length === 0 ? <p class="quiet">None: every event was accepted as it was.</p> : <Table label="All modules of it" columns={SLOT_COLUMNS} rows={slots} keyOf={({ event_type: type }) => type} />}
      </section>
    </>
  );
}

function Came({ of }: { of: Back }) {
  const waits = (of.waits_for ?? []).map(({ gateway }) => gateway).join(", ");
  return (
    <p class="notice" role="status">
      {of.state === "active" && of.generation !== undefined ? (
        <>
          Its modules serve again, as <a href={hrefOf("generation", { number: String(of.generation) })}>generation {whole(of.generation)}</a>.
        </>
      ) : of.state === "unchanged" ? (
        "Nothing differs: its modules serve already."
      ) : (
        <>
          The gateways prepare it. It serves as soon as all have. {waits !== "" && <>It waits for <bdi>{legible(waits)}</bdi>.</>}
        </>
      )}
    </p>
  );
}

/** Modules that the guard took back, which a step back does not simply bring. */
function Withheld({ rows, title }: { rows: Back["left_out"]; title: string }) {
  if (rows.length === 0) return null;
  return (
    <>
      <p>{title}</p>
      <ul>
        {rows.map(({ event_type: type, digest, reason }) => (
          <li key={type}>
            <bdi>{legible(type)}</bdi> <Short id={digest} />: {legible(reason)}.
          </li>
        ))}
      </ul>
    </>
  );
}

function GoBack({ number, leave, done }: { number: number; leave: () => void; done: (answer: Back) => void }) {
  const [isRefused, setRefused] = useState(false);
  const [force, setForce] = useState(false);
  const path = "/v1/generations/{number}/back";
  const places = { number: String(number) };
  const { data, problem } = useLoaded(`back ${number}`, 0, async (signal) => {
    const back = await send<Back>("POST", path, { places, query: { dry_run: true }, signal });
    const now = back.based_on === 0 ? null : await get("/v1/generations/{number}", undefined, { places: { number: String(back.based_on) }, signal });
    const settings = new Map(now?.slots.map((slot) => [slot.event_type, slot.settings]));
    return { back, settings };
  });
  if (problem !== null) return <Problem of={problem} doing="What would change could not be read." />;
  if (data === undefined) return <p class="quiet">…</p>;
  const rows = data.back.changes.map(({ event_type: type, digest, settings, replaces }) => ({
    type,
    before: replaces,
    after: digest,
    settings,
    isSettings: (data.settings.get(type) ?? null) !== settings,
  }));
  // A gateway of the release before has neither.
  const { left_out: leftOut = [], taken_back: takenBack = [] } = data.back;
  const act = async () => {
    try {
      const headers = { prefer: `wait=${WAIT_S}` };
      done(await send<Back>("POST", path, { places, headers, answerMs: ANSWER_MS, query: force ? { force: true } : {} }));
    } catch (error) {
      setRefused(error instanceof Refused && ["fleet_refused", "module_refused", "taken_back"].includes(error.code));
      throw error;
    }
  };
  return (
    <Ask id="back" title={`Go back to generation ${whole(number)}?`} yes={rows.length === 0 ? "Leave it as it is" : "Go back to it"} act={rows.length === 0 ? async () => leave() : act} leave={leave} doing="Nothing was changed.">
      {rows.length === 0 ? (
        <p>Nothing would change: the modules that serve now are those of this generation.</p>
      ) : (
        <>
          <p>
            This makes a new generation after {whole(data.back.based_on)}, once every living gateway has prepared it. Events are judged by other modules from then on; what is stored stays.
          </p>
          <Differences rows={rows} label="What would change" />
        </>
      )}
      <Withheld rows={leftOut} title="These candidates are left out, since the guard took them back:" />
      <Withheld rows={takenBack} title="These modules would serve again although the guard took them back. That must be forced:" />
      {(isRefused || takenBack.length > 0) && (
        <label class="form-check">
          <input type="checkbox" checked={force} onChange={(event) => setForce(event.currentTarget.checked)} />
          <span>
            Do it all the same. {takenBack.length > 0 && "What the guard said of these modules no longer counts. "}A gateway that cannot serve a module answers 503 for its events; a module that takes no secrets out lets refused events be kept as they came.
          </span>
        </label>
      )}
    </Ask>
  );
}
