// The versions of an event type that the guard took back: why, and the way to mend what they did.
import { hrefOf } from "../../address";
import type { One } from "../../api/modules";
import { type Column, Table } from "../../parts/table";
import { legible, Short, Time, whole } from "../../parts/words";

type TakenBack = One["taken_back"][number];

const TRIALS = { shadow: "a shadow", canary: "a canary", replacement: "served" } as const;

const COLUMNS: readonly Column<TakenBack>[] = [
  { title: "Version", show: ({ digest }) => <Short id={digest} /> },
  { title: "When", show: ({ at }) => <Time at={at} /> },
  { title: "It was", show: ({ trial }) => TRIALS[trial] },
  { title: "Why", wide: true, show: ({ reason }) => <bdi>{legible(reason)}</bdi> },
  { title: "Serves since", show: ({ serves }) => (serves === null ? <span class="quiet">nothing</span> : <Short id={serves} />) },
  {
    title: "What it refused",
    show: ({ digest, refused }) => (
      <>
        {refused > 0 && `${whole(refused)} events. `}
        <a href={hrefOf("refused", { validator: digest })}>Look, and judge again</a>
      </>
    ),
  },
];

export function TakenBackCard({ list }: { list: readonly TakenBack[] }) {
  if (list.length === 0) return null;
  return (
    <section class="card trouble" aria-labelledby="taken-back">
      <h2 id="taken-back">Taken back by the guard</h2>
      <p>
        These versions are not taken again, also not after a restart, unless somebody forces them. Mend the rule and ship another file; what they refused can be judged
        again by what serves now.
      </p>
      <Table label="Versions that were taken back" columns={COLUMNS} rows={list} keyOf={({ digest }) => digest} />
    </section>
  );
}
