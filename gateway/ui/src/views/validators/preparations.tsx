// The changes of a slot that were asked for in the last day, and how far they came.
import type { GatewayRefusal, Preparation } from "../../api/modules";
import { Short, Time } from "../../parts/words";

const MARKS = { preparing: "unfinished", active: "stored", refused: "quarantined", changed: "rejected" } as const;

export function Preparations({ list }: { list: readonly Preparation[] }) {
  return (
    <section class="card" aria-labelledby="preparations">
      <h2 id="preparations">Changes of the last day</h2>
      <div class="scroll" tabIndex={0} role="region" aria-label="Changes, as a table">
        <table class="preparations">
          <thead>
            <tr>
              <th scope="col">When</th>
              <th scope="col">What</th>
              <th scope="col">By</th>
              <th scope="col">State</th>
              <th scope="col" class="number">
                Generation
              </th>
            </tr>
          </thead>
          <tbody>
            {list.map((one) => (
              <tr key={one.id}>
                <th scope="row">
                  <Time at={one.at} />
                </th>
                <td>
                  {one.cause} {one.digest !== null && <Short id={one.digest} />}
                </td>
                <td>
                  <bdi>{one.by}</bdi>
                </td>
                <td>
                  <span class={`mark ${MARKS[one.state]}`}>{one.state}</span> <Why one={one} />
                </td>
                <td class="number">{one.generation ?? "–"}</td>
              </tr>
            ))}
          </tbody>
        </table>
      </div>
    </section>
  );
}

function Why({ one }: { one: Preparation }) {
  if (one.state === "changed") return <span class="quiet">another change came first</span>;
  const refusing = (one.problem as { gateways?: GatewayRefusal[] } | null)?.gateways ?? [];
  const gateways = one.state === "preparing" ? one.waits_for : refusing;
  if (gateways.length === 0) return null;
  return (
    <span class="quiet why">
      {one.state === "preparing" ? "waits for " : ""}
      <bdi>{gateways.map(({ gateway, refusal }) => (refusal === null ? gateway : `${gateway}: ${refusal.found}`)).join("; ")}</bdi>
    </span>
  );
}
