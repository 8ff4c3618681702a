// One stored event.
import { type Filters, hrefOf } from "../address";
import { get, Refused } from "../api/client";
import { Code } from "../parts/copy";
import { useLoaded } from "../parts/loading";
import { Problem } from "../parts/problem";
import { EventType, Time } from "../parts/words";

export function EventView({ filters }: { filters: Filters }) {
  const { session = "", id = "" } = filters;
  const { data, problem } = useLoaded(`${session} ${id}`, 0, (signal) =>
    get("/v1/sessions/{session_id}/events/{id}", undefined, { places: { session_id: session, id }, signal }),
  );
  if (problem !== null) {
    const isGone = problem instanceof Refused && problem.status === 404;
    return <Problem of={problem} doing={isGone ? "This event is not there, or you may not see it." : "The event could not be read."} />;
  }
  if (data === undefined) return <p class="quiet">…</p>;
  return (
    <>
      <section class="card" aria-labelledby="what">
        <h2 id="what">
          <EventType category={data.category} name={data.name} />
        </h2>
        <dl class="fields">
          <dt>Occurred</dt>
          <dd>
            <Time at={data.timestamp} precise />
          </dd>
          <dt>Received</dt>
          <dd>
            <Time at={data.received_at} precise />
          </dd>
          <dt>Application</dt>
          <dd>
            <a href={hrefOf("live", { application: data.application })}>
              <bdi>{data.application}</bdi>
            </a>
          </dd>
          <dt>Event</dt>
          <dd>
            <code>{data.id}</code>
          </dd>
          <dt>Session</dt>
          <dd>
            <code>{data.session_id}</code>
          </dd>
          <dt>Judged by</dt>
          <dd>{data.validator === null ? "no validator" : <code>{data.validator}</code>}</dd>
        </dl>
      </section>
      <section class="card" aria-labelledby="data">
        <h2 id="data">Data</h2>
        <Code text={JSON.stringify(data.data, null, 2)} label="The data of the event" />
      </section>
    </>
  );
}
