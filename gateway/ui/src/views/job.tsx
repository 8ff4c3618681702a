// One job: what was asked, how far it is, what came of it, and the way to cancel it.
import { useState } from "preact/hooks";
import { type Filters, go, hrefOf } from "../address";
import { get, Refused, send } from "../api/client";
import { Code } from "../parts/copy";
import { Ask } from "../parts/form";
import { useLoaded } from "../parts/loading";
import { Problem } from "../parts/problem";
import { type Column, Table } from "../parts/table";
import { legible, Time, whole } from "../parts/words";
import { isOver, type Job, JobState, Progress, Result } from "./fleet/jobs";
import { Replayed } from "./validators/replayed";
import "./fleet/fleet.css";
import "./validators.css";

const EVERY = 1000;

export function JobView({ filters }: { filters: Filters }) {
  const { id = "" } = filters;
  return id === "" ? <NotThere /> : <One key={id} id={id} act={filters.act ?? ""} />;
}

function NotThere() {
  return (
    <p>
      There is no such job. What has ended is kept for 30 days. <a href={hrefOf("fleet")}>Go to the fleet</a>.
    </p>
  );
}

const CODE_COLUMNS: readonly Column<[string, number]>[] = [
  { title: "Code", wide: true, show: ([code]) => <code>{code}</code> },
  { title: "Events", number: true, show: ([, count]) => whole(count) },
];

function One({ id, act }: { id: string; act: string }) {
  const [round, setRound] = useState(0);
  const { data, problem } = useLoaded(`${id} ${round}`, EVERY, (signal) => get("/v1/jobs/{id}", undefined, { places: { id }, signal }));
  if (data === undefined) {
    if (problem instanceof Refused && (problem.status === 404 || problem.status === 400)) return <NotThere />;
    return problem === null ? <p class="quiet">…</p> : <Problem of={problem} doing="The job could not be read." />;
  }
  const leave = () => {
    go("job", { id }, true);
    requestAnimationFrame(() => document.getElementById("act-cancel")?.focus());
  };
  const cancel = async () => {
    await send<Job>("DELETE", "/v1/jobs/{id}", { places: { id } });
    setRound((before) => before + 1);
    go("job", { id }, true);
  };
  const codes = Object.entries(data.progress.codes).sort(([, one], [, other]) => other - one);
  return (
    <>
      {problem !== null && <Problem of={problem} doing="What is shown below is not up to date." />}
      {act === "cancel" && !isOver(data) && (
        <Ask id="cancel" title={`Cancel this ${data.kind}?`} yes="Cancel it" isGrave act={cancel} leave={leave} doing="It was not cancelled.">
          <p>{data.state === "waiting" ? "It has not begun, and ends at once." : "It ends after its current step. What it has done stays; the rest is left as it was, and can be asked for again."}</p>
        </Ask>
      )}
      <section class="card" aria-labelledby="job">
        <div class="of-one">
          <h2 id="job">{data.kind}</h2>
          <span role="status">
            <JobState of={data} />
          </span>
          {data.dry_run && <span class="quiet">dry run: it changes nothing</span>}
        </div>
        <Facts of={data} />
        {!isOver(data) && !data.cancel_requested && (
          <p class="acts">
            <a id="act-cancel" class="button" href={hrefOf("job", { id, act: "cancel" })}>
              Cancel it
            </a>
          </p>
        )}
      </section>
      {codes.length > 0 && (
        <section class="card" aria-labelledby="codes">
          <h2 id="codes">Not stored, by code</h2>
          <Table label="Codes" columns={CODE_COLUMNS} rows={codes} keyOf={([code]) => code} />
        </section>
      )}
      {data.kind === "replay" && data.result !== null && (
        <section class="card" aria-labelledby="replayed">
          <h2 id="replayed">What the module would have said</h2>
          <Replayed of={data} />
        </section>
      )}
      <section class="card" aria-labelledby="request">
        <h2 id="request">What was asked</h2>
        <Code text={legible(JSON.stringify(data.request))} label="What was asked" />
      </section>
    </>
  );
}

function Facts({ of }: { of: Job }) {
  const by = of.requested_by;
  const moment = (at: string | null) => (at === null ? "not yet" : <Time at={at} />);
  return (
    <dl class="fields">
      <dt>Progress</dt>
      <dd class="job-progress">
        <Progress of={of} />
      </dd>
      <dt>Came of it</dt>
      <dd>
        <Result of={of} />
      </dd>
      <dt>Asked by</dt>
      <dd>
        {by.kind} <bdi>{legible(by.name)}</bdi>
        {by.token_id !== null && <>, token <code>{by.token_id}</code></>}
        {by.host !== null && <>, on <bdi>{legible(by.host)}</bdi></>}
        {of.peer !== null && <>, from <code>{of.peer}</code></>}
        {of.forwarded !== null && <> for <code>{of.forwarded}</code></>}
      </dd>
      <dt>Asked</dt>
      <dd>{moment(of.requested_at)}</dd>
      <dt>Began</dt>
      <dd>{moment(of.started_at)}</dd>
      <dt>Ended</dt>
      <dd>{moment(of.ended_at)}</dd>
      <dt>Worked on by</dt>
      <dd>{of.gateway === null ? "no gateway yet" : <bdi>{legible(of.gateway)}</bdi>}</dd>
      {of.request_id !== null && (
        <>
          <dt>Request</dt>
          <dd>
            <code>{of.request_id}</code>
          </dd>
        </>
      )}
    </dl>
  );
}
