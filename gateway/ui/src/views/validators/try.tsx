// Pastes an event and shows what would become of it. Nothing is stored.
import { FlaskConical } from "lucide";
import { useEffect, useRef, useState } from "preact/hooks";
import { get, parsed, Refused, send, type Schemas, Unreachable } from "../../api/client";
import { isSame, type Slot } from "../../api/modules";
import { Icon } from "../../parts/icon";
import { Json, type Mark as Marked } from "../../parts/json";
import { Problem } from "../../parts/problem";
import { Busy } from "./progress";

type Violation = Schemas["Violation"];
type Receipt = { id: string; would?: string; code?: string };
type Receipts = Schemas["Receipts"];
/** With the text that was judged: what stands in the field may be another one by now. */
type Answer = { kind: "asking" } | { kind: "told"; text: string; told: Receipt | Receipts } | { kind: "failed"; text: string; problem: Refused | Unreachable };

/** Asks what would become of an event. */
async function judged(text: string, query: Record<string, boolean>): Promise<Answer> {
  try {
    const body = new Blob([text], { type: "application/json" });
    return { kind: "told", text, told: await send<Receipt | Receipts>("POST", "/v1/events", { query: { dry_run: true, ...query }, body }) };
  } catch (error) {
    if (!(error instanceof Refused) && !(error instanceof Unreachable)) throw error;
    return { kind: "failed", text, problem: error };
  }
}

/** Events among which one is looked for that this module judged. */
const LOOKED = 20;

/** An event to begin with: one that this module took, or an empty one. */
async function sample(slot: Slot, digest: string | null, signal: AbortSignal): Promise<{ text: string; isReal: boolean }> {
  const query = { ...(slot.category === null ? {} : { category: slot.category }), ...(slot.name === null ? {} : { name: slot.name }), limit: LOOKED };
  const { events } = await get("/v1/events", query, { signal });
  const found = events.find(({ validator }) => validator === digest) ?? (slot.name === null ? undefined : events[0]);
  const made = {
    session_id: found?.session_id ?? "e2085be5-9137-4e4e-80b5-f1ffddc25423",
    category: found?.category ?? slot.category ?? "",
    name: found?.name ?? slot.name ?? "",
    timestamp: new Date().toISOString(),
    data: found?.data ?? {},
  };
  return { text: JSON.stringify(made, null, 2), isReal: found !== undefined };
}

export function Try({ slot, digest, candidate }: { slot: Slot; digest: string | null; candidate: string | null }) {
  const [text, setText] = useState("");
  const [isReal, setReal] = useState<boolean | null>(null);
  const [answer, setAnswer] = useState<Answer | null>(null);
  const [other, setOther] = useState<Answer | null>(null);
  const field = useRef<HTMLTextAreaElement>(null);
  const touched = useRef(false);
  useEffect(() => {
    const control = new AbortController();
    sample(slot, digest, control.signal).then(
      (made) => {
        if (touched.current) return;
        setText(made.text);
        setReal(made.isReal);
      },
      (error: unknown) => {
        if (!control.signal.aborted && !(error instanceof Refused) && !(error instanceof Unreachable)) throw error;
      },
    );
    return () => control.abort();
  }, []);
  const judge = async (event: Event) => {
    event.preventDefault();
    setAnswer({ kind: "asking" });
    setOther(null);
    const [own, others] = await Promise.all([judged(text, {}), candidate === null ? null : judged(text, { candidate: true })]);
    setAnswer(own);
    setOther(others);
  };
  const show = (line: number, column: number) => {
    const place = placeOf(text, line, column);
    field.current?.focus();
    field.current?.setSelectionRange(place, place + 1);
  };
  return (
    <section class="card try" aria-labelledby="try">
      <h2 id="try">Try an event</h2>
      <form onSubmit={judge}>
        <label for="event-to-try">An event as JSON. It is judged by what serves now, and nothing is stored.</label>
        <textarea
          id="event-to-try"
          ref={field}
          value={text}
          rows={14}
          spellcheck={false}
          onInput={(event) => {
            touched.current = true;
            setText(event.currentTarget.value);
          }}
          onKeyDown={(event) => {
            if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) void judge(event);
          }}
        />
        <p class="quiet small">
          {isReal === true ? "It begins with the data of the newest stored event of this type. " : isReal === false ? "No such event is stored yet, so its data are empty. " : ""}
          Control and Enter judge it too.
        </p>
        <button type="submit" class="primary" disabled={answer?.kind === "asking" || text.trim() === ""}>
          <Icon of={FlaskConical} /> Judge it
        </button>
      </form>
      <div class={other === null ? "verdicts" : "verdicts both"} aria-live="polite">
        {answer !== null && (
          <div class="verdict-of-try">
            {other !== null && <h3>For its sender</h3>}
            <Verdict answer={answer} slot={slot} digest={candidate === null ? digest : undefined} show={show} />
          </div>
        )}
        {other !== null && (
          <div class="verdict-of-try">
            <h3>By the candidate</h3>
            <Verdict answer={other} slot={slot} digest={candidate} show={show} />
          </div>
        )}
      </div>
    </section>
  );
}

/** What would become of the event. The module is told where it is known who judged: a canary may judge for the sender. */
function Verdict({ answer, slot, digest, show }: { answer: Answer; slot: Slot; digest: string | null | undefined; show: (line: number, column: number) => void }) {
  return (
    <>
      {answer.kind === "asking" && <Busy>The gateway judges it…</Busy>}
      {answer.kind === "told" && ("results" in answer.told ? <Many of={answer.told} /> : <Told of={answer.told} />)}
      {answer.kind === "told" && digest !== undefined && <Judge slot={slot} text={answer.text} digest={digest} />}
      {answer.kind === "failed" && <Failed problem={answer.problem} text={answer.text} show={show} />}
    </>
  );
}

function Told({ of }: { of: Receipt }) {
  return (
    <p>
      It would be <Mark outcome={of.would ?? null} />
      {of.code !== undefined && (
        <>
          {" "}
          with the code <code>{of.code}</code> (<a href={`/problems/${encodeURIComponent(of.code)}`} target="_blank" rel="noreferrer">what it means</a>)
        </>
      )}
      .
    </p>
  );
}

function Mark({ outcome }: { outcome: string | null }) {
  return <span class={`mark ${outcome ?? "unfinished"}`}>{outcome ?? "unfinished"}</span>;
}

/** Which module that was, as far as the event says that it is of the type of this page. */
function Judge({ slot, text, digest }: { slot: Slot; text: string; digest: string | null }) {
  const own = typeOf(text);
  if (own === null) return null;
  if (isSame(slot, own)) return <p class="quiet small">{digest === null ? "No module of this type judged it." : <>Judged by <code>{digest}</code></>}</p>;
  const fits = slot.category === null || (slot.name === null && slot.category === own.category);
  return <p class="quiet small">{fits ? "A module of its own event type comes first, if there is one." : "It is of another event type than this page."}</p>;
}

/** The type that a text says to be of; null if it is not one event. */
function typeOf(text: string): Slot | null {
  const { category, name } = (parsed(text) ?? {}) as Partial<Slot>;
  return typeof category === "string" && typeof name === "string" ? { category, name } : null;
}

function Many({ of }: { of: Receipts }) {
  const sums = (["stored", "duplicate", "rejected", "quarantined", "unfinished"] as const).filter((outcome) => of[outcome] > 0);
  return (
    <>
      <p>
        They would be{" "}
        {sums.map((outcome) => (
          <span key={outcome}>
            {of[outcome]} <Mark outcome={outcome} />{" "}
          </span>
        ))}
      </p>
      <ul class="violations">
        {of.results.map((one) => (
          <li key={one.index}>
            Event {one.index + 1}: <Mark outcome={(one as { would?: string | null }).would ?? null} /> {one.code !== undefined && <code>{one.code}</code>}
            {one.violations !== undefined && <Violations list={one.violations} />}
          </li>
        ))}
      </ul>
    </>
  );
}

function Failed({ problem, text, show }: { problem: Refused | Unreachable; text: string; show: (line: number, column: number) => void }) {
  if (!(problem instanceof Refused)) return <Problem of={problem} doing="The event was not judged." />;
  const { line, column } = problem.problem;
  const { violations, validator, would } = problem.problem as Partial<Schemas["Rejection"]>;
  if (would === undefined || violations === undefined) {
    return (
      <>
        <Problem of={problem} doing={problem.status === 503 ? "It would have no outcome now." : "It was not judged."} />
        {line !== undefined && column !== undefined && (
          <button type="button" onClick={() => show(line, column)}>
            Go to line {line}, column {column}
          </button>
        )}
      </>
    );
  }
  return (
    <>
      <p>
        It would be <Mark outcome={would} /> with the code <code>{problem.code}</code> (
        <a href={`/problems/${encodeURIComponent(problem.code)}`} target="_blank" rel="noreferrer">
          what it means
        </a>
        ).
      </p>
      <Violations list={violations} />
      <Json key={text} value={parsed(text)} marks={marksOf(problem.code, violations)} label="The event, with what is wrong in its place" raw={text} />
      <p class="quiet small">
        {validator == null ? "The gateway itself refused it, before any module." : <>Judged by <bdi>{validator.event_type}</bdi>, <code>{validator.digest}</code></>}
      </p>
    </>
  );
}

/** Where violations are in the whole event: those of a rule point into its data. */
function marksOf(code: string, violations: readonly Violation[]): Marked[] {
  return violations.map((one) => (code === "rule" ? { ...one, pointer: `/data${one.pointer}` } : one));
}

function Violations({ list }: { list: readonly Violation[] }) {
  return (
    <ul class="violations">
      {list.map(({ pointer, code, message }) => (
        <li key={`${pointer} ${code} ${message}`}>
          <code class="pointer">
            <bdi>{pointer === "" ? "the whole" : pointer}</bdi>
          </code>
          <bdi>{message}</bdi> <code class="quiet">{code}</code>
        </li>
      ))}
    </ul>
  );
}

/** Where a line and a column, counted in characters, are in a text. */
function placeOf(text: string, line: number, column: number): number {
  const lines = text.split("\n");
  const before = lines.slice(0, line - 1).reduce((sum, each) => sum + each.length + 1, 0);
  return before + [...(lines[line - 1] ?? "")].slice(0, column - 1).join("").length;
}
