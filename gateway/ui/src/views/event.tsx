// One stored event: what it says, who sent it when, which module judged it, and the command that would send it again.
import { type Filters, hrefOf } from "../address";
import { get, Refused, type Schemas } from "../api/client";
import { wordsOf } from "../api/modules";
import { Code } from "../parts/copy";
import { curlOf } from "../parts/curl";
import { Json } from "../parts/json";
import { useLoaded } from "../parts/loading";
import { Problem } from "../parts/problem";
import { EventType, Time } from "../parts/words";

export function EventView({ filters: { session = "", id = "" } }: { filters: Filters }) {
  return <EventDetails session={session} id={id} />;
}

export function EventDetails({ session, id }: { session: string; id: string }) {
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
        <h3 id="what" class="first">
          <EventType category={data.category} name={data.name} />
        </h3>
        <Fields event={data} />
      </section>
      <section class="card" aria-labelledby="data">
        <h3 id="data" class="first">
          Data
        </h3>
        <Json value={data.data} label="The data of the event" />
      </section>
      <section class="card" aria-labelledby="again">
        <h3 id="again" class="first">
          Send it again
        </h3>
        <Again event={data} />
      </section>
    </>
  );
}

function Fields({ event }: { event: Schemas["StoredEvent"] }) {
  const { category, name, application, session_id, id, timestamp, received_at, validator } = event;
  return (
    <dl class="fields">
      <dt>Occurred</dt>
      <dd>
        <Time at={timestamp} precise />
      </dd>
      <dt>Received</dt>
      <dd>
        <Time at={received_at} precise />
      </dd>
      <dt>Application</dt>
      <dd>
        <a href={hrefOf("explore", { application })}>
          <bdi>{application}</bdi>
        </a>
      </dd>
      <dt>Type</dt>
      <dd>
        <a href={hrefOf("explore", { category, name })}>All of this type</a>, <a href={hrefOf("refused", { category, name })}>refused ones</a>,{" "}
        <a href={hrefOf("live", { category, name })}>live</a>
      </dd>
      <dt>Event</dt>
      <dd>
        <code>{id}</code>
      </dd>
      <dt>Session</dt>
      <dd>
        <a href={hrefOf("explore", { session: session_id, open: `${session_id}.${id}` })}>
          <code>{session_id}</code>
        </a>
      </dd>
      <dt>Judged by</dt>
      <dd>
        {validator === null ? (
          "no validator"
        ) : (
          <a href={hrefOf("validator", { type: wordsOf({ category, name }) })}>
            <code>{validator}</code>
          </a>
        )}
      </dd>
    </dl>
  );
}

function Again({ event: { id, session_id, category, name, timestamp, data } }: { event: Schemas["StoredEvent"] }) {
  return (
    <>
      <p class="quiet">
        With its id it is a duplicate and stored once. Without the id it is an event of its own. <code>EYE_TOKEN</code> is a token with the scope <code>ingest</code>.
      </p>
      <Code text={curlOf({ id, session_id, category, name, timestamp, data }, true)} label="Command that sends the event again" />
    </>
  );
}
