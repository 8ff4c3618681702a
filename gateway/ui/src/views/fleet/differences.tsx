// What differs between two sets of modules.
import type { Schemas } from "../../api/client";
import { Code } from "../../parts/copy";
import { type Column, Table } from "../../parts/table";
import { legible, Short } from "../../parts/words";

export interface Difference {
  type: string;
  /** The digests before and after; null for no module, undefined where it is not known. */
  before: string | null | undefined;
  after: string | null;
  settings: string | null;
  isSettings: boolean;
}

type Slots = readonly Schemas["GenerationSlot"][];

/** What the second set changes in the first. */
export function differences(before: Slots, after: Slots): Difference[] {
  const had = new Map(before.map((slot) => [slot.event_type, slot]));
  const has = new Map(after.map((slot) => [slot.event_type, slot]));
  return [...new Set([...had.keys(), ...has.keys()])].sort().flatMap((type) => {
    const [old, now] = [had.get(type), has.get(type)];
    const [digest, settings] = [now?.digest ?? null, now?.settings ?? null];
    const isSettings = (old?.settings ?? null) !== settings;
    return (old?.digest ?? null) === digest && !isSettings ? [] : [{ type, before: old?.digest ?? null, after: digest, settings, isSettings }];
  });
}

function Digest({ of, none }: { of: string | null; none: string }) {
  return of === null ? <span class="quiet">{none}</span> : <Short id={of} />;
}

const COLUMNS: readonly Column<Difference>[] = [
  { title: "Event type", wide: true, show: ({ type }) => <bdi>{legible(type)}</bdi> },
  { title: "Before", show: ({ before }) => (before === undefined ? <span class="quiet">not kept</span> : <Digest of={before} none="no module" />) },
  { title: "After", show: ({ after }) => <Digest of={after} none="taken away" /> },
  { title: "Settings", show: ({ settings, isSettings }) => (!isSettings ? <span class="quiet">the same</span> : settings === null || settings === "" ? "none" : <Code text={legible(settings)} label="Settings" />) },
];

export function Differences({ rows, label }: { rows: readonly Difference[]; label: string }) {
  return <Table label={label} columns={COLUMNS} rows={rows} keyOf={({ type }) => type} />;
}
