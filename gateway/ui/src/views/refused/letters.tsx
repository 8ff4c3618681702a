// The letters of a filter, the latest first. Some of them can be chosen and judged again.
import { useEffect, useState } from "preact/hooks";
import { type Filters, hrefOf } from "../../address";
import { get } from "../../api/client";
import { sentence } from "../../api/reasons";
import { usePages } from "../../parts/pages";
import { Problem } from "../../parts/problem";
import { EventType, Time, whole } from "../../parts/words";
import { queryOf, ReadAgain } from "../refused";
import { Again } from "./again";

/** Letters of the first page, and of each further one. */
const FIRST = 30;
const MORE = 200;
/** Letters that a request of a redrive may name. */
const CHOSEN_MAX = 1000;

export function Letters({ filters, round, changed }: { filters: Filters; round: number; changed: () => void }) {
  const key = `${JSON.stringify(filters)} ${round}`;
  const [chosen, setChosen] = useState<ReadonlySet<string>>(new Set());
  const pages = usePages(key, 1, async (cursor, signal) => {
    const query = { ...queryOf(filters), limit: cursor === null ? FIRST : MORE, ...(cursor === null ? {} : { cursor }) };
    const { dead_letters, next } = await get("/v1/dead-letters", query, { signal });
    return { rows: dead_letters, next };
  });
  useEffect(() => setChosen(new Set()), [key]);
  const can = pages.rows.filter(({ redrivable }) => redrivable).map(({ id }) => id).slice(0, CHOSEN_MAX);
  const isAll = can.length > 0 && can.every((id) => chosen.has(id));
  const toggle = (id: string) => {
    const next = new Set(chosen);
    if (!next.delete(id)) next.add(id);
    setChosen(next);
  };
  return (
    <section class="card" aria-labelledby="letters">
      <div class="bar-of-list">
        <h2 id="letters">Refused events, the latest first</h2>
        <ReadAgain onClick={pages.again} disabled={pages.isBusy} />
      </div>
      {pages.problem !== null && <Problem of={pages.problem} doing="The letters could not be read." />}
      {pages.isThere && pages.rows.length === 0 && <p class="quiet">There is none.</p>}
      {pages.rows.length > 0 && (
        <div class="scroll" tabIndex={0} role="region" aria-label="Refused events">
          <table class="letters">
            <thead>
              <tr>
                <th scope="col">
                  <label class="tick">
                    <input type="checkbox" checked={isAll} disabled={can.length === 0} onChange={() => setChosen(isAll ? new Set() : new Set(can))} />
                    <span class="unseen">Choose all that can be judged again</span>
                  </label>
                </th>
                <th scope="col">Received</th>
                <th scope="col">Reason</th>
                <th scope="col">Event type</th>
                <th scope="col">Application</th>
                <th scope="col">Judged again</th>
              </tr>
            </thead>
            <tbody>
              {pages.rows.map((letter) => (
                <tr key={letter.id}>
                  <td>
                    <label class="tick">
                      <input type="checkbox" checked={chosen.has(letter.id)} disabled={!letter.redrivable || (!chosen.has(letter.id) && chosen.size >= CHOSEN_MAX)} onChange={() => toggle(letter.id)} />
                      <span class="unseen">Choose this event</span>
                    </label>
                  </td>
                  <td>
                    <Time at={letter.received_at} />
                  </td>
                  <td class="wide">
                    <a href={hrefOf("letter", { id: letter.id })}>
                      <span class={`mark ${letter.reason}`}>{letter.violations[0]?.code ?? letter.code}</span> <bdi>{sentence(letter)}</bdi>
                    </a>
                  </td>
                  <td>
                    <EventType category={letter.category} name={letter.name} />
                  </td>
                  <td>{letter.application === null ? <em class="quiet">unknown</em> : <bdi>{letter.application}</bdi>}</td>
                  <td>
                    {letter.redriven !== null ? letter.redriven.outcome : letter.redrivable ? <span class="quiet">not yet</span> : <span class="quiet">cannot be</span>}
                  </td>
                </tr>
              ))}
            </tbody>
          </table>
        </div>
      )}
      {pages.isMore && (
        <button type="button" onClick={pages.more} disabled={pages.isBusy}>
          {pages.isBusy ? "Reading…" : "Earlier ones"}
        </button>
      )}
      {chosen.size > 0 && (
        <div class="chosen-letters">
          <h3>{whole(chosen.size)} chosen</h3>
          <Again choice={{ ids: [...chosen] }} what={`${whole(chosen.size)} chosen ${chosen.size === 1 ? "letter" : "letters"}`} count={chosen.size} changed={changed} />
        </div>
      )}
    </section>
  );
}
