// A change that is shown before it is made: what would happen is asked of the gateway, then it wants a yes.
import { ShieldAlert } from "lucide";
import { useEffect, useId, useRef, useState } from "preact/hooks";
import { Refused, Unreachable } from "../../api/client";
import type { ModuleChange, Slot } from "../../api/modules";
import { Icon } from "../../parts/icon";
import { isUnderWay, useChange } from "./follow";
import { Busy, forceFor, ProgressOf, ShipProblem } from "./progress";

/** What is to be done. */
export interface Plan {
  title: string;
  /** The words of the button that does it. */
  yes: string;
  would: () => Promise<ModuleChange>;
  make: (would: ModuleChange, force: boolean) => Promise<ModuleChange>;
  /** What will happen, once the gateway has said it. */
  says: (would: ModuleChange) => preact.ComponentChild;
  reached: (change: ModuleChange) => preact.ComponentChild;
  not: string;
}

interface Given {
  plan: Plan;
  slot: Slot;
  from: "directory" | "database" | undefined;
  after: () => void;
  close: () => void;
}

export function ChangeOf({ plan, slot, from, after, close }: Given) {
  const id = useId();
  const [would, setWould] = useState<ModuleChange | Refused | Unreachable | null>(null);
  const { progress, run } = useChange(slot, after);
  const heading = useRef<HTMLHeadingElement>(null);
  useEffect(() => {
    let isHere = true;
    setWould(null);
    heading.current?.focus();
    plan.would().then(
      (told) => isHere && setWould(told),
      (error: unknown) => {
        if (!(error instanceof Refused) && !(error instanceof Unreachable)) throw error;
        if (isHere) setWould(error);
      },
    );
    return () => {
      isHere = false;
    };
  }, [plan]);
  const failed = would instanceof Refused || would instanceof Unreachable;
  const busy = isUnderWay(progress);
  const isOpen = would !== null && !failed && progress.kind === "idle";
  const lifted = progress.kind === "failed" ? forceFor(progress.problem, from) : null;
  const keys = (event: KeyboardEvent) => {
    if (event.key !== "Escape" || busy) return;
    event.stopPropagation();
    close();
  };
  return (
    <div class="change" role="group" aria-labelledby={id} onKeyDown={keys}>
      <h3 id={id} ref={heading} tabIndex={-1}>
        {plan.title}
      </h3>
      <div aria-live="polite">
        {would === null && <Busy>The gateway is asked what would happen…</Busy>}
        {isOpen && plan.says(would)}
      </div>
      {failed && <ShipProblem of={would} doing={plan.not} />}
      <ProgressOf progress={progress} doing={{ now: "The gateway changes it…", not: plan.not }} reached={progress.kind === "reached" && plan.reached(progress.change)} />
      {lifted !== null && <p>{lifted}</p>}
      <div class="answers">
        {isOpen && (
          <button type="button" class="primary" onClick={() => void run(() => plan.make(would, false))}>
            {plan.yes}
          </button>
        )}
        {lifted !== null && would !== null && !failed && (
          <button type="button" onClick={() => void run(() => plan.make(would, true))}>
            <Icon of={ShieldAlert} /> {plan.yes}, with force
          </button>
        )}
        <button type="button" onClick={close} disabled={busy}>
          {isOpen ? "Cancel" : "Close"}
        </button>
      </div>
    </div>
  );
}
