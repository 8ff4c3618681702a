// The sessions that were active in a time, the latest first.
import type { Filters } from "../../address";
import { hrefOf } from "../../address";
import { get } from "../../api/client";
import { usePages } from "../../parts/pages";
import { Problem } from "../../parts/problem";
import { spanOf } from "../../parts/span";
import { between, EventType, number, Short, Time, whole } from "../../parts/words";

export function Sessions({ filters }: { filters: Filters }) {
  const pages = usePages(JSON.stringify(filters), 1, async (cursor, signal) => {
    const { from, to } = spanOf(filters, "24h");
    const query = { ...(from === undefined ? {} : { from }), ...(to === undefined ? {} : { to }), ...(cursor === null ? {} : { cursor }) };
    const { sessions, next } = await get("/v1/sessions", query, { signal });
    return { rows: sessions, next };
  });
  const { words } = spanOf(filters, "24h");
  if (pages.problem !== null) return <Problem of={pages.problem} doing="The sessions could not be read." />;
  if (!pages.isThere) return <p class="quiet">Reading…</p>;
  if (pages.rows.length === 0) {
    return (
      <div class="card empty">
        <p>No session was active in {words}.</p>
        <p class="quiet">Choose a longer time above, or name a session by its id.</p>
      </div>
    );
  }
  return (
    <>
      <section class="card scroll" tabIndex={0} aria-label="Sessions, the latest first">
        <table class="sessions">
          <thead>
            <tr>
              <th scope="col">Session</th>
              <th scope="col" class="number">
                Events
              </th>
              <th scope="col">Last event</th>
              <th scope="col">Lasted</th>
              <th scope="col">Applications</th>
            </tr>
          </thead>
          <tbody>
            {pages.rows.map(({ session_id, first, last, count, count_is_exact: isExact, applications }) => (
              <tr key={session_id}>
                <th scope="row">
                  <a href={hrefOf("explore", { session: session_id })}>
                    <Short id={session_id} />
                  </a>
                </th>
                <td class="number" title={whole(count)}>
                  {isExact ? "" : "over "}
                  {number(count)}
                </td>
                <td>
                  <Time at={last.timestamp} /> <EventType category={last.category} name={last.name} />
                </td>
                <td>{between(Date.parse(last.timestamp) - Date.parse(first.timestamp))}</td>
                <td>
                  <bdi>{applications.join(", ")}</bdi>
                </td>
              </tr>
            ))}
          </tbody>
        </table>
      </section>
      {pages.isMore && (
        <button type="button" onClick={pages.more} disabled={pages.isBusy}>
          {pages.isBusy ? "Reading…" : "Earlier sessions"}
        </button>
      )}
    </>
  );
}
