// The parts of a form: a field with its name, a hint and what is wrong with it, and a question that the page asks before it
// does what cannot be taken back.
import { TriangleAlert } from "lucide";
import type { ComponentChild, ComponentChildren } from "preact";
import { useEffect, useRef, useState } from "preact/hooks";
import { Refused, Unreachable } from "../api/client";
import { Icon } from "./icon";
import { Problem } from "./problem";
import "./form.css";

/** What an input has to have, so that its field names and describes it. */
export interface ForInput {
  id: string;
  "aria-describedby"?: string;
  "aria-invalid"?: "true";
}

interface Given {
  id: string;
  label: string;
  hint?: ComponentChild;
  /** Why it was not taken. */
  error?: string | undefined;
  children: (given: ForInput) => ComponentChild;
}

export function FormField({ id, label, hint, error, children }: Given) {
  const told = [hint !== undefined ? `${id}-hint` : "", error !== undefined ? `${id}-error` : ""].filter((one) => one !== "").join(" ");
  return (
    <div class="form-field">
      <label for={id}>{label}</label>
      {children({ id, ...(told === "" ? {} : { "aria-describedby": told }), ...(error === undefined ? {} : { "aria-invalid": "true" }) })}
      {error !== undefined && (
        <p id={`${id}-error`} class="bad small">
          <bdi>{error}</bdi>
        </p>
      )}
      {hint !== undefined && (
        <p id={`${id}-hint`} class="quiet small">
          {hint}
        </p>
      )}
    </div>
  );
}

/** What the gateway says of one field, without the name of the parameter, which the field has already. */
export function saidOf(refused: Refused, parameter: string): string {
  const { detail = refused.problem.title } = refused.problem;
  const start = `\`${parameter}\`: `;
  return detail.startsWith(start) ? detail.slice(start.length) : detail;
}

interface Question {
  id: string;
  title: ComponentChild;
  children: ComponentChildren;
  /** The word on the button that does it. */
  yes: string;
  /** It takes something away. */
  isGrave?: boolean;
  act: () => Promise<void>;
  leave: () => void;
  doing: string;
}

/** Asks before something is done. The question gets the focus, Escape leaves it, and what the gateway refuses is told in it. */
export function Ask({ id, title, children, yes, isGrave = false, act, leave, doing }: Question) {
  const heading = useRef<HTMLHeadingElement>(null);
  const [problem, setProblem] = useState<Refused | Unreachable | null>(null);
  const [busy, setBusy] = useState(false);
  useEffect(() => heading.current?.focus(), []);
  const submit = async (event: Event) => {
    event.preventDefault();
    if (busy) return;
    setBusy(true);
    setProblem(null);
    try {
      await act();
    } catch (error) {
      setProblem(knownProblem(error));
    } finally {
      setBusy(false);
    }
  };
  return (
    <section class="card ask" aria-labelledby={id} onKeyDown={(event) => event.key === "Escape" && leave()}>
      <h2 id={id} ref={heading} tabIndex={-1}>
        {title}
      </h2>
      <form class="form" onSubmit={submit} noValidate>
        {children}
        {problem !== null && <NotDone of={problem} doing={doing} />}
        <div class="form-acts">
          <button type="submit" class={isGrave ? "grave" : "primary"} aria-disabled={busy}>
            {yes}
          </button>
          <button type="button" onClick={leave}>
            Leave it
          </button>
        </div>
      </form>
    </section>
  );
}

/** What the gateway said, or that it said nothing. All else is a fault of the page. */
export function knownProblem(error: unknown): Refused | Unreachable {
  if (error instanceof Refused || error instanceof Unreachable) return error;
  throw error;
}

/** Why a change was not made. Of a gateway that does not answer nobody knows whether it has made it. */
export function NotDone({ of, doing }: { of: Refused | Unreachable; doing: string }) {
  if (of instanceof Refused) return <Problem of={of} doing={doing} />;
  return (
    <div class="problem" role="alert">
      <Icon of={TriangleAlert} />
      <div>
        <strong>The gateway does not answer.</strong>
        <p>It may have done this all the same. Look at what it shows before you do it again.</p>
      </div>
    </div>
  );
}
