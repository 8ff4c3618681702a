// Every validator: what serves, how its events end, and what is wrong; and the event types that nobody judges.
import { useState } from "preact/hooks";
import { type Filters, go } from "../address";
import { get } from "../api/client";
import { all } from "../api/counts";
import { troubleOf, type Validator, wordsOf } from "../api/modules";
import { Code } from "../parts/copy";
import { type Loaded, unlessHidden, useLoaded } from "../parts/loading";
import { Problem } from "../parts/problem";
import { Sparkline } from "../parts/sparkline";
import { legible, number, Short, Time, whole } from "../parts/words";
import { may } from "../session";
import "./validators.css";
import { ShipNew } from "./validators/ship-new";
import { type Day, daysOf } from "./validators/verdicts";
import { hrefOfSlot, micros, SlotName, State } from "./validators/words";

const EVERY = 4000;
const DAYS_EVERY = 15_000;
/** Rows that are shown before somebody asks for all. */
const ROWS = 200;

type Report = Awaited<ReturnType<typeof report>>;
const report = (signal: AbortSignal) => unlessHidden(() => get("/v1/validators", undefined, { signal }));

export function Validators({ filters }: { filters: Filters }) {
  const { data, problem } = useLoaded("validators", EVERY, report);
  const names = data?.validators.map(wordsOf).join(" ") ?? "";
  const days = useLoaded(`days ${names}`, DAYS_EVERY, (signal) => daysOf(data?.validators ?? [], signal));
  if (problem !== null && data === undefined) return <Problem of={problem} doing="The validators could not be read." />;
  if (data === undefined) return <p class="quiet">…</p>;
  if (data === null) {
    return <p>Your application sees the events of some applications alone. The counts of a validator are those of all, so it sees none of them.</p>;
  }
  return (
    <div class="validators">
      {problem !== null && <Problem of={problem} doing="What is shown is not up to date." />}
      {data.validators.length === 0 ? <NoneYet /> : <List report={data} days={days} filters={filters} />}
      <Files problems={data.problems} />
      <Unjudged report={data} />
      {may("ship") && <ShipNew />}
    </div>
  );
}

function NoneYet() {
  return (
    <section class="card first-steps" aria-labelledby="none">
      <h2 id="none">No validator yet</h2>
      <p>
        Every event is accepted as it is, as long as the settings say so. A validator is a WebAssembly file that judges the events of one event
        type. Ship the first one
        {may("ship") ? ": drop its file below, or run this where it lies:" : " with this command, which needs a token with the scope ship:"}
      </p>
      <Code text={`EYE_GATEWAY=${location.origin} eye validator push sale.wasm --type shop/sale`} label="Command that ships a validator" />
      <p class="quiet">
        On the machine of the gateway, a file in the modules directory does the same: <code>modules/shop/sale.wasm</code>. How to write one is in{" "}
        <code>docs/validators.md</code>.
      </p>
    </section>
  );
}

/** Whether a validator has the text that is looked for in its names, summary, digest, or who shipped it. */
function fits(one: Validator, text: string): boolean {
  const within = [one.event_type, one.category, one.name, one.file, one.summary, one.digest, one.by, one.state];
  return within.some((each) => each?.toLowerCase().includes(text.toLowerCase()));
}

function List({ report, days, filters }: { report: NonNullable<Report>; days: Loaded<Map<string, Day>>; filters: Filters }) {
  const [isAll, setAll] = useState(false);
  const text = filters.text ?? "";
  const troubled = report.validators.filter((one) => troubleOf(one) !== null).length;
  const only = filters.trouble === "only";
  const fitting = report.validators.filter((one) => (text === "" || fits(one, text)) && (!only || troubleOf(one) !== null));
  const shown = isAll ? fitting : fitting.slice(0, ROWS);
  return (
    <>
      <search class="filters">
        <label class="field">
          <span>Find</span>
          <input
            type="text"
            value={text}
            placeholder="event type, summary, digest"
            spellcheck={false}
            onInput={(event) => go("validators", { ...filters, text: event.currentTarget.value }, true)}
          />
        </label>
        <fieldset class="choice">
          <legend class="unseen">Which are shown</legend>
          <label class={only ? "chosen" : ""}>
            <input type="checkbox" checked={only} onChange={() => go("validators", { ...filters, trouble: only ? "" : "only" })} />
            <span>In trouble: {troubled}</span>
          </label>
        </fieldset>
        <span class="quiet" role="status">
          {fitting.length === report.validators.length ? `${whole(fitting.length)} in all` : `${whole(fitting.length)} of ${whole(report.validators.length)}`}
        </span>
      </search>
      {days.problem !== null && <Problem of={days.problem} doing="The counts of the last day could not be read." />}
      <section class="card list" aria-label="Validators">
        {shown.length === 0 ? (
          <p class="empty">
            {only && text === "" ? "No validator is in trouble." : "No validator fits these filters."}{" "}
            <a href="#/validators">Show all</a>
          </p>
        ) : (
          <table class="modules">
            <thead>
              <tr>
                <th scope="col">Event type</th>
                <th scope="col">State</th>
                <th scope="col">Serves</th>
                <th scope="col">Events, last 24 h</th>
                <th scope="col" class="number">
                  Accepted
                </th>
                <th scope="col" class="number">
                  Amended
                </th>
                <th scope="col" class="number">
                  Rejected
                </th>
                <th scope="col" class="number">
                  Faults
                </th>
                <th scope="col" class="number">
                  p50
                </th>
                <th scope="col" class="number">
                  p99
                </th>
              </tr>
            </thead>
            <tbody>
              {shown.map((one) => (
                <Row key={wordsOf(one)} one={one} day={days.data?.get(wordsOf(one))} />
              ))}
            </tbody>
          </table>
        )}
        {fitting.length > shown.length && (
          <p class="empty">
            <button type="button" onClick={() => setAll(true)}>
              Show all {whole(fitting.length)}
            </button>
          </p>
        )}
      </section>
      <p class="quiet small">Verdicts and times are those of the gateway that answers, since the module began to serve there.</p>
    </>
  );
}

function Row({ one, day }: { one: Validator; day: Day | undefined }) {
  const trouble = troubleOf(one);
  const faults = Object.values(one.counts.faulted).reduce((sum, count) => sum + count, 0);
  return (
    <tr class={trouble === null ? "" : "troubled"}>
      <th scope="row" class="what">
        <a href={hrefOfSlot(one)}>
          <SlotName slot={one} />
        </a>
        {one.summary !== null && (
          <span class="quiet small summary">
            <bdi>{one.summary}</bdi>
          </span>
        )}
        {trouble !== null && (
          <span class="bad small summary">
            <bdi>{trouble}</bdi>
          </span>
        )}
      </th>
      <td class="state">
        <State one={one} />
      </td>
      <td class="serves small">
        {one.digest === null ? <span class="quiet">nothing</span> : <Short id={one.digest} />}
        {one.since !== null && (
          <span class="quiet">
            {" "}
            since <Time at={one.since} />
          </span>
        )}
        {one.by !== null && (
          <span class="quiet">
            {" "}
            by <bdi>{one.by}</bdi>
          </span>
        )}
        {one.isolation !== null && <span class="quiet how">{one.isolation === "set_back" ? "instances are set back" : "a fresh instance each"}</span>}
      </td>
      <td class="picture">
        <Picture day={day} />
      </td>
      <Counted of="accepted" count={one.counts.accepted} />
      <Counted of="amended" count={one.counts.amended} />
      <Counted of="rejected" count={one.counts.rejected} />
      <Counted of="faults" count={faults} bad={faults > 0} />
      <td class="number" data-of="p50">
        {one.judging === null ? "–" : micros(one.judging.p50_us)}
      </td>
      <td class="number" data-of="p99">
        {one.judging === null ? "–" : micros(one.judging.p99_us)}
      </td>
    </tr>
  );
}

function Counted({ of, count, bad = false }: { of: string; count: number; bad?: boolean }) {
  return (
    <td class={`number ${bad ? "bad" : ""}`} data-of={of} title={whole(count)}>
      {number(count)}
    </td>
  );
}

function Picture({ day }: { day: Day | undefined }) {
  if (day === undefined) return <span class="quiet small">no events</span>;
  const { total } = day;
  const refused = total.rejected + total.quarantined;
  const label = `${whole(all(total))} events in the last 24 hours, ${whole(refused)} of them refused`;
  return (
    <span title={label}>
      <Sparkline values={day.hours.map((sums) => ({ all: all(sums), refused: sums.rejected + sums.quarantined }))} label={label} />
    </span>
  );
}

function Files({ problems }: { problems: NonNullable<Report>["problems"] }) {
  if (problems.length === 0) return null;
  return (
    <section class="card" aria-labelledby="files">
      <h2 id="files">Files that serve nothing</h2>
      <ul class="troubles">
        {problems.map(({ file, why, nearest }) => (
          <li key={`${file} ${why}`}>
            <bdi class="type">{file === "." ? "The modules directory" : legible(file)}</bdi>
            <p>
              <bdi>{why}</bdi>
            </p>
            {nearest !== null && (
              <p class="nearest">
                The nearest name is <bdi class="type">{nearest}</bdi>
              </p>
            )}
          </li>
        ))}
      </ul>
    </section>
  );
}

function Unjudged({ report }: { report: NonNullable<Report> }) {
  const { without_validator: types, without_validator_others: others } = report;
  const [isAll, setAll] = useState(false);
  if (types.length === 0 && others === 0) return null;
  const sorted = [...types].sort((a, b) => b.stored - a.stored);
  const shown = isAll ? sorted : sorted.slice(0, 20);
  return (
    <section class="card" aria-labelledby="unjudged">
      <h2 id="unjudged">Judged by nobody</h2>
      <p class="quiet small">Events of these types were stored as they came since the gateway started.</p>
      <table class="unjudged">
        <thead>
          <tr>
            <th scope="col">Event type</th>
            <th scope="col" class="number">
              Stored
            </th>
          </tr>
        </thead>
        <tbody>
          {shown.map(({ category, name, stored, nearest }) => (
            <tr key={wordsOf({ category, name })}>
              <th scope="row">
                <a href={hrefOfSlot({ category, name })}>
                  <SlotName slot={{ category, name }} />
                </a>
                {nearest !== null && (
                  <span class="bad small summary">
                    Perhaps this file was meant for it: <bdi>{legible(nearest)}</bdi>
                  </span>
                )}
              </th>
              <td class="number" title={whole(stored)}>
                {number(stored)}
              </td>
            </tr>
          ))}
        </tbody>
      </table>
      {sorted.length > shown.length && (
        <button type="button" onClick={() => setAll(true)}>
          Show all {whole(sorted.length)}
        </button>
      )}
      {others > 0 && <p class="quiet small">{whole(others)} events of further types were stored so.</p>}
    </section>
  );
}
