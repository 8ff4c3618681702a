// The candidate of an event type: how it is tried, what it says beside the module that serves, and the ways to end the trial.
import { CircleCheckBig, Trash2 } from "lucide";
import { useMemo, useRef, useState } from "preact/hooks";
import { hrefOf } from "../../address";
import { type Candidate, candidateOf, discard, promote } from "../../api/candidates";
import type { One, Slot } from "../../api/modules";
import { figure } from "../../api/client";
import { Code } from "../../parts/copy";
import { Icon } from "../../parts/icon";
import { unlessHidden, useLoaded } from "../../parts/loading";
import { Problem } from "../../parts/problem";
import { type Column, Table } from "../../parts/table";
import { legible, percent, Short, Time, whole } from "../../parts/words";
import { may } from "../../session";
import { ChangeOf, type Plan } from "./change";
import { SHIP_MS, WAIT_S } from "./follow";

const EVERY = 2000;

/** The counts of pairs, in the order in which an author wants them. */
const COUNTS = [
  ["same", "the same", ""],
  ["would_refuse", "would refuse", "rejected"],
  ["would_take", "would take", "stored"],
  ["amends_otherwise", "amends otherwise", "duplicate"],
  ["faulted", "breaks", "quarantined"],
] as const;
const NAMES = new Map<string, string>(COUNTS.map(([name, words]) => [name, words]));

export function CandidateCard({ slot, one, after }: { slot: Slot; one: One; after: () => void }) {
  const [asked, setAsked] = useState<"promote" | "discard" | null>(null);
  const opener = useRef<HTMLElement | null>(null);
  const { data, problem } = useLoaded("candidate", EVERY, (signal) => unlessHidden(() => candidateOf(slot, signal)));
  const digest = data?.digest ?? null;
  // The plan is of the candidate that was shown when it was made.
  const plan = useMemo(() => (asked === null || digest === null ? null : planOf(asked, slot, digest)), [asked]);
  const close = () => {
    setAsked(null);
    const { current } = opener;
    if (current?.isConnected === true) current.focus();
    else document.getElementById("candidate")?.focus();
  };
  const begin = (event: MouseEvent, what: "promote" | "discard") => {
    opener.current = event.currentTarget as HTMLElement;
    setAsked(what);
  };
  if (data == null && problem === null && plan === null) return null;
  return (
    <section class="card" aria-labelledby="candidate">
      <h2 id="candidate" class="title" tabIndex={-1}>
        Candidate {data != null && <How of={data} />}
      </h2>
      {problem !== null && <Problem of={problem} doing="The candidate could not be read." />}
      {data != null ? <Tried of={data} /> : problem === null && <p class="quiet">There is none any more.</p>}
      {data != null && may("ship") && plan === null && (
        <div class="answers">
          <button type="button" class="primary" onClick={(event) => begin(event, "promote")}>
            <Icon of={CircleCheckBig} /> Promote…
          </button>
          <button type="button" onClick={(event) => begin(event, "discard")}>
            <Icon of={Trash2} /> Discard…
          </button>
        </div>
      )}
      {plan !== null && <ChangeOf plan={plan} slot={slot} from={one.modules_from} after={after} close={close} />}
    </section>
  );
}

/** How it is tried. */
function How({ of }: { of: Candidate }) {
  return <span class="mark unfinished">{of.mode === "canary" ? `canary on ${figure(of.percent ?? 0)} % of the sessions` : "shadow"}</span>;
}

function Tried({ of }: { of: Candidate }) {
  return (
    <>
      <p>
        {of.mode === "canary"
          ? "It judges the events of a share of the sessions for their senders. If it breaks, the module that serves judges them."
          : "It judges copies of the events. No answer and no stored event depends on it."}
      </p>
      <Code text={of.digest} label="Digest of the candidate" />
      <dl class="fields">
        {of.since !== null && (
          <>
            <dt>Tried so since</dt>
            <dd>
              <Time at={of.since} />
            </dd>
          </>
        )}
        {of.by !== null && (
          <>
            <dt>Shipped by</dt>
            <dd>
              <bdi>{legible(of.by)}</bdi>
            </dd>
          </>
        )}
        {of.auto !== null && (
          <>
            <dt>Promoted by itself while the guard is silent</dt>
            <dd>
              <Steps of={of.auto} />
            </dd>
          </>
        )}
        <dt>Guard</dt>
        <dd>{!of.guard ? "off: nothing takes it back" : of.expects_refusals ? "takes it back if it breaks or is slow; more refusals are meant" : "takes it back if it breaks, is slow, or refuses many more"}</dd>
      </dl>
      <Pairs of={of} />
    </>
  );
}

/** The steps of a candidate that is promoted by itself. */
function Steps({ of }: { of: NonNullable<Candidate["auto"]> }) {
  return (
    <ol class="steps">
      {of.steps.map(({ step, state, mode, percent: share, until, compared, compared_min: least }) => (
        <li key={step}>
          {mode === "shadow" ? "shadow" : `${figure(share ?? 0)} % of the sessions`}: <span class={`mark ${state === "done" ? "stored" : state === "running" ? "unfinished" : ""}`}>{state}</span>
          {state === "running" && until !== null && (
            <>
              {" "}
              until <Time at={until} />
              {compared < least && `, and until ${whole(least)} events were compared; now ${whole(compared)}`}
            </>
          )}
        </li>
      ))}
    </ol>
  );
}

type Application = Candidate["applications"][number];
const APPLICATIONS: readonly Column<Application>[] = [
  { title: "Application", wide: true, show: ({ application }) => (application === "" ? <span class="quiet">others</span> : <bdi>{legible(application)}</bdi>) },
  { title: "Compared", number: true, show: ({ compared }) => whole(compared) },
  { title: "Would refuse", number: true, show: ({ would_refuse: refused, compared }) => `${whole(refused)} (${percent(refused, compared)})` },
];

type Sample = Candidate["samples"][number];
const SAMPLES: readonly Column<Sample>[] = [
  {
    title: "Event",
    show: (sample) => <Where of={sample} />,
  },
  { title: "The candidate", show: ({ what }) => NAMES.get(what) ?? what },
  { title: "Where and why", wide: true, show: (sample) => <Reasons of={sample} /> },
  { title: "Application", show: ({ application }) => <bdi>{legible(application)}</bdi> },
  { title: "Received", show: ({ received_at: at }) => (at === null ? "–" : <Time at={at} />) },
];

/** The event is stored where the module that serves took it. */
function Where({ of }: { of: Sample }) {
  if (of.what === "would_take" || of.session_id === null) return <Short id={of.id} />;
  return (
    <a href={hrefOf("event", { session: of.session_id, id: of.id })}>
      <Short id={of.id} />
    </a>
  );
}

function Reasons({ of }: { of: Sample }) {
  if (of.fault !== null) return <code>{of.fault}</code>;
  const list = of.what === "would_take" ? of.old : of.new;
  if (list.length === 0) return <span class="quiet">–</span>;
  return (
    <>
      {list.map(({ pointer, code }, index) => (
        <span key={`${index} ${pointer} ${code}`}>
          <code>
            <bdi>{pointer === "" ? "the whole" : pointer}</bdi>
          </code>{" "}
          <code class="quiet">
            <bdi>{code}</bdi>
          </code>{" "}
        </span>
      ))}
    </>
  );
}

function Pairs({ of }: { of: Candidate }) {
  const { counts, compared } = of;
  return (
    <>
      <h3>Both on the same events</h3>
      {compared === 0 ? (
        <p class="quiet" role="status">
          Nothing was compared yet{counts.not_compared > 0 ? `; ${whole(counts.not_compared)} events found no room` : ": it waits for events"}.
        </p>
      ) : (
        <>
          <dl class="sums" aria-label="Pairs">
            {COUNTS.map(([name, words, mark]) => (
              <div key={name}>
                <dt class={mark === "" ? undefined : `mark ${mark}`}>{words}</dt>
                <dd>
                  <b>{whole(counts[name])}</b> <span class="quiet">{percent(counts[name], compared)}</span>
                </dd>
              </div>
            ))}
          </dl>
          <p class="quiet small">
            {whole(compared)} events were judged by both. The module that serves refused {whole(counts.old_refused)} of them, the candidate {whole(counts.new_refused)}.
            {counts.not_compared > 0 && ` ${whole(counts.not_compared)} more found no room and were not compared.`}
            {of.mode === "canary" && ` For senders the candidate judged ${whole(counts.judged)} events and refused ${whole(counts.judged_refused)}.`}
          </p>
          {of.applications.length > 1 && <Table label="By application" columns={APPLICATIONS} rows={of.applications} keyOf={({ application }) => application} />}
        </>
      )}
      {of.samples.length > 0 && (
        <>
          <h3>Some of the differences</h3>
          <Table label="Differences" columns={SAMPLES} rows={of.samples} keyOf={({ what, id }) => `${what} ${id}`} />
        </>
      )}
    </>
  );
}

function planOf(what: "promote" | "discard", slot: Slot, digest: string): Plan {
  const asked = (query: Record<string, boolean>) => ({ slot, digest, query, waitS: WAIT_S, answerMs: SHIP_MS });
  if (what === "discard") {
    return {
      title: "Discard the candidate",
      yes: "Discard it",
      not: "It was not discarded.",
      would: () => discard(asked({ dry_run: true })),
      make: () => discard(asked({})),
      says: () => (
        <p>
          The candidate <code>{digest}</code> is tried no more. The module that serves judges all events. Nothing that was stored changes.
        </p>
      ),
      reached: () => (
        <p>
          <b>It is discarded.</b>
        </p>
      ),
    };
  }
  return {
    title: "Promote the candidate",
    yes: "Promote it",
    not: "It was not promoted.",
    would: () => promote(asked({ dry_run: true })),
    make: (_, force) => promote(asked(force ? { force } : {})),
    says: ({ replaces }) => (
      <p>
        The candidate <code>{digest}</code> serves all events of this type
        {replaces !== null && <>, in place of <code>{replaces}</code></>}. For a while it is compared with what it replaces, and taken back if it breaks or refuses many
        more.
      </p>
    ),
    reached: ({ generation }) => (
      <p>
        <b>It serves.</b>
        {generation !== undefined && <> Generation {generation}.</>}
      </p>
    ),
  };
}
