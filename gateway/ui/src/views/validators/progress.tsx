// How far a change of a slot has come, in words, and whether force would lift what stands in its way.
import { Check, LoaderCircle } from "lucide";
import { Refused, type Unreachable } from "../../api/client";
import type { GatewayRefusal, LoadError, Preparation } from "../../api/modules";
import { Icon } from "../../parts/icon";
import { Problem } from "../../parts/problem";
import type { Progress } from "./follow";
import { Failure } from "./words";

/** What force does about a refusal, in words; null where it lifts none. In a modules directory the settings
 *  beside the file say it, and the refusal says how. */
export function forceFor(problem: Refused | Unreachable, from: "directory" | "database" | undefined): string | null {
  if (!(problem instanceof Refused) || from !== "database") return null;
  if (problem.code === "fleet_refused") {
    return "With force the other gateways serve it. A gateway that cannot answers 503 for the events of this type until it can.";
  }
  if (problem.code === "taken_back") {
    return "With force it is taken all the same, and the guard may take it back again.";
  }
  if (problem.code === "module_refused" && /`redact`.*version before/.test(problem.problem.expected ?? "")) {
    return "With force it serves although it takes nothing out of refused events any more: they are kept as they came. Do this only if nothing in them is secret.";
  }
  return null;
}

interface Given {
  progress: Progress;
  /** What is done while it goes on, and what was not done when it failed. */
  doing: { now: string; not: string };
  /** What is said when it is reached. */
  reached: preact.ComponentChild;
}

export function ProgressOf({ progress, doing, reached }: Given) {
  return (
    <>
      <div aria-live="polite">
        {progress.kind === "asking" && <Busy>{doing.now}</Busy>}
        {progress.kind === "preparing" && (
          <Busy>
            {progress.waits.length === 0 ? `${doing.now} The gateways prepare it.` : "These gateways still prepare it, and all change to it together:"}
          </Busy>
        )}
        {progress.kind === "reached" && (
          <div class="notice done">
            <Icon of={Check} />
            <div>{reached}</div>
          </div>
        )}
      </div>
      {progress.kind === "preparing" && <Waiting gateways={progress.waits} />}
      {progress.kind === "failed" && <ShipProblem of={progress.problem} doing={doing.not} />}
      {progress.kind === "refused" && <Ended error={progress.error} not={doing.not} />}
    </>
  );
}

export function Busy({ children }: { children: preact.ComponentChildren }) {
  return (
    <p class="busy">
      <Icon of={LoaderCircle} /> {children}
    </p>
  );
}

/** A problem of shipping: with what a module lacks, the gateways that cannot serve it, or what serves instead. */
export function ShipProblem({ of, doing }: { of: Refused | Unreachable; doing: string }) {
  if (!(of instanceof Refused)) return <Problem of={of} doing={`${doing} Look at what serves now before you try again.`} />;
  const { detail: _, ...rest } = of.problem;
  const { expected, found, mend, gateways } = rest;
  // The detail of a module that is refused says what stands below part by part.
  const told = of.code === "module_refused" ? new Refused(of.status, rest) : of;
  return (
    <>
      <Problem of={told} doing={doing} />
      {of.code === "module_refused" && (
        <dl class="fields">
          <dt>Expected</dt>
          <dd>
            <bdi>{expected}</bdi>
          </dd>
          <dt>Found</dt>
          <dd>
            <bdi>{found}</bdi>
          </dd>
          <dt>How to mend it</dt>
          <dd>
            <bdi>{mend}</bdi>
          </dd>
        </dl>
      )}
      {gateways !== undefined && <Waiting gateways={gateways} />}
    </>
  );
}

function Waiting({ gateways }: { gateways: readonly GatewayRefusal[] }) {
  return (
    <ul class="troubles">
      {gateways.map(({ gateway, id, refusal }) => (
        <li key={id ?? gateway}>
          <bdi class="type">{gateway}</bdi>{" "}
          {refusal === null ? (
            <span class="quiet">has said nothing yet</span>
          ) : (
            <p>
              <bdi>
                Expected {refusal.expected}; found {refusal.found}; {refusal.mend}.
              </bdi>
              {refusal.passing && " It may take it later."}
            </p>
          )}
        </li>
      ))}
    </ul>
  );
}

/** Why a change that was under way came to nothing. */
function Ended({ error, not }: { error: LoadError | Preparation; not: string }) {
  if ("expected" in error) return <Failure of={error} title={not} />;
  const gateways = (error.problem as { gateways?: GatewayRefusal[] } | null)?.gateways ?? [];
  return (
    <div class="problem" role="alert">
      <div>
        <strong>{not}</strong>
        <p>{error.state === "changed" ? "Another change came first. Look at what serves now." : "A gateway cannot serve it, so nothing has changed."}</p>
        <Waiting gateways={gateways} />
      </div>
    </div>
  );
}
