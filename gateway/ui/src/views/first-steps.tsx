// What to do while no event has ever come: the request that sends one, and a button that sends it from here.
import { Send } from "lucide";
import { useEffect, useState } from "preact/hooks";
import { Refused, send, Unreachable } from "../api/client";
import { Code } from "../parts/copy";
import { curlOf } from "../parts/curl";
import { Icon } from "../parts/icon";
import { Problem } from "../parts/problem";
import { may } from "../session";

type Sent = { id: string; outcome: string };

function event(): Record<string, unknown> {
  return {
    id: crypto.randomUUID?.() ?? undefined,
    session_id: "e2085be5-9137-4e4e-80b5-f1ffddc25423",
    category: "first steps",
    name: "hello",
    timestamp: new Date().toISOString(),
    data: { greeting: "Hello, Eye!" },
  };
}

/** Whether this machine may send without a token, as a dry run says. The page shows no session for that. */
async function needsToken(sample: Record<string, unknown>): Promise<boolean> {
  const headers = { "content-type": "application/json" };
  const request = { method: "POST", headers, credentials: "omit", body: JSON.stringify(sample) } as const;
  return !(await fetch("/v1/events?dry_run=true", request)).ok;
}

export function FirstSteps() {
  const [sample] = useState(event);
  const { id: _, ...withoutId } = sample;
  const [token, setToken] = useState(true);
  const [sent, setSent] = useState<Sent | null>(null);
  const [problem, setProblem] = useState<Refused | Unreachable | null>(null);
  useEffect(() => {
    needsToken(sample).then(setToken, () => setToken(true));
  }, []);
  const first = async () => {
    try {
      setSent(await send<Sent>("POST", "/v1/events", { body: sample }));
      setProblem(null);
    } catch (error) {
      if (!(error instanceof Refused) && !(error instanceof Unreachable)) throw error;
      setProblem(error);
    }
  };
  return (
    <section class="card first-steps" aria-labelledby="first-steps">
      <h2 id="first-steps">Send the first event</h2>
      <p>No event has come yet. Paste this into a terminal{may("ingest") ? ", or send it from here" : ""}:</p>
      <Code text={curlOf(withoutId, token)} label="Command that sends an event" />
      {token && (
        <p class="quiet">
          <code>EYE_TOKEN</code> is a token with the scope <code>ingest</code>: <code>eye app add NAME --token --scope ingest</code>{" "}
          prints one.
        </p>
      )}
      {may("ingest") && (
        <button type="button" class="primary" onClick={() => void first()} disabled={sent !== null}>
          <Icon of={Send} /> Send it
        </button>
      )}
      <div aria-live="polite">
        {sent !== null && (
          <p class="notice">
            The gateway answered <b>{sent.outcome}</b>. The event is in the figures in a moment.
          </p>
        )}
      </div>
      {problem !== null && <Problem of={problem} doing="The event was not sent." />}
    </section>
  );
}
