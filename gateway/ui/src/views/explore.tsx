// What was stored: events by type, application and time, the sessions of a time, or one session from its first event to its
// last. An event opens beside the list, which stays where it is.
import { RefreshCw, X } from "lucide";
import { useEffect, useRef } from "preact/hooks";
import { type Filters, go, hrefOf } from "../address";
import { get, type Schemas } from "../api/client";
import { Icon } from "../parts/icon";
import { usePages } from "../parts/pages";
import { Problem } from "../parts/problem";
import { Rows } from "../parts/rows";
import { SpanChoice, spanOf } from "../parts/span";
import { EventType, legible, number, Time } from "../parts/words";
import { useNarrow } from "../parts/narrow";
import { EventDetails } from "./event";
import { Sessions } from "./explore/sessions";
import { Timeline } from "./explore/timeline";
import "./explore.css";

export type StoredEvent = Schemas["StoredEvent"];

const TEXTS = ["category", "name", "application"] as const;
/** A session is named by a UUID. */
const UUID = /^[0-9a-f]{8}-?(?:[0-9a-f]{4}-?){3}[0-9a-f]{12}$/i;

/** The address of the same list with an event opened beside it. */
export function hrefOfOpen(filters: Filters, { session_id, id }: StoredEvent): string {
  return hrefOf("explore", { ...filters, open: `${session_id}.${id}` });
}

export function Explore({ filters }: { filters: Filters }) {
  const { open, ...rest } = filters;
  const [session, id] = open?.split(".") ?? [];
  const isSession = filters.session !== undefined;
  return (
    <div class="explore">
      <Filtering filters={rest} />
      <div class={open === undefined ? "lone" : "beside"}>
        <div class="listed">
          {isSession ? <Timeline filters={rest} open={id} /> : filters.show === "sessions" ? <Sessions filters={rest} /> : <Events filters={rest} open={id} />}
        </div>
        {session !== undefined && id !== undefined && <Beside key={open} session={session} id={id} close={hrefOf("explore", rest)} />}
      </div>
    </div>
  );
}

function Filtering({ filters }: { filters: Filters }) {
  const change = (changed: Record<string, string>) => go("explore", { ...filters, ...changed });
  const isSession = filters.session !== undefined;
  const isSessions = !isSession && filters.show === "sessions";
  const sessionField = (event: { currentTarget: HTMLInputElement }) => {
    const field = event.currentTarget;
    const text = field.value.trim();
    field.setCustomValidity(text === "" || UUID.test(text) ? "" : "A session is a UUID, such as e2085be5-9137-4e4e-80b5-f1ffddc25423.");
    if (field.reportValidity()) change({ session: text });
  };
  return (
    <search class="filters">
      {!isSession && (
        <fieldset class="choice">
          <legend class="unseen">What is listed</legend>
          {(["events", "sessions"] as const).map((one) => (
            <label key={one} class={(one === "sessions") === isSessions ? "chosen" : ""}>
              <input
                type="radio"
                name="show"
                checked={(one === "sessions") === isSessions}
                onChange={() => go("explore", one === "sessions" ? { show: one, ...time(filters) } : { ...filters, show: "" })}
              />
              <span>{one === "events" ? "Events" : "Sessions"}</span>
            </label>
          ))}
        </fieldset>
      )}
      {!isSession && <SpanChoice filters={filters} usual="24h" change={change} />}
      <label class="field session">
        <span>session</span>
        <input type="text" value={filters.session ?? ""} placeholder="a UUID" spellcheck={false} onChange={sessionField} />
      </label>
      {!isSessions &&
        TEXTS.map((name) => (
          <label key={name} class="field">
            <span>{name}</span>
            <input type="text" value={filters[name] ?? ""} placeholder="any" spellcheck={false} onChange={(event) => change({ [name]: event.currentTarget.value.trim() })} />
          </label>
        ))}
      {Object.keys(filters).some((name) => name !== "show") && (
        <button type="button" class="plain" onClick={() => go("explore", { show: isSessions ? "sessions" : "" })}>
          Show all
        </button>
      )}
    </search>
  );
}

function time({ span, from, to }: Filters): Record<string, string | undefined> {
  return { span, from, to };
}

/** The height of a line in pixels: two lines of text where the page is narrow. */
export const HEIGHT = 34;
export const NARROW_HEIGHT = 58;

function Events({ filters, open }: { filters: Filters; open: string | undefined }) {
  const narrow = useNarrow();
  const { category, name, application } = filters;
  const pages = usePages(JSON.stringify(filters), 1, async (cursor, signal) => {
    const { from, to } = spanOf(filters, "24h");
    const query = { from, to, category, name, application, order: "desc" as const, limit: 200, ...(cursor === null ? {} : { cursor }) };
    const { events, next } = await get("/v1/events", Object.fromEntries(Object.entries(query).filter(([, value]) => value !== undefined)), { signal });
    return { rows: events, next };
  });
  const { words } = spanOf(filters, "24h");
  const isFiltered = category !== undefined || name !== undefined || application !== undefined;
  return (
    <>
      <div class="bar-of-list">
        <span class="quiet" role="status">
          {pages.isThere ? `${number(pages.rows.length)}${pages.isMore ? " newest" : ""} ${pages.rows.length === 1 ? "event" : "events"}, ${words}.` : "Reading…"}
        </span>
        <button type="button" class="plain" onClick={pages.again} disabled={pages.isBusy}>
          <Icon of={RefreshCw} /> Read again
        </button>
      </div>
      {pages.problem !== null && <Problem of={pages.problem} doing="The events could not be read." />}
      {pages.isThere && pages.rows.length === 0 ? (
        <div class="card empty">
          <p>
            No event {isFiltered ? "that fits these filters " : ""}occurred in {words}.
          </p>
          <p class="quiet">
            {isFiltered ? "Both words of an event type have to be exact. " : ""}
            Choose a longer time above, look at <a href={hrefOf("refused", { category, name, application })}>what was refused</a>, or{" "}
            <a href={hrefOf("overview")}>send an event</a>.
          </p>
        </div>
      ) : (
        <div class="card list">
          <Rows
            label="Events, the newest first"
            rows={pages.rows.map((event, index) => ({ event, index }))}
            height={narrow ? NARROW_HEIGHT : HEIGHT}
            keyOf={({ index }) => index}
            hrefOf={({ event }) => hrefOfOpen(filters, event)}
            show={({ event }) => <Line event={event} isOpen={event.id === open} />}
            onTop={() => {}}
          />
        </div>
      )}
      {pages.isMore && (
        <button type="button" onClick={pages.more} disabled={pages.isBusy}>
          {pages.isBusy ? "Reading…" : "Older events"}
        </button>
      )}
    </>
  );
}

function Line({ event, isOpen }: { event: StoredEvent; isOpen: boolean }) {
  return (
    <>
      <span class={`at ${isOpen ? "open" : ""}`}>
        <Time at={event.timestamp} />
      </span>
      <EventType category={event.category} name={event.name} />
      <span class="app">
        <bdi>{event.application}</bdi>
      </span>
      <Preview data={event.data} />
    </>
  );
}

/** The beginning of what an event holds. */
export function Preview({ data }: { data: unknown }) {
  return (
    <span class="preview quiet">
      <bdi>{legible(JSON.stringify(data).slice(0, 200))}</bdi>
    </span>
  );
}

function Beside({ session, id, close }: { session: string; id: string; close: string }) {
  const heading = useRef<HTMLHeadingElement>(null);
  const pane = useRef<HTMLElement>(null);
  useEffect(() => {
    // Where there is no room beside the list, the event stands above it.
    heading.current?.focus({ preventScroll: true });
    pane.current?.scrollIntoView({ block: "nearest" });
  }, []);
  return (
    <aside class="pane" ref={pane} aria-label="The opened event">
      <div class="bar-of-list">
        <h2 ref={heading} tabIndex={-1}>
          Event
        </h2>
        <a class="button plain" href={close}>
          <Icon of={X} /> Close
        </a>
      </div>
      <EventDetails session={session} id={id} />
    </aside>
  );
}
