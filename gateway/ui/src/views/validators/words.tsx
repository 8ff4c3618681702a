// How the views of validators name event types, modules and what became of them.
import { hrefOf } from "../../address";
import { type LoadError, type Slot, type Validator, wordsOf } from "../../api/modules";
import { legible, Time } from "../../parts/words";

/** The name of a slot. A wildcard is `*`, and what it stands for is said beside it. */
export function SlotName({ slot: { category, name } }: { slot: Slot }) {
  const rest = category === null ? "everything else" : name === null ? "its other names" : null;
  return (
    <bdi class="type" title={titleOf({ category, name })}>
      {category ?? "*"} <span class="quiet">/</span> {name ?? "*"}
      {rest !== null && <span class="quiet rest"> {rest}</span>}
    </bdi>
  );
}

/** The name of a slot for what shows text alone. */
export function titleOf({ category, name }: Slot): string {
  return legible(`${category ?? "*"} / ${name ?? "*"}`);
}

/** The address of the page of a slot. */
export const hrefOfSlot = (slot: Slot): string => hrefOf("validator", { type: wordsOf(slot) });

/** The filters that other views have for the event types of a slot. */
export function filtersOf({ category, name }: Slot): Record<string, string | null> {
  return { category, name };
}

/** A time of judging in the unit that suits it. */
export function micros(value: number): string {
  const [amount, unit] = value < 1000 ? [value, "µs"] : value < 1_000_000 ? [value / 1000, "ms"] : [value / 1_000_000, "s"];
  return `${amount.toLocaleString(undefined, { maximumFractionDigits: amount < 100 ? 1 : 0 })} ${unit}`;
}

export function State({ one }: { one: Pick<Validator, "state" | "loading" | "standing"> }) {
  const kind = one.state === "active" ? "stored" : one.state === "refused" ? "quarantined" : "unfinished";
  return (
    <>
      <span class={`mark ${kind}`}>{one.state}</span>
      {one.loading !== null && <span class={`mark ${one.loading === "refused" ? "quarantined" : "unfinished"}`}>newer file: {one.loading}</span>}
      {one.standing !== null && one.standing !== "healthy" && <span class="mark rejected">{one.standing}</span>}
    </>
  );
}

/** Why a file or its settings were refused, in full. */
export function Failure({ of, title }: { of: LoadError; title: string }) {
  return (
    <>
      <h3>{title}</h3>
      <dl class="fields">
        <dt>Step</dt>
        <dd>
          <code>{of.step}</code>, <Time at={of.at} />
        </dd>
        <dt>Expected</dt>
        <dd>
          <bdi>{of.expected}</bdi>
        </dd>
        <dt>Found</dt>
        <dd>
          <bdi>{of.found}</bdi>
        </dd>
        <dt>How to mend it</dt>
        <dd>
          <bdi>{of.mend}</bdi>
        </dd>
        {of.digest !== null && (
          <>
            <dt>File</dt>
            <dd>
              <code>{of.digest}</code>
            </dd>
          </>
        )}
      </dl>
    </>
  );
}
