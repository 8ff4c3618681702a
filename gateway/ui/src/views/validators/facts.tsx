// How a module judges: how its events are kept apart, its limits, what becomes of faults and of what is refused.
import type { One } from "../../api/modules";
import { bytes, whole } from "../../parts/words";

export function Facts({ one }: { one: One }) {
  const { limits } = one;
  return (
    <section class="card" aria-labelledby="facts">
      <h2 id="facts">How it judges</h2>
      <dl class="fields">
        {one.isolation != null && (
          <>
            <dt>Kept apart</dt>
            <dd>
              {one.isolation === "set_back" ? "One instance is set back after each event" : "Each event gets a new instance"} (<code>{one.isolation}</code>):{" "}
              <bdi>{one.isolation_reason ?? "no reason is told"}</bdi>
            </dd>
          </>
        )}
        <dt>Examples</dt>
        <dd>{one.examples === undefined || one.examples === 0 ? "It brings none." : `${whole(one.examples)} passed when it was loaded.`}</dd>
        {limits !== undefined && (
          <>
            <dt>Limits</dt>
            <dd>
              {whole(limits.deadline_ms)} ms of processor time, {bytes(limits.memory_bytes_max)} of memory, {bytes(limits.output_bytes_max)} of output,{" "}
              {whole(limits.violations_max)} violations
            </dd>
          </>
        )}
        <dt>A fault</dt>
        <dd>{one.on_fault === "retry" ? "asks the sender to send the event again; nothing is kept" : "puts the event into quarantine"}</dd>
        <dt>Refused events</dt>
        <dd>{kept(one)}</dd>
      </dl>
    </section>
  );
}

/** What is kept of an event that is not stored. */
function kept({ redacts, amends, keep_raw: raw }: One): string {
  if (raw === true) return "are kept as they came, since its settings say keep_raw = true.";
  if (raw === false) return "are not kept but for size and digest, since its settings say keep_raw = false.";
  if (redacts === true) return "are kept as its export `redact` says.";
  if (amends === true) return "are not kept but for size and digest: it amends and has no `redact`, so it may take secrets out.";
  return "are kept as they came: it neither redacts nor amends.";
}

