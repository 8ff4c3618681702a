// What a module would have said of past events: the outcomes then and now, what changes where, and what could not be compared.
import { hrefOf } from "../../address";
import type { Job, Replay } from "../../api/candidates";
import { replayOf } from "../../api/candidates";
import { get } from "../../api/client";
import { useLoaded } from "../../parts/loading";
import { Problem } from "../../parts/problem";
import { type Column, Table } from "../../parts/table";
import { legible, percent, Short, Time, whole } from "../../parts/words";
import { isOver, JobState, Progress } from "../fleet/jobs";

const EVERY = 700;
const OLD = ["stored", "refused", "quarantined"] as const;
const NEW = ["stored", "amended", "refused", "faulted"] as const;
const MARKS = { stored: "stored", amended: "duplicate", refused: "rejected", faulted: "quarantined" } as const;
/** Why something could not be compared. */
const REASONS: Readonly<Record<string, string>> = {
  amended: "stored as another module had changed them, so what was sent is not known",
  envelope: "refused by the gateway itself, before any module",
  not_allowed: "refused for the rights of their application, before any module",
  not_kept: "refused, and nothing of them was kept",
  cut: "refused, and kept in part alone",
  unstorable: "refused by Postgres",
  gone: "gone meanwhile",
};

/** A replay that goes on, and then what came of it. */
export function Replaying({ id }: { id: string }) {
  const { data, problem } = useLoaded(id, EVERY, (signal) => get("/v1/jobs/{id}", undefined, { places: { id }, signal }));
  if (data === undefined) return problem === null ? <p class="quiet">…</p> : <Problem of={problem} doing="The replay could not be read." />;
  return (
    <>
      <p role="status">
        <a href={hrefOf("job", { id })}>The replay</a> <JobState of={data} /> {!isOver(data) && <Progress of={data} />}
      </p>
      {data.problem !== null && (
        <p class="bad">
          <bdi>{legible(data.problem)}</bdi>
        </p>
      )}
      <Replayed of={data} />
    </>
  );
}

/** What came of a replay, if it has come to its end. */
export function Replayed({ of }: { of: Job }) {
  const found = replayOf(of);
  if (found === null) return null;
  return (
    <div class="replayed">
      <NotCompared of={found} />
      <h3>Then and now</h3>
      {found.rows.length === 0 ? <p class="quiet">No event of that time could be compared.</p> : <Outcomes rows={found.rows} label="Outcomes then and now" />}
      {found.redacted.length > 0 && (
        <>
          <p class="quiet small">Refused events that are kept as their validator redacted them, judged as they are kept:</p>
          <Outcomes rows={found.redacted} label="Redacted events then and now" />
        </>
      )}
      <Changes of={found} />
      <Amendments of={found} />
    </div>
  );
}

function NotCompared({ of }: { of: Replay }) {
  const reasons = Object.entries(of.not_compared);
  return (
    <>
      <p>
        {whole(of.events)} stored and {whole(of.letters)} refused events were looked at
        {of.sampled !== null && <>, chosen from about {whole(of.sampled.events + of.sampled.letters)}</>}.
      </p>
      {(reasons.length > 0 || of.unsure > 0) && (
        <>
          <h3>Not compared</h3>
          <ul class="violations">
            {reasons.map(([reason, count]) => (
              <li key={reason}>
                <b>{whole(count)}</b> {REASONS[reason] ?? reason}
              </li>
            ))}
            {of.unsure > 0 && (
              <li>
                <b>{whole(of.unsure)}</b> were compared, but the module of then is not kept any more, so it may have changed them
              </li>
            )}
          </ul>
        </>
      )}
    </>
  );
}

function Outcomes({ rows, label }: { rows: Replay["rows"]; label: string }) {
  const count = (old: string, now: string) => rows.find((row) => row.old === old && row.new === now)?.count ?? 0;
  return (
    <div class="scroll" tabIndex={0} role="region" aria-label={label}>
      <table class="outcomes">
        <thead>
          <tr>
            <th scope="col">Then</th>
            {NEW.map((now) => (
              <th key={now} scope="col" class="number">
                Now {now}
              </th>
            ))}
          </tr>
        </thead>
        <tbody>
          {OLD.map((old) => {
            const sum = NEW.reduce((all, now) => all + count(old, now), 0);
            return (
              <tr key={old}>
                <th scope="row">{old}</th>
                {NEW.map((now) => {
                  const own = count(old, now);
                  return (
                    <td key={now} class="number">
                      {own === 0 ? <span class="quiet">0</span> : <><span class={`mark ${MARKS[now]}`}>{whole(own)}</span> <span class="quiet small">{percent(own, sum)}</span></>}
                    </td>
                  );
                })}
              </tr>
            );
          })}
        </tbody>
      </table>
    </div>
  );
}

type Change = NonNullable<Replay["changes"]>[number];
const CHANGES: readonly Column<Change>[] = [
  {
    title: "Where",
    show: ({ pointer }) => (
      <code>
        <bdi>{pointer === "" ? "the whole" : legible(pointer)}</bdi>
      </code>
    ),
  },
  { title: "Code", show: ({ code }) => <code><bdi>{legible(code)}</bdi></code> },
  { title: "Then, now", show: ({ old, new: now }) => `${old} → ${now}` },
  { title: "Application", show: ({ application }) => <bdi>{legible(application)}</bdi> },
  { title: "Events", number: true, show: ({ count }) => whole(count) },
  { title: "First and last", show: ({ first, last }) => <><Time at={first} /> – <Time at={last} /></> },
  { title: "Such as", wide: true, show: ({ examples }) => <Examples of={examples} /> },
];

function Examples({ of }: { of: Change["examples"] }) {
  return (
    <>
      {of.map(({ event_id: event, session_id: session, dead_letter_id: letter }) => {
        const id = letter ?? event;
        if (id === null) return null;
        return (
          <span key={id}>
            <a href={letter === null ? hrefOf("event", { session, id }) : hrefOf("letter", { id })}>
              <Short id={event ?? id} />
            </a>{" "}
          </span>
        );
      })}
    </>
  );
}

function Changes({ of }: { of: Replay }) {
  const changes = of.changes ?? [];
  return (
    <>
      <h3>What changes</h3>
      {changes.length === 0 ? (
        <p>
          <b>Nothing.</b> Every event that was compared would end as it did.
        </p>
      ) : (
        <Table label="Changes" columns={CHANGES} rows={changes} keyOf={(one) => `${one.pointer} ${one.code} ${one.old} ${one.new} ${one.application}`} />
      )}
      {of.changes_others > 0 && <p class="quiet small">{whole(of.changes_others)} changes of further kinds are not listed.</p>}
    </>
  );
}

function Amendments({ of }: { of: Replay }) {
  const amendments = of.amendments ?? [];
  if (amendments.length === 0) return null;
  const shown = (value: unknown) => (value === undefined ? <span class="quiet">nothing</span> : <code><bdi>{legible(JSON.stringify(value))}</bdi></code>);
  return (
    <>
      <h3>What it changes in the data</h3>
      <ul class="violations">
        {amendments.map(({ event_id: event, dead_letter_id: letter, changes, more }, index) => (
          <li key={letter ?? event ?? index}>
            {event !== null && <Short id={event} />}{" "}
            {changes.map(({ pointer, old, new: now }) => (
              <span key={pointer}>
                <code>
                  <bdi>{pointer === "" ? "the whole" : legible(pointer)}</bdi>
                </code>
                : {shown(old)} → {shown(now)};{" "}
              </span>
            ))}
            {more > 0 && <span class="quiet">and {whole(more)} more places</span>}
          </li>
        ))}
      </ul>
      {of.amendments_others > 0 && <p class="quiet small">{whole(of.amendments_others)} more events would be changed.</p>}
    </>
  );
}
