// Who changed what, when and from where, the latest first. Filters and the place in the trail stand in the address, so that a
// finding can be sent to somebody, and the back button leads to newer entries.
import { Fragment } from "preact";
import { useState } from "preact/hooks";
import { type Filters, go, hrefOf } from "../address";
import { type Answer, get, type Schemas } from "../api/client";
import { useLoaded } from "../parts/loading";
import { Problem } from "../parts/problem";
import { legible, number, Time } from "../parts/words";
import "../parts/form.css";
import "./audit.css";

type Entry = Schemas["AuditEntry"];
type Page = Answer<"/v1/audit">;

const EVERY = 4000;
const LIMIT = 100;
const TEXTS = ["action", "actor", "subject"] as const;
const TIMES = ["from", "to"] as const;
/** What the field for actions proposes. Any other word is taken too. */
const ACTIONS =
  "admin_refused application_add application_bootstrap application_change application_expire application_revoke application_rotate fleet_back fleet_import generation_make generation_refuse guard job_ask job_cancel job_end migrate module_fall_back module_lost module_refuse module_replace module_unload panel_code panel_sign_in panel_sign_out partition_drop partition_make postgres_start redrive retention_confirm scrub settings_reload validator_discard validator_lift validator_promote validator_push validator_retire validator_rollback validator_try".split(" ");

export function Audit({ filters }: { filters: Filters }) {
  const asked = Object.fromEntries([...TEXTS, ...TIMES, "cursor"].flatMap((name) => (filters[name] === undefined ? [] : [[name, filters[name]]])));
  const key = JSON.stringify(asked);
  // Older pages do not change.
  const { data, problem } = useLoaded(key, asked.cursor === undefined ? EVERY : 0, (signal) => get("/v1/audit", { ...asked, limit: LIMIT }, { signal }));
  return (
    <>
      <Filtering filters={filters} />
      {problem !== null && <Problem of={problem} doing="The audit trail could not be read." />}
      {data === undefined ? problem === null && <p class="quiet">…</p> : <Trail key={key} page={data} filters={filters} />}
    </>
  );
}

function Filtering({ filters }: { filters: Filters }) {
  // Other filters make another list, so its place begins anew.
  const change = (changed: Record<string, string>) => go("audit", { ...filters, cursor: "", ...changed });
  return (
    <search class="filters">
      {TIMES.map((name) => (
        <label key={name} class="field">
          <span>{name}</span>
          <input type="datetime-local" step={1} value={localOf(filters[name])} onChange={(event) => change({ [name]: utcOf(event.currentTarget.value) })} />
        </label>
      ))}
      {TEXTS.map((name) => (
        <label key={name} class="field">
          <span>{name}</span>
          <input
            type="text"
            value={filters[name] ?? ""}
            placeholder="any"
            spellcheck={false}
            {...(name === "action" ? { list: "actions" } : {})}
            onChange={(event) => change({ [name]: event.currentTarget.value.trim() })}
          />
        </label>
      ))}
      <datalist id="actions">
        {ACTIONS.map((action) => (
          <option key={action} value={action} />
        ))}
      </datalist>
      {Object.keys(filters).length > 0 && (
        <button type="button" class="plain" onClick={() => go("audit")}>
          Show all
        </button>
      )}
    </search>
  );
}

/** A moment as an input has it, in the zone of the reader. */
function localOf(at: string | undefined): string {
  const moment = at === undefined ? Number.NaN : Date.parse(at);
  if (Number.isNaN(moment)) return "";
  return new Date(moment - new Date(moment).getTimezoneOffset() * 60_000).toISOString().slice(0, 19);
}

function utcOf(local: string): string {
  const moment = Date.parse(local);
  return Number.isNaN(moment) ? "" : new Date(moment).toISOString();
}

/** Entries that come while somebody reads wait until they are asked for, so that nothing jumps. */
function Trail({ page, filters }: { page: Page; filters: Filters }) {
  const [held, setHeld] = useState(page);
  const { cursor } = filters;
  const first = held.entries[0]?.id;
  const place = page.entries.findIndex((one) => one.id === first);
  const newer = held.entries.length === 0 ? page.entries.length : place < 0 ? page.entries.length : place;
  if (held.entries.length === 0 && newer === 0) return <Nothing filters={filters} />;
  return (
    <>
      <section class="card" aria-labelledby="entries">
        <div class="news">
          <h2 id="entries">Entries, the latest first</h2>
          {newer > 0 && cursor === undefined && (
            <button type="button" onClick={() => setHeld(page)}>
              Show {number(newer)} newer
            </button>
          )}
          {cursor !== undefined && <a href={hrefOf("audit", { ...filters, cursor: "" })}>To the newest</a>}
        </div>
        <ul class="trail">
          {held.entries.map((entry) => (
            <li key={entry.id}>
              <One of={entry} filters={filters} />
            </li>
          ))}
        </ul>
      </section>
      <p class="acts">
        {held.next !== null ? (
          <a class="button" href={hrefOf("audit", { ...filters, cursor: held.next })}>
            Older
          </a>
        ) : (
          <span class="quiet">This is where the trail begins.</span>
        )}
      </p>
    </>
  );
}

function Nothing({ filters }: { filters: Filters }) {
  const isFiltered = Object.keys(filters).length > 0;
  return (
    <section class="card empty">
      <p>{isFiltered ? "No entry fits these filters." : "Nothing was changed yet."}</p>
      <p class="quiet">
        {isFiltered ? <a href={hrefOf("audit")}>Show all entries</a> : "Each change of an application, a module, a job or a setting is noted here, with who made it and from where. Reading is not."}
      </p>
    </section>
  );
}

function One({ of, filters }: { of: Entry; filters: Filters }) {
  return (
    <details>
      <summary>
        <Time at={of.at} />
        <code class="action">{of.action}</code>
        <bdi class="subject">{legible(of.subject)}</bdi>
        <span class="by">
          <span class="quiet">by </span>
          <Actor of={of.actor} />
        </span>
      </summary>
      <Whole of={of} filters={filters} />
    </details>
  );
}

/** A gateway that did something by itself has no name but that of its machine. */
function Actor({ of: { kind, name } }: { of: Entry["actor"] }) {
  if (name === "") return <>{kind === "gateway" ? "a gateway by itself" : kind}</>;
  return (
    <>
      <bdi>{legible(name)}</bdi>
      {kind !== "application" && <span class="quiet"> ({kind})</span>}
    </>
  );
}

function Whole({ of, filters }: { of: Entry; filters: Filters }) {
  const { actor } = of;
  const only = (changed: Record<string, string>) => hrefOf("audit", { ...filters, cursor: "", ...changed });
  return (
    <div class="whole">
      <dl class="fields">
        <dt>When</dt>
        <dd>
          <Time at={of.at} precise />
        </dd>
        <dt>By</dt>
        <dd>
          {actor.kind === "application" ? <a href={hrefOf("application", { name: actor.name })}><Actor of={actor} /></a> : <Actor of={actor} />}
          {actor.token_id !== null && <>, token <code>{actor.token_id}</code></>}
          {actor.host !== null && <>, on <bdi>{legible(actor.host)}</bdi></>}
        </dd>
        <dt>From</dt>
        <dd>{of.peer === null ? "no connection to a gateway" : <code>{of.peer}</code>}{of.forwarded !== null && <> for <code>{of.forwarded}</code></>}</dd>
        <dt>Request</dt>
        <dd>{of.request_id === null ? "none" : <code>{of.request_id}</code>}</dd>
        <dt>Entry</dt>
        <dd>
          <code>{of.id}</code>
        </dd>
      </dl>
      <Details of={of.details} />
      <p class="acts small">
        <a href={only({ action: of.action })}>Only this action</a>
        <a href={only({ actor: actor.name === "" ? actor.kind : actor.name })}>Only by this actor</a>
        {of.subject !== "" && <a href={only({ subject: of.subject })}>Only of this subject</a>}
      </p>
    </div>
  );
}

interface Change {
  before: unknown;
  after: unknown;
}

function isChange(value: unknown): value is Change {
  return typeof value === "object" && value !== null && "before" in value && "after" in value && Object.keys(value).length === 2;
}

/** A value of the details, in short where it is a word or a list of words. */
function inWords(value: unknown): string {
  if (value === null) return "none";
  if (typeof value === "string") return value === "" ? "empty" : legible(value);
  if (Array.isArray(value) && value.every((one) => typeof one === "string")) return value.length === 0 ? "none" : value.map(legible).join(", ");
  return legible(JSON.stringify(value));
}

/** What else there is to know: what a change has changed, as before and after, and all else as it is. */
function Details({ of }: { of: Record<string, unknown> }) {
  const entries = Object.entries(of);
  if (entries.length === 0) return null;
  const changes = entries.flatMap(([name, value]) => (isChange(value) ? [{ name, ...value }] : []));
  const rest = entries.filter(([, value]) => !isChange(value));
  return (
    <>
      {changes.length > 0 && (
        <table class="changes">
          <thead>
            <tr>
              <th scope="col">Changed</th>
              <th scope="col">Before</th>
              <th scope="col">After</th>
            </tr>
          </thead>
          <tbody>
            {changes.map(({ name, before, after }) => (
              <tr key={name}>
                <th scope="row">
                  <code>{name}</code>
                </th>
                <td>
                  <bdi>{inWords(before)}</bdi>
                </td>
                <td>
                  <bdi>{inWords(after)}</bdi>
                </td>
              </tr>
            ))}
          </tbody>
        </table>
      )}
      {rest.length > 0 && (
        <dl class="fields">
          {rest.map(([name, value]) => (
            <Fragment key={name}>
              <dt>
                <code>{name}</code>
              </dt>
              <dd>
                <bdi>{inWords(value)}</bdi>
              </dd>
            </Fragment>
          ))}
        </dl>
      )}
    </>
  );
}
