// One event type: what judges it, how its events end, what is wrong, which versions there are; and the ways to change it.
import { useCallback, useEffect, useState } from "preact/hooks";
import { type Filters, go, hrefOf } from "../address";
import { get, Refused } from "../api/client";
import { type One, oneOf, type Slot, slotOf, troubleOf, wordsOf } from "../api/modules";
import { Code } from "../parts/copy";
import { unlessHidden, useLoaded } from "../parts/loading";
import { Problem } from "../parts/problem";
import { Time } from "../parts/words";
import { may } from "../session";
import { CandidateCard } from "./validators/candidate";
import { Facts } from "./validators/facts";
import { Outcomes } from "./validators/outcomes";
import { Preparations } from "./validators/preparations";
import { Ship } from "./validators/ship";
import { TakenBackCard } from "./validators/taken-back";
import { Try } from "./validators/try";
import "./validators.css";
import { Versions } from "./validators/versions";
import { Failure, filtersOf, SlotName, State } from "./validators/words";

const EVERY = 4000;
/** The same for a while after a change was made here. */
const SOON = 1000;
const SOON_FOR_MS = 5000;

export function ValidatorView({ filters }: { filters: Filters }) {
  const slot = slotOf(filters.type ?? "");
  if (slot === null) {
    return (
      <p>
        This address names no event type. <a href={hrefOf("validators")}>All validators</a>
      </p>
    );
  }
  // A page of its own for each type: nothing that was typed or checked for one is left for another.
  return <OnePage key={wordsOf(slot)} slot={slot} filters={filters} />;
}

function OnePage({ slot, filters }: { slot: Slot; filters: Filters }) {
  const [every, setEvery] = useState(EVERY);
  const { data, problem } = useLoaded(wordsOf(slot), every, (signal) => unlessHidden(() => oneOf(slot, signal)));
  const gateways = useLoaded("where modules come from", 0, (signal) => unlessHidden(() => get("/v1/gateways", undefined, { signal })));
  useEffect(() => {
    if (every === EVERY) return;
    const timer = setTimeout(() => setEvery(EVERY), SOON_FOR_MS);
    return () => clearTimeout(timer);
  }, [every]);
  const after = useCallback(() => setEvery(SOON), []);
  if (problem !== null && data === undefined) return <Problem of={problem} doing="The validator could not be read." />;
  if (data === undefined) return <p class="quiet">…</p>;
  const from = data?.modules_from ?? gateways.data?.gateways.find(({ answers }) => answers)?.modules_from;
  return (
    <div class="validators">
      {problem !== null && <Problem of={problem} doing={problem instanceof Refused ? "What is shown is not up to date." : "What is shown is old."} />}
      <Head slot={slot} one={data} />
      {data !== null && <Trouble one={data} />}
      {data !== null && <TakenBackCard list={data.taken_back ?? []} />}
      {data !== null && <CandidateCard slot={slot} one={data} after={after} />}
      <Outcomes slot={slot} one={data} filters={filters} choose={(range) => go("validator", { ...filters, range })} />
      {data?.state !== undefined && <Facts one={data} />}
      {(data?.preparations?.length ?? 0) > 0 && <Preparations list={data?.preparations ?? []} />}
      {may("ship") && (
        <section class="card" aria-labelledby="ship">
          <h2 id="ship">Ship a version</h2>
          <Ship slot={slot} from={from} after={after} />
        </section>
      )}
      {(data !== null || may("ship")) && <Versions slot={slot} one={data} after={after} />}
      {may("ingest") && <Try slot={slot} digest={data?.digest ?? null} candidate={data?.candidate?.digest ?? null} />}
    </div>
  );
}

function Head({ slot, one }: { slot: Slot; one: One | null }) {
  const others = filtersOf(slot);
  return (
    <section class="card" aria-labelledby="what">
      <h2 id="what" class="title">
        <SlotName slot={slot} /> {one?.state !== undefined && <State one={{ state: one.state, loading: one.loading ?? null, standing: one.standing ?? null }} />}
      </h2>
      {one?.summary != null && (
        <p>
          <bdi>{one.summary}</bdi>
        </p>
      )}
      {one?.digest == null ? (
        <p>{one?.held != null ? "No module serves, so these events are not taken." : "No module of its own judges this event type."}</p>
      ) : (
        <Code text={one.digest} label="Digest of the module that serves" />
      )}
      <dl class="fields">
        {one?.since != null && (
          <>
            <dt>Serves since</dt>
            <dd>
              <Time at={one.since} />
            </dd>
          </>
        )}
        {one?.shipped != null && (
          <>
            <dt>Shipped by</dt>
            <dd>
              <bdi>{one.shipped.by ?? "nobody knows"}</bdi>
              {one.shipped.from != null && (
                <>
                  {" "}
                  from <bdi>{one.shipped.from}</bdi>
                </>
              )}
              {one.shipped.shipped_at !== undefined && (
                <>
                  , <Time at={one.shipped.shipped_at} />
                </>
              )}
            </dd>
            <dt>Commit</dt>
            <dd>{one.shipped.commit == null ? <span class="quiet">none was given</span> : <code><bdi>{one.shipped.commit}</bdi></code>}</dd>
          </>
        )}
        {one?.file !== undefined && (
          <>
            <dt>{one.modules_from === "database" ? "Named" : "File"}</dt>
            <dd>
              <code>
                <bdi>{one.file}</bdi>
              </code>
            </dd>
          </>
        )}
        {one !== null && (
          <>
            <dt>Comes from</dt>
            <dd>{one.modules_from === "database" ? <>the database, generation {one.generation ?? "–"}</> : "the modules directory of this gateway"}</dd>
          </>
        )}
      </dl>
      <p class="links">
        <a href={hrefOf("live", others)}>Watch its events live</a>
        <a href={hrefOf("refused", others)}>What was refused</a>
        <a href={hrefOf("explore", others)}>What is stored</a>
        {may("admin") && <a href={hrefOf("audit", { subject: wordsOf(slot) })}>Who changed it, and from which commit</a>}
      </p>
    </section>
  );
}

function Trouble({ one }: { one: One }) {
  const why = troubleOf(one);
  if (why === null) return null;
  const { last_error: error, settings_error: settings, retry_at: retry, lost_since: lost, off_path_for: off } = one;
  return (
    <section class="card trouble" aria-labelledby="trouble">
      <h2 id="trouble">What is wrong</h2>
      <p class="bad">
        <bdi>{why}</bdi>
      </p>
      {off !== undefined && off.length > 0 && (
        <p>
          Only for the applications{" "}
          {off.map((application) => (
            <bdi key={application} class="mark">
              {application}
            </bdi>
          ))}
        </p>
      )}
      {one.held != null && (
        <p>
          Its events are answered 503 <a href={`/problems/${one.held}`} target="_blank" rel="noreferrer">{one.held}</a>, and senders keep them.
        </p>
      )}
      {lost != null && (
        <p>
          Lost since <Time at={lost} />.
        </p>
      )}
      {error != null && <Failure of={error} title="The newest file" />}
      {retry != null && (
        <p>
          It is tried again at <Time at={retry} />.
        </p>
      )}
      {settings != null && <Failure of={settings} title="Its settings" />}
    </section>
  );
}

