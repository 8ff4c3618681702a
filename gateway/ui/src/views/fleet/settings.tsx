// The settings of the gateway that answers: what is in force, where it comes from, and what it would be without it. A gateway
// that does not tell them has no such section.
import { type Filters, go } from "../../address";
import { getText, Unreachable } from "../../api/client";
import type { paths } from "../../api/schema";
import { unlessHidden, useLoaded } from "../../parts/loading";
import { Problem } from "../../parts/problem";
import { type Column, Table } from "../../parts/table";
import { legible, whole } from "../../parts/words";

const EVERY = 10_000;
const PATH = "/v1/settings";

interface Setting {
  key: string;
  value: unknown;
  hidden: boolean;
  from: string;
  place: string | null;
  default: unknown;
  needs_restart: boolean;
  about: string;
}

async function read(signal: AbortSignal): Promise<readonly Setting[]> {
  const text = await getText(PATH as keyof paths, signal);
  const { settings } = JSON.parse(text) as { settings?: readonly Setting[] };
  if (settings === undefined) throw new Unreachable("The gateway has answered something else than its settings.");
  return settings;
}

function inWords(value: unknown): string {
  if (value === null || value === undefined || value === "") return "none";
  return legible(typeof value === "string" ? value : JSON.stringify(value));
}

/** A hidden value tells by its place alone whether somebody has set it. */
function differs(one: Setting): boolean {
  return one.hidden ? one.from !== "default" : JSON.stringify(one.value) !== JSON.stringify(one.default);
}

const COLUMNS: readonly Column<Setting>[] = [
  { title: "Setting", show: ({ key }) => <code class="of-row">{key}</code> },
  { title: "In force", show: (one) => (one.hidden ? <span class="quiet">{one.from === "default" ? "none" : "set, and hidden"}</span> : <bdi class={differs(one) ? "differs" : ""}>{inWords(one.value)}</bdi>) },
  { title: "Default", show: (one) => <bdi class="quiet">{inWords(one.default)}</bdi> },
  { title: "From", show: ({ from, place }) => <>{from}{place != null && place !== "" && <bdi class="quiet small"> {legible(place)}</bdi>}</> },
  { title: "Changes", show: ({ needs_restart: isLate }) => (isLate ? "by a restart" : "by a reload") },
  { title: "What it does", wide: true, show: ({ about }) => <bdi class="quiet small">{about}</bdi> },
];

export function Settings({ filters }: { filters: Filters }) {
  const { data, problem } = useLoaded("settings", EVERY, (signal) => unlessHidden(() => read(signal)));
  if (data === null) return null;
  const key = (filters.key ?? "").trim().toLowerCase();
  const isShort = filters.differs === "true";
  const found = (data ?? []).filter((one) => one.key.toLowerCase().includes(key) && (!isShort || differs(one)));
  return (
    <section class="card" aria-labelledby="settings">
      <h2 id="settings">Settings of this gateway</h2>
      <search class="filters" aria-label="Settings">
        <label class="field">
          <span>key</span>
          <input type="text" value={filters.key ?? ""} placeholder="any" spellcheck={false} onInput={(event) => go("fleet", { ...filters, key: event.currentTarget.value }, true)} />
        </label>
        <fieldset class="choice">
          <legend class="unseen">Which settings</legend>
          <label class={isShort ? "chosen" : ""}>
            <input type="checkbox" checked={isShort} onChange={() => go("fleet", { ...filters, differs: isShort ? "" : "true" })} />
            <span>only what differs from its default</span>
          </label>
        </fieldset>
      </search>
      {problem !== null && <Problem of={problem} doing="The settings could not be read." />}
      {data === undefined ? (
        problem === null && <p class="quiet">…</p>
      ) : found.length === 0 ? (
        <p class="quiet">No setting fits: {whole(data.length)} are there.</p>
      ) : (
        <Table label="Settings" columns={COLUMNS} rows={found} keyOf={({ key }) => key} />
      )}
    </section>
  );
}
