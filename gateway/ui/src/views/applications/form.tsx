// The form of an application, to add one and to change one.
import type { ComponentChild, ComponentChildren } from "preact";
import { useState } from "preact/hooks";
import { Refused, type Unreachable } from "../../api/client";
import { FormField, knownProblem, NotDone, saidOf } from "../../parts/form";
import type { Scope } from "../../session";
import { type Draft, type Errors, faultsOf, touchedOf } from "./draft";
import { type Application, consequences, SCOPES } from "./words";

interface Given {
  start: Draft;
  /** What is in force; null for a new application. */
  before: Application | null;
  submit: (draft: Draft) => Promise<void>;
  yes: string;
  doing: string;
  /** Beside the button that submits. */
  beside: ComponentChild;
  /** What else there is to say of this change. */
  warning?: ((draft: Draft) => string | null) | undefined;
}

type Set = <K extends keyof Draft>(name: K, value: Draft[K]) => void;
interface Part {
  draft: Draft;
  errors: Errors;
  set: Set;
}

const TYPES_HINT = (
  <>
    One a line: <code>category/name</code>, or <code>category/*</code> for all of a category. Within a word write <code>%2F</code> for a slash,{" "}
    <code>%2A</code> for a star and <code>%25</code> for a percent sign.
  </>
);

export function ApplicationForm({ start, before, submit, yes, doing, beside, warning }: Given) {
  const [draft, setDraft] = useState(start);
  const [errors, setErrors] = useState<Errors>({});
  const [problem, setProblem] = useState<Refused | Unreachable | null>(null);
  const [isWide, setWide] = useState(false);
  const [busy, setBusy] = useState(false);
  const set: Set = (name, value) => {
    setDraft((now) => ({ ...now, [name]: value }));
    setErrors(({ [name]: _, ...rest }) => rest);
  };
  const told = (errors: Errors) => {
    setErrors(errors);
    const first = Object.keys(errors)[0];
    if (first !== undefined) requestAnimationFrame(() => document.getElementById(`app-${first}`)?.focus());
  };
  const refuse = (error: unknown) => {
    const known = knownProblem(error);
    const field = known instanceof Refused ? fieldOf(known) : null;
    if (!(known instanceof Refused) || field === null || document.getElementById(`app-${field}`) === null) return setProblem(known);
    if (known.problem.detail?.includes("--force") === true) setWide(true);
    told({ [field]: saidOf(known, field) });
  };
  const send = async (event: Event) => {
    event.preventDefault();
    if (busy) return;
    setProblem(null);
    const faults = { ...faultsOf(draft), ...(before === null && draft.scopes.length === 0 ? { scopes: "Choose what it may do." } : {}) };
    if (Object.keys(faults).length > 0) return told(faults);
    setBusy(true);
    try {
      await submit(draft);
    } catch (error) {
      refuse(error);
    } finally {
      setBusy(false);
    }
  };
  const part = { draft, errors, set };
  return (
    <form class="form" onSubmit={send} noValidate autocomplete="off">
      {problem !== null && <NotDone of={problem} doing={doing} />}
      <Naming {...part} isNew={before === null} />
      <Scopes {...part} />
      <Proof {...part} isNew={before === null} isWide={isWide} />
      <Rate {...part} />
      <Types {...part} />
      {before !== null && <Meaning before={before} draft={draft} more={warning?.(draft) ?? null} />}
      <div class="form-acts">
        <button type="submit" class="primary" aria-disabled={busy}>
          {yes}
        </button>
        {beside}
      </div>
    </form>
  );
}

/** The field that the gateway found fault with, if it names one. */
function fieldOf(refused: Refused): string | null {
  return refused.code === "exists" ? "name" : (refused.problem.parameter ?? null);
}

function Text({ draft, errors, set, name, label, hint, ...more }: Part & { name: "name" | "note" | "expires" | "events_per_second" | "burst_events"; label: string; hint?: ComponentChild; placeholder?: string; inputMode?: "numeric" }) {
  return (
    <FormField id={`app-${name}`} label={label} hint={hint} error={errors[name]}>
      {(given) => <input type="text" {...given} {...more} value={draft[name]} spellcheck={false} onInput={(event) => set(name, event.currentTarget.value)} />}
    </FormField>
  );
}

function Lines({ draft, errors, set, name, label, hint }: Part & { name: "networks" | "certificates" | "event_types" | "read_event_types" | "read_applications" | "ship_event_types"; label: string; hint: ComponentChild }) {
  return (
    <FormField id={`app-${name}`} label={label} hint={hint} error={errors[name]}>
      {(given) => <textarea {...given} rows={3} value={draft[name]} spellcheck={false} onInput={(event) => set(name, event.currentTarget.value)} />}
    </FormField>
  );
}

function Check({ isOn, change, id, children }: { isOn: boolean; change: (isOn: boolean) => void; id?: string; children: ComponentChildren }) {
  return (
    <label class="form-check">
      <input type="checkbox" {...(id === undefined ? {} : { id })} checked={isOn} onChange={(event) => change(event.currentTarget.checked)} />
      <span>{children}</span>
    </label>
  );
}

function Naming({ isNew, ...part }: Part & { isNew: boolean }) {
  return (
    <>
      {isNew && <Text {...part} name="name" label="Name" hint="What events, metrics and the audit trail call it. It never changes, and is never given again." />}
      <Text {...part} name="note" label="Note" hint="What its operators want to remember of it, on one line: whom to ask, say." />
    </>
  );
}

function Scopes({ draft, errors, set }: Part) {
  const toggle = (scope: Scope, isOn: boolean) => {
    const chosen = SCOPES.map((one) => one.scope).filter((one) => (one === scope ? isOn : draft.scopes.includes(one)));
    set("scopes", chosen);
  };
  return (
    <fieldset id="app-scopes" tabIndex={-1} class="form-checks" {...(errors.scopes === undefined ? {} : { "aria-describedby": "app-scopes-error" })}>
      <legend>It may</legend>
      {SCOPES.map(({ scope, means }) => (
        <Check key={scope} isOn={draft.scopes.includes(scope)} change={(isOn) => toggle(scope, isOn)}>
          <code>{scope}</code> <span class="quiet">{means}</span>
        </Check>
      ))}
      {errors.scopes !== undefined && (
        <p id="app-scopes-error" class="bad small">
          {errors.scopes}
        </p>
      )}
    </fieldset>
  );
}

const KNOWN_BY: readonly { way: Draft["known_by"]; means: string }[] = [
  { way: "token", means: "its token or certificate, from everywhere" },
  { way: "network", means: "its networks, without a token" },
  { way: "both", means: "its token or certificate, from its networks alone" },
];

function Proof({ isNew, isWide, ...part }: Part & { isNew: boolean; isWide: boolean }) {
  const { draft, errors, set } = part;
  return (
    <>
      {isNew ? (
        <fieldset class="form-checks">
          <legend>It is known by</legend>
          <Check id="app-token" isOn={draft.token} change={(isOn) => set("token", isOn)}>
            a token, which the gateway makes <span class="quiet">and shows once</span>
          </Check>
        </fieldset>
      ) : (
        <fieldset id="app-known_by" tabIndex={-1} class="form-checks" {...(errors.known_by === undefined ? {} : { "aria-describedby": "app-known_by-error" })}>
          <legend>It is known by</legend>
          {KNOWN_BY.map(({ way, means }) => (
            <label key={way} class="form-check">
              <input type="radio" name="app-known_by" checked={draft.known_by === way} onChange={() => set("known_by", way)} />
              <span>{means}</span>
            </label>
          ))}
          {errors.known_by !== undefined && (
            <p id="app-known_by-error" class="bad small">
              {errors.known_by}
            </p>
          )}
        </fieldset>
      )}
      {isNew && draft.token && <Text {...part} name="expires" label="The token ends" placeholder="never" hint="After a time, such as 90d or 12h, or at a date, such as 2027-01-31. Empty: never." />}
      <Lines
        {...part}
        name="networks"
        label="Networks"
        hint={isNew ? "One a line, such as 10.0.0.0/8. With a token, a caller needs both. Without one, each caller from these networks counts as it." : "One a line, such as 10.0.0.0/8."}
      />
      {(isWide || draft.force) && (
        <Check isOn={draft.force} change={(isOn) => set("force", isOn)}>
          I mean it: this large a network may have these scopes
        </Check>
      )}
      <Lines {...part} name="certificates" label="Client certificates" hint="One a line: the SHA-256 of a certificate, 64 hexadecimal digits. For gateways that ask callers for certificates." />
    </>
  );
}

function Rate(part: Part) {
  return (
    <div class="form-pair">
      <Text {...part} name="events_per_second" label="Events a second" placeholder="no limit" inputMode="numeric" hint="At each gateway, in the long run." />
      <Text {...part} name="burst_events" label="Events at once" placeholder="as many as a second" inputMode="numeric" hint="No request may have more." />
    </div>
  );
}

/** Limits of what it may not do anyway are left out, unless they hold something. */
function Types(part: Part) {
  const { draft } = part;
  const has = (scope: Scope) => draft.scopes.includes(scope);
  return (
    <>
      {(has("ingest") || has("admin") || draft.event_types !== "") && (
        <Lines {...part} name="event_types" label="Event types that it may send" hint={<>Empty: all. {TYPES_HINT}</>} />
      )}
      {(has("read") || has("raw") || draft.read_event_types !== "") && (
        <Lines {...part} name="read_event_types" label="Event types that it may read" hint="Empty: all. All else does not exist for it." />
      )}
      {(has("read") || has("raw") || draft.read_applications !== "") && (
        <Lines {...part} name="read_applications" label="Applications whose events it may read" hint="One name a line. Empty: all." />
      )}
      {(has("ship") || draft.ship_event_types !== "") && (
        <Lines {...part} name="ship_event_types" label="Event types whose modules it may push" hint="Empty: all. It reads the events of these types too." />
      )}
    </>
  );
}

function Meaning({ before, draft, more }: { before: Application; draft: Draft; more: string | null }) {
  const told = [...consequences(before, touchedOf(draft, before)), ...(more === null ? [] : [more])];
  if (told.length === 0) return null;
  return (
    <div class="notice" role="group" aria-label="What this will mean">
      <b>What this will mean, on all gateways within a second</b>
      <ul class="told">
        {told.map((one) => (
          <li key={one}>{one}</li>
        ))}
      </ul>
    </div>
  );
}
