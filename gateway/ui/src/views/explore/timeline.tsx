// One session from its first event to its last: when each came, how long after the one before, and from which application.
import { type Filters, go, hrefOf } from "../../address";
import { get } from "../../api/client";
import { useNarrow } from "../../parts/narrow";
import { usePages } from "../../parts/pages";
import { Problem } from "../../parts/problem";
import { Rows } from "../../parts/rows";
import { between, EventType, number, Time, whole } from "../../parts/words";
import { HEIGHT, hrefOfOpen, NARROW_HEIGHT, Preview, type StoredEvent } from "../explore";
import { colorOf, Lanes } from "./lanes";

const PAGE = 1000;
/** Pages that are read by themselves. More are read when somebody asks for them. */
const PAGES = 20;
/** Milliseconds between two events from which on the gap is pointed out. */
const GAP_MS = 60_000;

export function Timeline({ filters, open }: { filters: Filters; open: string | undefined }) {
  const narrow = useNarrow();
  const { session = "", category, name, application } = filters;
  const pages = usePages(JSON.stringify(filters), PAGES, async (cursor, signal) => {
    const query = { category, name, application, limit: PAGE, ...(cursor === null ? {} : { cursor }) };
    const given = Object.fromEntries(Object.entries(query).filter(([, value]) => value !== undefined));
    const { events, next } = await get("/v1/sessions/{session_id}", given, { places: { session_id: session }, signal });
    return { rows: events, next };
  });
  const { rows } = pages;
  const [first, last] = [rows[0], rows.at(-1)];
  const applications = countsOf(rows);
  if (pages.isThere && (first === undefined || last === undefined)) {
    return (
      <div class="card empty">
        <p>This session has no event{category === undefined && name === undefined && application === undefined ? "" : " that fits these filters"}.</p>
        <p class="quiet">
          An event that was refused is not in its session: look at <a href={hrefOf("refused")}>what was refused</a>.
        </p>
      </div>
    );
  }
  return (
    <>
      <h2 class="session-name">
        Session <code>{session}</code>
      </h2>
      <p class="quiet" role="status">
        {first === undefined || last === undefined ? (
          "Reading…"
        ) : (
          <>
            {whole(rows.length)} {rows.length === 1 ? "event" : "events"}
            {pages.isMore ? " so far" : ""}, from <Time at={first.timestamp} />, over {between(Date.parse(last.timestamp) - Date.parse(first.timestamp))}
            {pages.isBusy ? ", reading on…" : "."}
          </>
        )}
      </p>
      {pages.problem !== null && <Problem of={pages.problem} doing="The session could not be read to its end." />}
      {first !== undefined && last !== undefined && (
        <section class="card lanes" aria-label="Applications in this session">
          <Lanes rows={rows} applications={applications.map(([one]) => one)} />
          <ul class="choice">
            {applications.map(([one, count]) => (
              <li key={one}>
                <button type="button" class={`application ${colorOf(one, applications)}`} aria-pressed={application === one} onClick={() => go("explore", { ...filters, application: application === one ? "" : one })}>
                  <bdi>{one}</bdi> {number(count)}
                </button>
              </li>
            ))}
          </ul>
        </section>
      )}
      <div class="card list timeline">
        <Rows
          label="Events of the session, the first on top"
          rows={rows.map((event, index) => ({ event, index }))}
          height={narrow ? NARROW_HEIGHT : HEIGHT}
          keyOf={({ index }) => index}
          hrefOf={({ event }) => hrefOfOpen(filters, event)}
          show={({ event, index }) => (
            <>
              <span class={`at ${event.id === open ? "open" : ""}`}>
                <Time at={event.timestamp} precise />
              </span>
              <Gap since={rows[index - 1]} to={event} />
              <EventType category={event.category} name={event.name} />
              <span class={`app application ${colorOf(event.application, applications)}`}>
                <bdi>{event.application}</bdi>
              </span>
              <Preview data={event.data} />
            </>
          )}
          onTop={() => {}}
        />
      </div>
      {pages.isMore && !pages.isBusy && (
        <button type="button" onClick={pages.more}>
          Later events
        </button>
      )}
    </>
  );
}

function Gap({ since, to }: { since: StoredEvent | undefined; to: StoredEvent }) {
  if (since === undefined) return <span class="gap quiet">first</span>;
  const gap = Date.parse(to.timestamp) - Date.parse(since.timestamp);
  return <span class={`gap ${gap >= GAP_MS ? "long" : "quiet"}`}>+{between(gap)}</span>;
}

/** The applications with how many events each has, the most first. */
function countsOf(rows: readonly StoredEvent[]): [string, number][] {
  const counts = new Map<string, number>();
  for (const { application } of rows) counts.set(application, (counts.get(application) ?? 0) + 1);
  return [...counts].sort(([, a], [, b]) => b - a);
}
