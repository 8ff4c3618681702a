// One application: all that is known of it, its tokens with their last use, what was refused of it, and what can be done with
// it. What is asked before it is done has an address, so that the back button leaves it.
import { ArrowRightLeft, Ban, CirclePause, CirclePlay, History, Pencil, Radio, Search, TriangleAlert } from "lucide";
import { useEffect, useRef, useState } from "preact/hooks";
import { type Filters, go, hrefOf } from "../address";
import { get, Refused, type Schemas, send } from "../api/client";
import { Icon } from "../parts/icon";
import { useLoaded } from "../parts/loading";
import { Problem } from "../parts/problem";
import { type Column, Table } from "../parts/table";
import { number, Time, whole } from "../parts/words";
import { session } from "../session";
import { changeOf, type Draft, draftOf } from "./applications/draft";
import { EndOld, Resume, Revoke, Rotate, Suspend } from "./applications/ending";
import { Facts } from "./applications/facts";
import { ApplicationForm } from "./applications/form";
import { TokenOnce } from "./applications/token";
import { type Application, isInUse, refusalInWords, refusalsOf, type Token } from "./applications/words";
import "./applications/applications.css";

const EVERY = 2000;

export function ApplicationView({ filters }: { filters: Filters }) {
  const { name = "" } = filters;
  // What is shown of one application is forgotten before another is shown.
  return name === "" ? <NotThere /> : <One key={name} name={name} act={filters.act ?? ""} />;
}

function NotThere() {
  return (
    <p>
      There is no such application. <a href={hrefOf("applications")}>Go to all applications</a>.
    </p>
  );
}

function One({ name, act }: { name: string; act: string }) {
  const [changed, setChanged] = useState<Application | null>(null);
  const [token, setToken] = useState<string | null>(null);
  const [said, setSaid] = useState<string | null>(null);
  const [round, setRound] = useState(0);
  const { data, problem } = useLoaded(`${name} ${round}`, EVERY, (signal) => get("/v1/applications/{name}", undefined, { places: { name }, signal }));
  const shown = data ?? changed;
  if (shown === null || shown === undefined) {
    if (problem instanceof Refused && problem.status === 404) return <NotThere />;
    return problem === null ? <p class="quiet">…</p> : <Problem of={problem} doing="The application could not be read." />;
  }
  /** Shows what came of an act at once, and then what the gateway says of it. */
  const done = (now: Schemas["ApplicationWithToken"], what: string) => {
    const { token: made = null, ...application } = now;
    setChanged(application);
    setToken(made);
    setSaid(what);
    setRound((before) => before + 1);
    go("application", { name }, true);
  };
  const leave = () => {
    go("application", { name }, true);
    requestAnimationFrame(() => document.getElementById(`act-${act}`)?.focus());
  };
  return (
    <>
      {problem !== null && <Problem of={problem} doing="What is shown below is not up to date." />}
      {said !== null && act === "" && <Said text={said} hasToken={token !== null} />}
      {token !== null && <TokenOnce token={token} name={name} />}
      <Acting of={shown} act={act} done={done} leave={leave} />
      <section class="card" aria-labelledby="application">
        <div class="of-one">
          <h2 id="application">
            <bdi>{name}</bdi>
          </h2>
          <span class={`state ${shown.state}`}>{shown.state}</span>
        </div>
        <Acts of={shown} />
        <Facts of={shown} />
      </section>
      <div class="columns">
        <Tokens of={shown} />
        <Refusals of={shown} />
      </div>
    </>
  );
}

/** Says what was done. It gets the focus, unless a token does. */
function Said({ text, hasToken }: { text: string; hasToken: boolean }) {
  const place = useRef<HTMLParagraphElement>(null);
  useEffect(() => {
    if (!hasToken) place.current?.focus();
  }, [text]);
  return (
    <p class="notice say" role="status" ref={place} tabIndex={-1}>
      {text}
    </p>
  );
}

interface Given {
  of: Application;
  act: string;
  done: (now: Schemas["ApplicationWithToken"], what: string) => void;
  leave: () => void;
}

/** What is being done with it, if the address says so and its state allows it. */
function Acting({ of, act, done, leave }: Given) {
  const given = { of, done, leave, isOwn: session.value.kind === "in" && session.value.who.application === of.name };
  if (!actsOf(of).includes(act)) return null;
  switch (act) {
    case "change":
      return <Change key={of.name} {...given} />;
    case "suspend":
      return <Suspend {...given} />;
    case "resume":
      return <Resume {...given} />;
    case "rotate":
      return <Rotate {...given} />;
    case "end-old":
      return <EndOld {...given} />;
    case "revoke":
      return <Revoke {...given} />;
  }
  return null;
}

/** What can be done with an application in its state. */
function actsOf({ state, known_by, tokens }: Application): string[] {
  if (state === "revoked") return [];
  if (state === "suspended") return ["change", "resume", "revoke"];
  const ofTokens = known_by === "network" ? [] : tokens > 1 ? ["rotate", "end-old"] : ["rotate"];
  return ["change", ...ofTokens, "suspend", "revoke"];
}

const ACTS = {
  change: { title: "Change", icon: Pencil },
  rotate: { title: "Rotate", icon: ArrowRightLeft },
  suspend: { title: "Suspend", icon: CirclePause },
  resume: { title: "Resume", icon: CirclePlay },
  revoke: { title: "Revoke", icon: Ban },
};

function Acts({ of }: { of: Application }) {
  const { name } = of;
  const possible = actsOf(of);
  const events = [
    { view: "live", title: "Live", icon: Radio, filters: { application: name } },
    { view: "explore", title: "Events", icon: Search, filters: { application: name } },
    { view: "refused", title: "Refused events", icon: TriangleAlert, filters: { application: name } },
    { view: "audit", title: "Audit", icon: History, filters: { subject: name } },
  ];
  return (
    <div class="app-acts">
      <div class="acts">
        {Object.entries(ACTS)
          .filter(([act]) => possible.includes(act))
          .map(([act, { title, icon }]) => (
            <a key={act} id={`act-${act}`} class="button" href={hrefOf("application", { name, act })}>
              <Icon of={icon} /> {title}
            </a>
          ))}
        {possible.length === 0 && <span class="quiet">It was revoked, and stays so. Add an application of another name in its place.</span>}
      </div>
      <div class="acts">
        {events.map(({ view, title, icon, filters }) => (
          <a key={view} class="button" href={hrefOf(view, filters)}>
            <Icon of={icon} /> {title}
          </a>
        ))}
      </div>
    </div>
  );
}

function Change({ of, done, leave, isOwn }: Omit<Given, "act"> & { isOwn: boolean }) {
  const heading = useRef<HTMLHeadingElement>(null);
  const [same, setSame] = useState(false);
  // What is in force when the form opens is what the form is compared with.
  const [before] = useState(of);
  useEffect(() => heading.current?.focus(), []);
  const submit = async (draft: Draft) => {
    const body = changeOf(draft, before);
    setSame(body === null);
    if (body === null) return;
    const now = await send<Application>("PATCH", "/v1/applications/{name}", { places: { name: of.name }, body });
    done(now, "It was changed. This gateway follows it now, the others within a second.");
  };
  const warning = ({ scopes }: Draft) => (isOwn && !scopes.includes("admin") ? "You are signed in as this application: you lose this page." : null);
  return (
    <section class="card ask" aria-labelledby="change" onKeyDown={(event) => event.key === "Escape" && leave()}>
      <h2 id="change" ref={heading} tabIndex={-1}>
        Change <bdi>{of.name}</bdi>
      </h2>
      <ApplicationForm
        start={draftOf(before)}
        before={before}
        submit={submit}
        yes="Change it"
        doing="It was not changed."
        warning={warning}
        beside={
          <>
            <button type="button" onClick={leave}>
              Leave it
            </button>
            <span role="status">{same && "Nothing differs from what is in force."}</span>
          </>
        }
      />
    </section>
  );
}

const TOKEN_COLUMNS: readonly Column<Token & { isOldest: boolean }>[] = [
  { title: "Token", show: ({ id, isOldest }) => <><code>{id}</code>{isOldest && <span class="quiet small"> the older one</span>}</> },
  { title: "Made", show: ({ created_at: at }) => (at === null ? "not known" : <Time at={at} />) },
  { title: "Last use", show: ({ last_used_at: at }) => (at === null ? "never" : <Time at={at} />) },
  { title: "Ends", show: ({ expires_at: at }) => (at === null ? "never" : <Time at={at} />) },
];

function Tokens({ of }: { of: Application }) {
  const { token_details: tokens, known_by, name } = of;
  const [old, fresh] = tokens;
  const rows = tokens.map((one, index) => ({ ...one, isOldest: tokens.length > 1 && index === 0 }));
  return (
    <section class="card" aria-labelledby="tokens">
      <h2 id="tokens">Tokens</h2>
      {rows.length === 0 ? (
        <p class="quiet">{known_by === "network" ? "It is known by its networks, without a token." : of.state === "revoked" ? "Its tokens have ended." : "It has none that lives."}</p>
      ) : (
        <Table label="Tokens" columns={TOKEN_COLUMNS} rows={rows} keyOf={({ id }) => id} />
      )}
      {old !== undefined && fresh !== undefined && of.state === "active" && (
        <>
          <p class="small">
            {fresh.last_used_at === null
              ? "Both are live. Nobody has used the new one yet: put it where the application keeps its secrets."
              : isInUse(old)
                ? "Both are live, and the older one was used within the last day: somebody still has it."
                : "Both are live. The older one was not used for a day: it can end."}
          </p>
          <p class="acts">
            <a class="button" id="act-end-old" href={hrefOf("application", { name, act: "end-old" })}>
              End the older one
            </a>
          </p>
        </>
      )}
      <p class="quiet small">The last use is noted to a minute or so. The ids lead back to no token.</p>
    </section>
  );
}

const REFUSAL_COLUMNS: readonly Column<{ kind: string; count: number }>[] = [
  { title: "Why", wide: true, show: ({ kind }) => <><code>{kind}</code> <span class="quiet">{refusalInWords(kind)}</span></> },
  { title: "Requests", number: true, show: ({ count }) => <span title={whole(count)}>{number(count)}</span> },
];

function Refusals({ of }: { of: Application }) {
  const rows = refusalsOf(of);
  return (
    <section class="card" aria-labelledby="refusals">
      <h2 id="refusals">Refused</h2>
      {rows === null ? (
        <p class="quiet">This gateway does not know it yet.</p>
      ) : rows.length === 0 ? (
        <p class="quiet">This gateway has refused it nothing since it started.</p>
      ) : (
        <Table label="Refusals" columns={REFUSAL_COLUMNS} rows={rows} keyOf={({ kind }) => kind} />
      )}
      <p class="quiet small">
        Since this gateway started, and by this gateway alone. Events that a validator or a rule refused are <a href={hrefOf("refused", { application: of.name })}>refused events</a>.
      </p>
    </section>
  );
}
