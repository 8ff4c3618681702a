// "Would it pass now?" and the redrive of what would: for one letter, for chosen ones, or for all of a filter.
import { FlaskConical, RotateCcw, Square } from "lucide";
import { useEffect, useLayoutEffect, useRef, useState } from "preact/hooks";
import { hrefOf } from "../../address";
import { Refused, Unreachable } from "../../api/client";
import { type Choice, ENDS, judgeAgain, type Progress } from "../../api/redrive";
import { Icon } from "../../parts/icon";
import { Problem } from "../../parts/problem";
import { number, whole } from "../../parts/words";
import { may } from "../../session";

type State =
  | { kind: "resting" }
  | { kind: "asking" }
  | { kind: "working"; dry: boolean; progress: Progress | null }
  | { kind: "done"; dry: boolean; progress: Progress; stopped: boolean }
  | { kind: "failed"; dry: boolean; problem: Refused | Unreachable; progress: Progress | null };

/** What each end means, said of a dry run and of a redrive. */
const WORDS: Record<(typeof ENDS)[number], [string, string]> = {
  stored: ["would be stored", "stored"],
  duplicate: ["are stored already", "were stored already"],
  rejected: ["would be rejected again", "rejected again"],
  quarantined: ["would be quarantined again", "quarantined again"],
  skipped: ["cannot be judged again", "could not be judged again"],
};

interface Given {
  choice: Choice;
  /** What is chosen, in words such as "12 letters". */
  what: string;
  /** How many letters are chosen, if that is known. */
  count: number | null;
  /** Called after a redrive has changed letters. */
  changed: () => void;
}

export function Again({ choice, what, count, changed }: Given) {
  const key = JSON.stringify(choice);
  const [state, setState] = useState<State>({ kind: "resting" });
  const control = useRef<AbortController | null>(null);
  const confirm = useRef<HTMLButtonElement>(null);
  useEffect(() => {
    setState({ kind: "resting" });
    return () => control.current?.abort();
  }, [key]);
  useLayoutEffect(() => {
    if (state.kind === "asking") confirm.current?.focus();
  }, [state.kind]);

  const run = async (dry: boolean) => {
    const made = new AbortController();
    control.current = made;
    let last: Progress | null = null;
    setState({ kind: "working", dry, progress: null });
    try {
      const progress = await judgeAgain(choice, dry, made.signal, (told) => {
        last = told;
        setState({ kind: "working", dry, progress: told });
      });
      setState({ kind: "done", dry, progress, stopped: false });
    } catch (error) {
      if (made.signal.aborted) {
        setState(last === null ? { kind: "resting" } : { kind: "done", dry, progress: last, stopped: true });
      } else if (error instanceof Refused || error instanceof Unreachable) {
        setState({ kind: "failed", dry, problem: error, progress: last });
      } else {
        throw error;
      }
    }
    if (!dry) changed();
  };
  const isBusy = state.kind === "working";
  const mayStore = may("admin") || may("ship");
  return (
    <div class="again">
      <div class="bar-of-list start">
        <button type="button" onClick={() => void run(true)} disabled={isBusy}>
          <Icon of={FlaskConical} /> Would {what === "this letter" ? "it" : "they"} pass now?
        </button>
        {mayStore && state.kind !== "asking" && (
          <button type="button" onClick={() => setState({ kind: "asking" })} disabled={isBusy}>
            <Icon of={RotateCcw} /> Redrive…
          </button>
        )}
        {isBusy && (
          <button type="button" class="plain" onClick={() => control.current?.abort()}>
            <Icon of={Square} /> Stop
          </button>
        )}
      </div>
      {state.kind === "asking" && (
        <div class="ask" role="group" aria-label="Redrive">
          <p>
            The gateway judges {what} again, by all rules of now. Those that pass are stored, each once at most; the others stay as they are.
          </p>
          <div class="bar-of-list start">
            <button type="button" class="primary" ref={confirm} onClick={() => void run(false)}>
              <Icon of={RotateCcw} /> Redrive {what}
            </button>
            <button type="button" onClick={() => setState({ kind: "resting" })}>
              Cancel
            </button>
          </div>
        </div>
      )}
      {(state.kind === "working" || state.kind === "done") && <Shown state={state} count={count} />}
      {state.kind === "failed" && (
        <>
          {state.progress !== null && <Sums progress={state.progress} dry={state.dry} />}
          <Problem of={state.problem} doing={state.dry ? "The letters could not be judged." : "The redrive was broken off. What was stored before is stored; it can be repeated."} />
        </>
      )}
    </div>
  );
}

function Shown({ state, count }: { state: Extract<State, { kind: "working" | "done" }>; count: number | null }) {
  const { progress, dry } = state;
  const isDone = state.kind === "done";
  return (
    <>
      {!isDone && <progress aria-label={dry ? "Dry run" : "Redrive"} {...(count === null ? {} : { max: Math.max(count, 1), value: Math.min(progress?.done ?? 0, count) })} />}
      <div role="status">
        {isDone ? (
          <p class="notice">
            {dry ? "Nothing was changed. " : ""}
            {progress?.done === 0 ? "There was nothing to judge: no letter of this choice can be judged again." : `${whole(progress?.done ?? 0)} judged${state.stopped ? ", then stopped" : ""}: ${sentence(progress, dry)}.`}
          </p>
        ) : (
          <p class="quiet">{progress === null ? "Judging…" : `${number(progress.done)} judged…`}</p>
        )}
      </div>
      {progress !== null && isDone && <Failures progress={progress} dry={dry} />}
    </>
  );
}

function sentence(progress: Progress | null, dry: boolean): string {
  if (progress === null) return "";
  const told = ENDS.filter((end) => progress[end] > 0).map((end) => `${whole(progress[end])} ${WORDS[end][dry ? 0 : 1]}`);
  return told.join(", ");
}

function Sums({ progress, dry }: { progress: Progress; dry: boolean }) {
  return (
    <p class="quiet">
      {whole(progress.done)} judged: {sentence(progress, dry)}.
    </p>
  );
}

/** Why some would not pass, or did not. */
function Failures({ progress, dry }: { progress: Progress; dry: boolean }) {
  const { failures } = progress;
  if (failures.length === 0) return null;
  const all = progress.done - progress.stored - progress.duplicate;
  return (
    <details open={failures.length <= 5}>
      <summary>
        Why {whole(all)} {dry ? "would not pass" : "did not pass"}
      </summary>
      <ul class="failures">
        {failures.map(({ id, outcome, code, detail, violations }) => (
          <li key={id}>
            <a href={hrefOf("letter", { id })}>
              <span class={`mark ${outcome === "skipped" ? "unfinished" : outcome}`}>{violations?.[0]?.code ?? code ?? outcome}</span> <bdi>{violations?.[0]?.message ?? detail ?? ""}</bdi>
            </a>
          </li>
        ))}
      </ul>
      {all > failures.length && <p class="quiet">The first {failures.length} of them.</p>}
    </details>
  );
}
