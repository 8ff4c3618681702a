// JSON to read: as a tree whose branches open and close, or as its text. Places that violations point at are marked, and what
// stands above them is open.
import { useState } from "preact/hooks";
import { Code } from "./copy";
import { legible } from "./words";
import "./json.css";

export interface Mark {
  /** A JSON Pointer from the top of the value. */
  pointer: string;
  code: string;
  message: string;
}

/** Entries of an object or list that are shown before somebody asks for more. */
const ENTRIES = 100;
/** Branches that are open at first: those of the first levels, if they have no more entries than this. */
const OPEN_LEVELS = 2;
const OPEN_ENTRIES = 30;
/** Characters of a text that are shown before somebody asks for more. */
const TEXT = 400;

type Shape = "tree" | "raw";

export function Json({ value, marks = [], label, raw }: { value: unknown; marks?: readonly Mark[]; label: string; raw?: string }) {
  const [shape, setShape] = useState<Shape>("tree");
  return (
    <div class="json">
      <fieldset class="choice small">
        <legend class="unseen">How it is shown</legend>
        {(["tree", "raw"] as const).map((one) => (
          <label key={one} class={one === shape ? "chosen" : ""}>
            <input type="radio" name={`shape of ${label}`} checked={one === shape} onChange={() => setShape(one)} />
            <span>{one === "tree" ? "Tree" : "JSON"}</span>
          </label>
        ))}
      </fieldset>
      {shape === "raw" ? (
        <Code text={raw ?? JSON.stringify(value, null, 2)} label={label} />
      ) : (
        <div class="tree" role="group" aria-label={label}>
          <Node name={null} value={value} marks={placed(value, marks)} level={0} />
        </div>
      )}
    </div>
  );
}

/** A mark below the place where a node of the tree stands. */
interface Placed {
  steps: string[];
  mark: Mark;
  /** The part of the pointer that leads to nothing, such as a field that is missing. */
  missing: string[];
}

/** The marks with the steps that lead to them, as far as these exist. */
function placed(value: unknown, marks: readonly Mark[]): Placed[] {
  return marks.map((mark) => {
    const steps = mark.pointer.split("/").slice(1).map((step) => step.replaceAll("~1", "/").replaceAll("~0", "~"));
    let at = value;
    let there = 0;
    for (const step of steps) {
      const entry = entriesOf(at)?.find(([name]) => name === step);
      if (entry === undefined) break;
      at = entry[1];
      there++;
    }
    return { steps: steps.slice(0, there), mark, missing: steps.slice(there) };
  });
}

/** The entries of an object or list; null for anything else. A number that is kept as its text is no object. */
function entriesOf(value: unknown): [string, unknown][] | null {
  if (typeof value !== "object" || value === null) return null;
  if ((JSON as { isRawJSON?: (value: unknown) => boolean }).isRawJSON?.(value) === true) return null;
  return Array.isArray(value) ? value.map((one: unknown, index) => [String(index), one]) : Object.entries(value);
}

function Node({ name, value, marks, level }: { name: string | null; value: unknown; marks: readonly Placed[]; level: number }) {
  const entries = entriesOf(value);
  const here = marks.filter(({ steps }) => steps.length === 0);
  const below = marks.filter(({ steps }) => steps.length > 0);
  const usual = level < OPEN_LEVELS && (entries?.length ?? 0) <= OPEN_ENTRIES;
  const [isOpen, setOpen] = useState(usual || marks.length > 0 || level === 0);
  const key = name !== null && (
    <>
      <bdi class="key-name">{name === "" ? '""' : legible(name)}</bdi>
      <span class="quiet">: </span>
    </>
  );
  const own = here.filter(({ missing }) => missing.length === 0);
  const marked = own.length > 0 ? "marked" : "";
  const told = here.map(({ mark, missing }) => <Told key={`${mark.pointer} ${mark.code} ${mark.message}`} mark={mark} missing={missing} />);
  if (entries === null || entries.length === 0) {
    return (
      <div class={`leaf ${marked}`}>
        {key}
        <Leaf value={value} />
        {told}
      </div>
    );
  }
  const [open, close] = Array.isArray(value) ? ["[", "]"] : ["{", "}"];
  return (
    <details class={`branch ${marked}`} open={isOpen} onToggle={(event) => setOpen(event.currentTarget.open)}>
      <summary>
        {key}
        <span class="quiet">
          {open}
          {isOpen ? "" : `${entries.length} ${entries.length === 1 ? "entry" : "entries"}${close}`}
        </span>
      </summary>
      {told}
      {isOpen && <Entries entries={entries} marks={below} level={level} />}
      {isOpen && <span class="quiet">{close}</span>}
    </details>
  );
}

function Entries({ entries, marks, level }: { entries: [string, unknown][]; marks: readonly Placed[]; level: number }) {
  const [most, setMost] = useState(ENTRIES);
  // What is marked is shown, wherever it stands.
  const shown = entries.filter(([name], index) => index < most || marks.some(({ steps }) => steps[0] === name));
  return (
    <>
      {shown.map(([name, value]) => {
        const inside = marks.filter(({ steps }) => steps[0] === name).map((one) => ({ ...one, steps: one.steps.slice(1) }));
        return <Node key={name} name={name} value={value} marks={inside} level={level + 1} />;
      })}
      {entries.length > most && (
        <button type="button" class="plain" onClick={() => setMost(most + ENTRIES * 10)}>
          {entries.length - most} more
        </button>
      )}
    </>
  );
}

function Leaf({ value }: { value: unknown }) {
  const [isWhole, setWhole] = useState(false);
  const text = legible(JSON.stringify(value));
  const kind = typeof value === "string" ? "text" : typeof value === "object" && value !== null ? "number" : String(typeof value);
  const short = text.length > TEXT && !isWhole;
  return (
    <>
      <bdi class={`value ${kind}`}>{short ? `${text.slice(0, TEXT)}…` : text}</bdi>
      {short && (
        <button type="button" class="plain" onClick={() => setWhole(true)}>
          All {text.length.toLocaleString()} characters
        </button>
      )}
    </>
  );
}

function Told({ mark, missing }: { mark: Mark; missing: string[] }) {
  return (
    <p class="told">
      {missing.length > 0 && (
        <>
          <bdi class="key-name">{missing.join("/")}</bdi> <span class="quiet">is not there: </span>
        </>
      )}
      <bdi>{mark.message}</bdi>{" "}
      <code>
        <bdi>{mark.code}</bdi>
      </code>
    </p>
  );
}
