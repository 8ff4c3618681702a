// Outcomes as they happen. The newest stand on top; whoever scrolls down or pauses sees a list that stands still.
import { ArrowUp, Pause, Play } from "lucide";
import { useEffect, useMemo, useRef, useState } from "preact/hooks";
import { type Filters, go, hrefOf } from "../address";
import { Feed, type Line } from "../api/feed";
import type { Outcome } from "../api/lines";
import { Icon } from "../parts/icon";
import { useNarrow } from "../parts/narrow";
import { Problem } from "../parts/problem";
import { Rows } from "../parts/rows";
import { EventType, number, OutcomeMark, rate, Time, whole } from "../parts/words";

const KINDS = ["stored", "duplicate", "rejected", "quarantined", "unfinished"] as const;
/** The height of a line in pixels: two lines of text where the page is narrow. */
const HEIGHT = 34;
const NARROW_HEIGHT = 58;
const TEXTS = ["application", "category", "name"] as const;

export function Live({ filters }: { filters: Filters }) {
  const asked = useMemo(() => {
    const given = ["outcome", ...TEXTS].flatMap((name) => (filters[name] === undefined ? [] : [[name, filters[name]]]));
    return Object.fromEntries(given) as Record<string, string>;
  }, [JSON.stringify(filters)]);
  const feed = useFeed(asked);
  const [paused, setPaused] = useState<readonly Line[] | null>(null);
  const [isTop, setTop] = useState(true);
  const held = useRef<readonly Line[] | null>(null);
  const narrow = useNarrow();

  useEffect(() => setPaused(null), [asked]);
  const state = feed?.state.value;
  const now = state?.lines ?? [];
  // Away from the top the list stands still too, or reading would be chasing.
  if (isTop) held.current = null;
  else held.current ??= now;
  const lines = paused ?? held.current ?? now;
  const newer = (now.at(-1)?.number ?? -1) - (lines.at(-1)?.number ?? -1);
  const shown = useMemo(() => [...lines].reverse(), [lines]);
  const toTop = () => {
    setPaused(null);
    setTop(true);
    held.current = null;
    document.querySelector(".rows")?.scrollTo(0, 0);
  };

  return (
    <div class="live">
      <Filtering filters={filters} />
      <div class="bar-of-live">
        <button type="button" onClick={() => setPaused(paused === null ? now : null)} aria-pressed={paused !== null}>
          <Icon of={paused === null ? Pause : Play} />
          {paused === null ? "Pause" : "Go on"}
        </button>
        <span class="rate">
          <b>{rate(state?.rate ?? 0)}</b>/s
        </span>
        <span class="quiet" role="status">
          {paused !== null ? "Paused." : state?.state === "open" ? "Live." : state?.state === "broken" ? "The stream broke off. It opens again by itself." : "Opening…"}
        </span>
        {newer > 0 && lines !== now && (
          <button type="button" onClick={toTop}>
            <Icon of={ArrowUp} />
            {number(newer)} newer
          </button>
        )}
        {state?.total != null && state.total > 0 && (
          <span class="quiet total" title={`${whole(state.total)} outcomes`}>
            {whole(state.total)} since this list began
          </span>
        )}
        <LeftOut count={state?.leftOut ?? 0} isKnown={state?.leftOut !== null} />
      </div>
      {state?.problem != null && <Problem of={state.problem} doing="The live outcomes cannot be shown." />}
      <div class="card list">
        {shown.length === 0 ? (
          <div class="empty">
            <p>{Object.keys(asked).length > 0 ? "No outcome has come yet that fits these filters." : "No outcome has come yet."}</p>
            <p class="quiet">
              This page shows the outcomes of this gateway from now on. Leave it open, or send an event:{" "}
              <a href={hrefOf("overview")}>the overview</a> has the command while there is none.
            </p>
          </div>
        ) : (
          <Rows
            label="Outcomes, the newest first"
            rows={shown}
            height={narrow ? NARROW_HEIGHT : HEIGHT}
            keyOf={(line) => line.number}
            hrefOf={(line) => placeOf(line.outcome)}
            show={(line) => <Told of={line.outcome} />}
            onTop={setTop}
          />
        )}
      </div>
    </div>
  );
}

function LeftOut({ count, isKnown }: { count: number; isKnown: boolean }) {
  if (!isKnown) return <span class="quiet">Some outcomes are not shown, since there are too many.</span>;
  if (count === 0) return null;
  return <span class="quiet">Sampled: {number(count)} more happened that are not shown, since there are too many.</span>;
}

function Told({ of }: { of: Outcome }) {
  return (
    <>
      <span class="at">
        <Time at={of.at} precise />
      </span>
      <OutcomeMark outcome={of.outcome} />
      <EventType category={of.category} name={of.name} />
      <span class="app">
        <bdi>{of.application}</bdi>
      </span>
      <span class="reason">
        {of.violation !== null ? (
          <>
            <bdi>{of.violation.code}</bdi> <span class="quiet">at</span> <bdi>{of.violation.pointer === "" ? "the whole" : of.violation.pointer}</bdi>
          </>
        ) : (
          <bdi>{of.code ?? ""}</bdi>
        )}
      </span>
    </>
  );
}

/** Where the event of an outcome is shown. Of an unfinished one nothing is kept. */
function placeOf({ outcome, id, session_id, at, application, category, name }: Outcome): string | null {
  switch (outcome) {
    case "stored":
    case "duplicate":
      return id === null || session_id === null ? null : hrefOf("event", { session: session_id, id });
    case "rejected":
    case "quarantined":
      return hrefOf("letter", { event: id, at, application, category, name });
    case "unfinished":
      return null;
  }
}

function Filtering({ filters }: { filters: Filters }) {
  const chosen = (filters.outcome ?? "").split(",").filter((one) => one !== "");
  const change = (changed: Record<string, string>) => go("live", { ...filters, ...changed });
  const toggle = (kind: string) => {
    const next = chosen.includes(kind) ? chosen.filter((one) => one !== kind) : [...chosen, kind];
    change({ outcome: KINDS.filter((one) => next.includes(one)).join(",") });
  };
  return (
    <search class="filters">
      <fieldset class="choice">
        <legend class="unseen">Outcomes</legend>
        {KINDS.map((kind) => (
          <label key={kind} class={chosen.includes(kind) ? "chosen" : ""}>
            <input type="checkbox" checked={chosen.includes(kind)} onChange={() => toggle(kind)} />
            <span>{kind}</span>
          </label>
        ))}
      </fieldset>
      {TEXTS.map((name) => (
        <label key={name} class="field">
          <span>{name}</span>
          <input type="text" value={filters[name] ?? ""} placeholder="any" spellcheck={false} onChange={(event) => change({ [name]: event.currentTarget.value.trim() })} />
        </label>
      ))}
      {Object.keys(filters).length > 0 && (
        <button type="button" class="plain" onClick={() => go("live")}>
          Show all
        </button>
      )}
    </search>
  );
}

function useFeed(asked: Record<string, string>): Feed | null {
  const [feed, setFeed] = useState<Feed | null>(null);
  useEffect(() => {
    const made = new Feed(asked);
    setFeed(made);
    return () => made.end();
  }, [asked]);
  return feed;
}
