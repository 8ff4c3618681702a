// A stretch of time to choose: the last hours or days, all of it, or from one moment to another in the zone of the reader.
import { useState } from "preact/hooks";
import type { Filters } from "../address";

const SPANS = {
  "1h": { title: "1 h", seconds: 3600, words: "the last hour" },
  "24h": { title: "24 h", seconds: 86_400, words: "the last 24 hours" },
  "7d": { title: "7 days", seconds: 604_800, words: "the last 7 days" },
  "30d": { title: "30 days", seconds: 2_592_000, words: "the last 30 days" },
} as const;
type Named = keyof typeof SPANS;

export interface Span {
  /** Moments as the API takes them; absent where that end is open. */
  from?: string;
  to?: string;
  seconds: number | null;
  words: string;
}

/** The stretch that an address names: `span=24h`, `span=all`, or `from=` and `to=`. */
export function spanOf({ span, from, to }: Filters, usual: Named): Span {
  if (from !== undefined || to !== undefined) {
    const seconds = from === undefined ? null : (Date.parse(to ?? new Date().toISOString()) - Date.parse(from)) / 1000;
    return { ...(from === undefined ? {} : { from }), ...(to === undefined ? {} : { to }), seconds, words: "this time" };
  }
  if (span === "all") return { seconds: null, words: "all time" };
  const { seconds, words } = SPANS[span !== undefined && span in SPANS ? (span as Named) : usual];
  return { from: new Date(Date.now() - seconds * 1000).toISOString(), seconds, words };
}

/** A moment as the field for it takes it: in the zone of the reader, without one. */
function local(at: string | undefined): string {
  if (at === undefined || Number.isNaN(Date.parse(at))) return "";
  const moment = new Date(at);
  return new Date(moment.getTime() - moment.getTimezoneOffset() * 60_000).toISOString().slice(0, 19);
}

export function SpanChoice({ filters, usual, change }: { filters: Filters; usual: Named; change: (changed: Record<string, string>) => void }) {
  const isOwn = filters.from !== undefined || filters.to !== undefined;
  const [opened, setOpened] = useState(false);
  const shown = isOwn ? "own" : opened ? "own" : filters.span === "all" || (filters.span !== undefined && filters.span in SPANS) ? filters.span : usual;
  const choices: [string, string, string][] = [
    ...Object.entries(SPANS).map(([id, { title, words }]): [string, string, string] => [id, title, words]),
    ["all", "All", "all time"],
    ["own", "From – to", "from one moment to another"],
  ];
  const choose = (id: string) => {
    setOpened(id === "own");
    if (id !== "own") change({ span: id === usual ? "" : id, from: "", to: "" });
  };
  const moment = (name: "from" | "to") => (
    <label class="field moment">
      <span>{name}</span>
      <input
        type="datetime-local"
        step="1"
        value={local(filters[name])}
        onChange={({ currentTarget: { value } }) => change({ span: "", [name]: value === "" ? "" : new Date(value).toISOString() })}
      />
    </label>
  );
  return (
    <div class="span">
      <fieldset class="choice">
        <legend class="unseen">Time that is shown</legend>
        {choices.map(([id, title, words]) => (
          <label key={id} class={id === shown ? "chosen" : ""}>
            <input type="radio" name="span" value={id} checked={id === shown} aria-label={words} onChange={() => choose(id)} />
            <span>{title}</span>
          </label>
        ))}
      </fieldset>
      {shown === "own" && (
        <>
          {moment("from")}
          {moment("to")}
        </>
      )}
    </div>
  );
}
