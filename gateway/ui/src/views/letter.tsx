// One event that was not stored: first why, in words, then what is kept of it. It is named by the id of its dead letter, or by
// what the live stream tells of it.
import { useState } from "preact/hooks";
import { type Filters, hrefOf } from "../address";
import { type Answer, get, parsed, Refused, type Schemas } from "../api/client";
import { wordsOf } from "../api/modules";
import { sentence } from "../api/reasons";
import { Code } from "../parts/copy";
import { Json, type Mark } from "../parts/json";
import { useLoaded } from "../parts/loading";
import { Problem } from "../parts/problem";
import { bytes, EventType, Time } from "../parts/words";
import { Again } from "./refused/again";
import "./refused.css";

type Letter = Schemas["WholeDeadLetter"];

/** Milliseconds around its time in which the letter of an outcome is looked for. */
const AROUND_MS = 2000;

/** The id of the dead letter of an outcome; null if it is not there, or not yet. */
async function found({ event, at = "", application = "", category = "", name = "" }: Filters, signal: AbortSignal): Promise<string | null> {
  const moment = Date.parse(at);
  if (Number.isNaN(moment)) return null;
  const time = { from: new Date(moment - AROUND_MS).toISOString(), to: new Date(moment + AROUND_MS).toISOString() };
  let cursor: string | null = null;
  do {
    const query = { ...time, application, category, name, limit: 1000, ...(cursor === null ? {} : { cursor }) };
    const answer: Answer<"/v1/dead-letters"> = await get("/v1/dead-letters", query, { signal });
    const letter = answer.dead_letters.find((one) => (event === undefined ? one.received_at === at : one.event_id === event));
    if (letter !== undefined) return letter.id;
    cursor = answer.next;
  } while (cursor !== null);
  return null;
}

export function LetterView({ filters }: { filters: Filters }) {
  const [round, setRound] = useState(0);
  const { data, problem } = useLoaded(`${JSON.stringify(filters)} ${round}`, filters.id === undefined ? 2000 : 0, async (signal) => {
    const id = filters.id ?? (await found(filters, signal));
    return id === null ? null : get("/v1/dead-letters/{id}", undefined, { places: { id }, signal });
  });
  if (problem !== null) {
    const isGone = problem instanceof Refused && problem.status === 404;
    return <Problem of={problem} doing={isGone ? "This dead letter is not there any more, or you may not see it." : "The dead letter could not be read."} />;
  }
  if (data === undefined) return <p class="quiet">…</p>;
  if (data === null) {
    return <p>The dead letter of this event is not there. It is written a moment after the sender was answered: this page looks again.</p>;
  }
  return <Shown letter={data} changed={() => setRound(round + 1)} />;
}

function Shown({ letter, changed }: { letter: Letter; changed: () => void }) {
  return (
    <>
      <section class="card why-card" aria-labelledby="why">
        <h2 id="why">
          <span class={`mark ${letter.reason}`}>{letter.reason}</span> <EventType category={letter.category} name={letter.name} />
        </h2>
        <p class="verdict">
          <bdi>{sentence(letter)}</bdi>
        </p>
        {letter.violations.length > 0 && (
          <div class="scroll" tabIndex={0} role="region" aria-label="Violations">
            <table>
              <thead>
                <tr>
                  <th scope="col">Where</th>
                  <th scope="col">Code</th>
                  <th scope="col">What is wrong</th>
                </tr>
              </thead>
              <tbody>
                {letter.violations.map(({ pointer, code, message }) => (
                  <tr key={`${pointer} ${code} ${message}`}>
                    <td>
                      <code>{pointer === "" ? "the whole" : pointer}</code>
                    </td>
                    <td>
                      <code>{code}</code>
                    </td>
                    <td>
                      <bdi>{message}</bdi>
                    </td>
                  </tr>
                ))}
              </tbody>
            </table>
          </div>
        )}
        <p class="quiet">
          <bdi>{letter.detail}</bdi>. <a href={`/problems/${encodeURIComponent(letter.code)}`} target="_blank" rel="noreferrer">What {letter.code} means</a>
        </p>
      </section>
      {letter.redrivable && (
        <section class="card" aria-labelledby="again">
          <h2 id="again">Judge it again</h2>
          <Again choice={{ ids: [letter.id] }} what="this letter" count={1} changed={changed} />
        </section>
      )}
      <section class="card" aria-labelledby="event">
        <h2 id="event">The event</h2>
        <Fields letter={letter} />
      </section>
      <section class="card" aria-labelledby="raw">
        <h2 id="raw">What is kept of it</h2>
        <Kept letter={letter} />
        {letter.last_words != null && (
          <>
            <h3>Last words of the validator</h3>
            <Code text={letter.last_words} label="Last words of the validator" />
          </>
        )}
      </section>
    </>
  );
}

function Fields({ letter }: { letter: Letter }) {
  return (
    <dl class="fields">
      <dt>Received</dt>
      <dd>
        <Time at={letter.received_at} precise />
      </dd>
      <dt>Application</dt>
      <dd>{letter.application === null ? "unknown" : <a href={hrefOf("refused", { application: letter.application })}><bdi>{letter.application}</bdi></a>}</dd>
      <dt>Event</dt>
      <dd>{letter.event_id === null ? "no id that could be read" : <code>{letter.event_id}</code>}</dd>
      <dt>Session</dt>
      <dd>{letter.session_id === null ? "none that could be read" : <a href={hrefOf("explore", { session: letter.session_id })}><code>{letter.session_id}</code></a>}</dd>
      <dt>Judged by</dt>
      <dd>
        {letter.validator === null ? (
          "no validator"
        ) : (
          <>
            <code>{letter.validator}</code>, <a href={hrefOf("refused", { validator: letter.validator, span: "all" })}>all that it refused</a>
            {letter.category !== null && letter.name !== null && (
              <>
                , <a href={hrefOf("validator", { type: wordsOf({ category: letter.category, name: letter.name }) })}>the validator</a>
              </>
            )}
          </>
        )}
      </dd>
      <dt>Request</dt>
      <dd>{letter.request_id === null ? "unknown" : <code>{letter.request_id}</code>}</dd>
      <dt>Judged again</dt>
      <dd>{letter.redriven !== null ? <>{letter.redriven.outcome}, <Time at={letter.redriven.at} /></> : letter.redrivable ? "not yet; it can be" : "it cannot be"}</dd>
    </dl>
  );
}

/** The event of a letter with its violations at their places; null if what is kept is not JSON. */
function eventOf(letter: Letter): { value: unknown; marks: Mark[] } | null {
  const value = parsed(letter.raw ?? "");
  if (value === undefined) return null;
  // Pointers of a validator begin at `data`, those of the gateway's own rules at the event.
  const top = letter.code === "rule" ? "/data" : "";
  return { value, marks: letter.violations.map((one) => ({ ...one, pointer: `${top}${one.pointer}` })) };
}

function Kept({ letter }: { letter: Letter }) {
  const { kept, raw, raw_needs_scope: needs, raw_encoding: encoding, raw_bytes: size } = letter;
  if (kept === "nothing") return <p>Nothing but its size ({bytes(size)}) and its digest: its validator takes something out of events.</p>;
  if (needs !== null) return <p>{bytes(size)}. To see it you need the scope <code>{needs}</code>.</p>;
  const note = kept === "redacted" ? "As its validator redacts it." : `As it came, ${bytes(size)}${encoding === "base64" ? ", in base64" : ""}.`;
  const event = eventOf(letter);
  return (
    <>
      <p class="quiet">{note}</p>
      {event === null ? (
        <Code text={raw ?? ""} label="What is kept of the event" />
      ) : (
        <Json value={event.value} marks={event.marks} label="What is kept of the event" raw={readable(raw ?? "")} />
      )}
    </>
  );
}

/** JSON with line breaks, if it is JSON that this shows unchanged. Else the text as it is. */
function readable(raw: string): string {
  try {
    const value: unknown = JSON.parse(raw);
    return JSON.stringify(value) === raw.trim() ? JSON.stringify(value, null, 2) : raw;
  } catch {
    return raw;
  }
}
