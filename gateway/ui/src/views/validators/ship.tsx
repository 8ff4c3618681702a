// Ships a module: first it is checked, as a push would be; then it serves in place of exactly what the check said that it
// replaces, or it is tried beside that, or past events are judged by it.
import { History, PackageCheck, Send, ShieldAlert } from "lucide";
import { useEffect, useRef, useState } from "preact/hooks";
import { type Mode, replay } from "../../api/candidates";
import { figure, Refused, send, Unreachable } from "../../api/client";
import { type ModuleChange, placesOf, type Slot } from "../../api/modules";
import { Icon } from "../../parts/icon";
import { bytes } from "../../parts/words";
import { type Chosen, FileField } from "./file";
import { isUnderWay, SHIP_MS, useChange, WAIT_S } from "./follow";
import { Busy, forceFor, ProgressOf, ShipProblem } from "./progress";
import { Replaying } from "./replayed";
import { hrefOfSlot, SlotName } from "./words";

const PATH = "/v1/validators/{category}/{name}";

type Check =
  | { kind: "none" }
  | { kind: "checking" }
  | { kind: "refused"; problem: Refused | Unreachable }
  | { kind: "taken"; would: ModuleChange; forced: boolean };

interface Given {
  /** The event types that it is for; null while they are not known. */
  slot: Slot | null;
  from: "directory" | "database" | undefined;
  /** Called when a push has ended, well or not. */
  after: () => void;
  /** A file was chosen. */
  named?: (file: string) => void;
  /** The page of the event type is elsewhere. */
  elsewhere?: boolean;
}

/** What becomes of a module that was checked. */
interface Use {
  mode: Mode | "replay";
  /** The share of the sessions that a canary judges, as it was typed. */
  percent: string;
  /** The time of a replay. */
  last: string;
}

const SERVE: Use = { mode: "live", percent: "5", last: "1d" };

/** The parameters that say how a module is used. */
const queryOf = ({ mode, percent }: Use): Record<string, string> => (mode === "shadow" || mode === "canary" ? { mode, ...(mode === "canary" ? { percent } : {}) } : {});

/** Asks whether the gateway would take a module. */
function check(slot: Slot, content: Blob, force: boolean): Promise<ModuleChange> {
  return send<ModuleChange>("PUT", PATH, { places: placesOf(slot), query: { dry_run: true, ...(force ? { force } : {}) }, body: content, answerMs: SHIP_MS });
}

function push(slot: Slot, content: Blob, replaces: string | null, commit: string, force: boolean, use: Use): Promise<ModuleChange> {
  // A candidate replaces nothing that serves.
  const condition: Record<string, string> = use.mode !== "live" ? {} : replaces === null ? { "if-none-match": "*" } : { "if-match": `"${replaces}"` };
  return send<ModuleChange>("PUT", PATH, {
    places: placesOf(slot),
    query: { commit, ...queryOf(use), ...(force ? { force } : {}) },
    headers: { prefer: `wait=${WAIT_S}`, ...condition },
    body: content,
    answerMs: SHIP_MS,
  });
}

export function Ship({ slot, from, after, named, elsewhere = false }: Given) {
  const [file, setFile] = useState<Chosen | null>(null);
  const [checked, setChecked] = useState<Check>({ kind: "none" });
  const [commit, setCommit] = useState("");
  const [use, setUse] = useState<Use>(SERVE);
  const [replayed, setReplayed] = useState<{ kind: "asking" } | { kind: "asked"; id: string } | { kind: "failed"; problem: Refused | Unreachable } | null>(null);
  const { progress, run, forget } = useChange(slot, after);
  const round = useRef(0);
  const key = slot === null ? null : `${slot.category} ${slot.name}`;
  const busy = isUnderWay(progress);

  const look = async (chosen: Chosen, of: Slot, force = false) => {
    const own = ++round.current;
    forget();
    setChecked({ kind: "checking" });
    let found: Check;
    try {
      found = { kind: "taken", would: await check(of, chosen.content, force), forced: force };
    } catch (error) {
      if (!(error instanceof Refused) && !(error instanceof Unreachable)) throw error;
      found = { kind: "refused", problem: error };
    }
    if (own === round.current) setChecked(found);
  };
  useEffect(() => {
    // What was checked for another event type says nothing of this one.
    round.current++;
    setChecked({ kind: "none" });
    setReplayed(null);
  }, [key]);
  const choose = (chosen: Chosen) => {
    setFile(chosen);
    setReplayed(null);
    named?.(chosen.name);
    setChecked({ kind: "none" });
    forget();
    if (slot !== null && !elsewhere) void look(chosen, slot);
  };
  const would = checked.kind === "taken" ? checked.would : null;
  const ship = (force: boolean) => {
    if (slot === null || file === null || would === null) return;
    void run(() => push(slot, file.content, would.replaces, commit.trim(), force || (checked.kind === "taken" && checked.forced), use), slot);
  };
  const askReplay = async () => {
    if (slot === null || file === null) return;
    setReplayed({ kind: "asking" });
    try {
      setReplayed({ kind: "asked", id: (await replay(slot, file.content, use.last, null)).id });
    } catch (error) {
      if (!(error instanceof Refused) && !(error instanceof Unreachable)) throw error;
      setReplayed({ kind: "failed", problem: error });
    }
  };
  const lifted = checked.kind === "refused" ? forceFor(checked.problem, from) : progress.kind === "failed" ? forceFor(progress.problem, from) : null;
  const hasFailed = progress.kind === "failed" || progress.kind === "refused";
  return (
    <div class="ship">
      <FileField label={file === null ? "Choose a module or a JSON Schema" : "Choose another file"} chosen={file} disabled={busy} choose={choose} />
      {elsewhere && (
        <button type="button" disabled={slot === null || file === null || busy || checked.kind === "checking"} onClick={() => file !== null && slot !== null && void look(file, slot)}>
          <Icon of={PackageCheck} /> Check it
        </button>
      )}
      <div aria-live="polite">
        {checked.kind === "checking" && <Busy>The gateway loads it and runs its examples…</Busy>}
        {would !== null && progress.kind === "idle" && <Would would={would} slot={slot} file={file} />}
      </div>
      {checked.kind === "refused" && <ShipProblem of={checked.problem} doing="The gateway would not take this file, and what serves was not touched." />}
      {would !== null && progress.kind === "idle" && (
        <div class="push">
          <UseField use={use} choose={setUse} canTry={would.replaces !== null} />
          {use.mode !== "replay" && (
            <label class="field">
              <span>Commit of its source (may stay empty)</span>
              <input type="text" value={commit} maxLength={200} spellcheck={false} placeholder="such as 3f2a91c" onInput={(event) => setCommit(event.currentTarget.value)} />
            </label>
          )}
          <button type="button" class="primary" disabled={replayed?.kind === "asking"} onClick={() => (use.mode === "replay" ? void askReplay() : ship(false))}>
            <Icon of={use.mode === "replay" ? History : Send} /> {WORDS[use.mode]}
            {checked.kind === "taken" && checked.forced && use.mode !== "replay" && " with force"}
          </button>
        </div>
      )}
      {replayed?.kind === "failed" && <ShipProblem of={replayed.problem} doing="It was not replayed." />}
      {replayed?.kind === "asked" && <Replaying key={replayed.id} id={replayed.id} />}
      <ProgressOf
        progress={progress}
        doing={{ now: "The gateway takes it over…", not: "It was not pushed." }}
        reached={progress.kind === "reached" && (progress.change.mode !== undefined ? <Tried change={progress.change} /> : <Reached change={progress.change} slot={slot} elsewhere={elsewhere} />)}
      />
      {hasFailed && slot !== null && file !== null && (
        <button type="button" onClick={() => void look(file, slot)}>
          <Icon of={PackageCheck} /> Check it again
        </button>
      )}
      {lifted !== null && slot !== null && file !== null && (
        <div class="force">
          <p>{lifted}</p>
          <button type="button" onClick={() => (checked.kind === "refused" ? void look(file, slot, true) : ship(true))}>
            <Icon of={ShieldAlert} /> {checked.kind === "refused" ? "Check it with force" : "Push it with force"}
          </button>
        </div>
      )}
    </div>
  );
}

function Would({ would, slot, file }: { would: ModuleChange; slot: Slot | null; file: Chosen | null }) {
  const isSame = would.digest === would.replaces;
  return (
    <div class="notice">
      <p>
        <b>The gateway would take it.</b> It fits the contract, it was loaded, and all its examples passed.
      </p>
      <dl class="fields">
        <dt>Judges</dt>
        <dd>{slot !== null && <SlotName slot={slot} />}</dd>
        <dt>Module</dt>
        <dd>
          <code>{would.digest}</code>
          {file !== null && <span class="quiet"> {bytes(file.content.size)}</span>}
        </dd>
        <dt>Replaces</dt>
        <dd>{would.replaces === null ? "nothing: no module has served these events" : isSame ? "itself: this very file serves already" : <code>{would.replaces}</code>}</dd>
        <dt>How</dt>
        <dd>
          {would.would === "prepare" ? "All gateways prepare it, and change to it together." : "It is written into the modules directory, and swapped in without a pause."}
        </dd>
      </dl>
    </div>
  );
}

function Reached({ change, slot, elsewhere }: { change: ModuleChange; slot: Slot | null; elsewhere: boolean }) {
  return (
    <>
      <p>
        <b>It serves.</b> State <code>{change.state ?? "active"}</code>
        {change.generation !== undefined && <>, generation {change.generation}</>}.{" "}
        {elsewhere && slot !== null && (
          <a href={hrefOfSlot(slot)}>
            Look at <SlotName slot={slot} />
          </a>
        )}
      </p>
      <p class="small">
        <code>{change.digest}</code>
        {change.replaces !== null && (
          <>
            {" "}
            in place of <code>{change.replaces}</code>
          </>
        )}
      </p>
    </>
  );
}

const WORDS: Readonly<Record<Use["mode"], string>> = { live: "Push it", shadow: "Try it as a shadow", canary: "Try it as a canary", replay: "Judge past events by it" };
const USES: readonly (readonly [Use["mode"], string, string])[] = [
  ["replay", "Replay", "past events, nothing changes"],
  ["shadow", "Shadow", "judges copies, nothing depends on it"],
  ["canary", "Canary", "judges a share of the sessions"],
  ["live", "Serve", "judges all events"],
];
const LAST = [
  ["1h", "the last hour"],
  ["1d", "the last day"],
  ["7d", "the last 7 days"],
  ["30d", "the last 30 days"],
] as const;

function UseField({ use, choose, canTry }: { use: Use; choose: (use: Use) => void; canTry: boolean }) {
  const canUse = (mode: Use["mode"]) => canTry || mode === "live" || mode === "replay";
  return (
    <fieldset class="uses">
      <legend>What to do with it</legend>
      {USES.filter(([mode]) => canUse(mode)).map(([mode, name, words]) => (
        <label key={mode}>
          <input type="radio" name="use" checked={use.mode === mode} onChange={() => choose({ ...use, mode })} /> {name} <span class="quiet small">{words}</span>
        </label>
      ))}
      {use.mode === "canary" && (
        <label class="field">
          <span>Percent of the sessions</span>
          <input type="number" min="0.001" max="100" step="any" value={use.percent} onInput={(event) => choose({ ...use, percent: event.currentTarget.value })} />
        </label>
      )}
      {use.mode === "replay" && (
        <label class="field">
          <span>Events of</span>
          <select value={use.last} onChange={(event) => choose({ ...use, last: event.currentTarget.value })}>
            {LAST.map(([last, words]) => (
              <option key={last} value={last}>
                {words}
              </option>
            ))}
          </select>
        </label>
      )}
    </fieldset>
  );
}

function Tried({ change }: { change: ModuleChange }) {
  return (
    <p>
      <b>It is tried</b> {change.mode === "canary" ? <>as a canary on {figure(change.percent ?? 0)} % of the sessions</> : "as a shadow"}. What it says beside the module that serves stands above, under
      Candidate.
    </p>
  );
}
