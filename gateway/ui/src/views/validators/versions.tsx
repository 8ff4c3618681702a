// The versions of one slot that are kept, the way back to each, and taking the module away on purpose.
import { Download, Trash2, Undo2 } from "lucide";
import { useMemo, useRef, useState } from "preact/hooks";
import { ask, Refused, send, Unreachable, addressOf } from "../../api/client";
import { type ModuleChange, type One, placesOf, type Slot } from "../../api/modules";
import { Icon } from "../../parts/icon";
import { Problem } from "../../parts/problem";
import { bytes, Time } from "../../parts/words";
import { may } from "../../session";
import { ChangeOf, type Plan } from "./change";
import { SHIP_MS, WAIT_S } from "./follow";

const PATH = "/v1/validators/{category}/{name}";

type Asked = { kind: "rollback"; to: string | null } | { kind: "retire" };
type Problem_ = Refused | Unreachable;

/** The condition that what serves is still what the reader sees. */
const meeting = (serves: string | null): Record<string, string> => (serves === null ? {} : { "if-match": `"${serves}"` });

function rollback(slot: Slot, to: string | null, serves: string | null): Plan {
  const go = (query: Record<string, boolean>, digest: string | null) =>
    send<ModuleChange>("POST", `${PATH}/rollback`, {
      places: placesOf(slot),
      query,
      headers: { prefer: `wait=${WAIT_S}`, ...meeting(serves) },
      ...(digest === null ? {} : { body: { digest } }),
      answerMs: SHIP_MS,
    });
  return {
    title: "Roll back",
    yes: "Roll back",
    not: "It was not rolled back.",
    would: () => go({ dry_run: true }, to),
    // The version that was shown, even if another one is the one before by now.
    make: ({ digest }, force) => go(force ? { force } : {}, digest),
    says: ({ digest, replaces = serves }) => (
      <>
        <p>
          The version <code>{digest}</code> comes back
          {replaces === null ? "; nothing serves now." : <> in place of <code>{replaces}</code>.</>}
        </p>
        <p class="quiet small">Events that are being judged end on the module that they began with. Nothing that was stored changes.</p>
      </>
    ),
    reached: ({ digest, generation }) => (
      <p>
        <b>It is rolled back.</b> Now serves <code>{digest}</code>
        {generation !== undefined && <>, generation {generation}</>}.
      </p>
    ),
  };
}

function retire(slot: Slot, serves: string | null): Plan {
  const go = (query: Record<string, boolean>) =>
    send<ModuleChange>("DELETE", PATH, { places: placesOf(slot), query, headers: { prefer: `wait=${WAIT_S}`, ...meeting(serves) }, answerMs: SHIP_MS });
  return {
    title: "Retire the module",
    yes: "Retire it",
    not: "It was not retired.",
    would: () => go({ dry_run: true }),
    make: () => go({}),
    says: ({ replaces }) => (
      <>
        <p>
          The module {replaces !== null && <code>{replaces}</code>} is taken away. Its events then go to the module of a wildcard, if one fits. If none
          does, nobody judges them: they are stored as they come, unless the settings (<code>unknown_event_type</code>, <code>require_module</code>) refuse
          them.
        </p>
        <p class="quiet small">Its versions stay, so it can be rolled back.</p>
      </>
    ),
    reached: ({ generation }) => (
      <p>
        <b>It is retired.</b> No module of its own judges these events now{generation !== undefined && <>, since generation {generation}</>}. Rolling back brings
        it back.
      </p>
    ),
  };
}

export function Versions({ slot, one, after }: { slot: Slot; one: One | null; after: () => void }) {
  const [asked, setAsked] = useState<Asked | null>(null);
  const [problem, setProblem] = useState<Problem_ | null>(null);
  const opener = useRef<HTMLElement | null>(null);
  const serves = one?.digest ?? null;
  const versions = one?.versions ?? [];
  // The plan holds what served when it was made: a change in between is then told, and not overwritten.
  const plan = useMemo(() => (asked === null ? null : asked.kind === "retire" ? retire(slot, serves) : rollback(slot, asked.to, serves)), [asked]);
  const begin = (event: MouseEvent, wanted: Asked) => {
    opener.current = event.currentTarget as HTMLElement;
    setAsked(wanted);
  };
  const close = () => {
    setAsked(null);
    const { current } = opener;
    // The button may be gone with what it stood beside.
    if (current?.isConnected === true) current.focus();
    else document.getElementById("versions")?.focus();
  };
  const ships = may("ship");
  const shown = versions.some(({ by }) => by !== undefined);
  return (
    <section class="card" aria-labelledby="versions">
      <h2 id="versions" tabIndex={-1}>
        Versions
      </h2>
      {versions.length === 0 ? (
        <p class="quiet">None is listed. {ships && "If a module served here before, rolling back brings the newest one back."}</p>
      ) : (
        <div class="scroll" tabIndex={0} role="region" aria-label="Versions, as a table">
          <table class="versions">
            <thead>
              <tr>
                <th scope="col">Digest</th>
                <th scope="col">Served last from</th>
                {shown && <th scope="col">Shipped</th>}
                {shown && <th scope="col">By</th>}
                {shown && <th scope="col">Commit</th>}
                {shown && <th scope="col" class="number">Size</th>}
                {ships && (
                  <th scope="col">
                    <span class="unseen">What can be done</span>
                  </th>
                )}
              </tr>
            </thead>
            <tbody>
              {versions.map((version) => (
                <tr key={version.digest}>
                  <th scope="row">
                    <code title={version.digest}>{version.digest.slice(0, 12)}</code> {version.digest === serves && <span class="mark stored">serves</span>}
                  </th>
                  <td>{version.at === null ? <span class="quiet">never</span> : <Time at={version.at} />}</td>
                  {shown && <td>{version.shipped_at === undefined ? "–" : <Time at={version.shipped_at} />}</td>}
                  {shown && (
                    <td>
                      <bdi>{version.by ?? "–"}</bdi>
                    </td>
                  )}
                  {shown && <td>{version.commit == null ? <span class="quiet">–</span> : <code><bdi>{version.commit}</bdi></code>}</td>}
                  {shown && <td class="number">{version.bytes == null ? "–" : bytes(version.bytes)}</td>}
                  {ships && (
                    <td class="doing">
                      <button type="button" class="plain" onClick={() => void save(slot, version.digest).then(setProblem)}>
                        <Icon of={Download} /> File<span class="unseen"> of {version.digest.slice(0, 12)}</span>
                      </button>
                      {version.digest !== serves && (
                        <button type="button" onClick={(event) => begin(event, { kind: "rollback", to: version.digest })}>
                          <Icon of={Undo2} /> Roll back to it<span class="unseen">, {version.digest.slice(0, 12)}</span>
                        </button>
                      )}
                    </td>
                  )}
                </tr>
              ))}
            </tbody>
          </table>
        </div>
      )}
      {problem !== null && <Problem of={problem} doing="The file could not be read." />}
      {ships && (
        <div class="answers">
          {versions.some(({ digest }) => digest !== serves) === (versions.length > 0) && (
            <button type="button" onClick={(event) => begin(event, { kind: "rollback", to: null })}>
              <Icon of={Undo2} /> Roll back to the version before
            </button>
          )}
          {serves !== null && (
            <button type="button" onClick={(event) => begin(event, { kind: "retire" })}>
              <Icon of={Trash2} /> Retire…
            </button>
          )}
        </div>
      )}
      {plan !== null && <ChangeOf plan={plan} slot={slot} from={one?.modules_from} after={after} close={close} />}
    </section>
  );
}

/** Saves the file of a version on the reader's machine. The cookie alone gets nothing, so it is no plain link. */
async function save(slot: Slot, digest: string): Promise<Problem_ | null> {
  try {
    const answer = await ask("GET", addressOf(`${PATH}/versions/{digest}`, { ...placesOf(slot), digest }));
    const place = URL.createObjectURL(await answer.blob());
    const link = Object.assign(document.createElement("a"), { href: place, download: `${digest.slice(0, 12)}.wasm` });
    link.click();
    URL.revokeObjectURL(place);
    return null;
  } catch (error) {
    if (!(error instanceof Refused) && !(error instanceof Unreachable)) throw error;
    return error;
  }
}
