// Times, numbers, ids and outcomes as the page shows them everywhere.
import type { Outcome } from "../api/lines";

export type OutcomeKind = Outcome["outcome"];
/** The outcomes that are counted, in the order in which they are shown. */
export const OUTCOMES = ["stored", "duplicate", "rejected", "quarantined"] as const;
export type Counted = (typeof OUTCOMES)[number];

const CLOCK = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" });
const DAY = new Intl.DateTimeFormat(undefined, { day: "numeric", month: "short" });
const DAY_OF_YEAR = new Intl.DateTimeFormat(undefined, { day: "numeric", month: "short", year: "numeric" });
const WHOLE = new Intl.NumberFormat(undefined, { maximumFractionDigits: 0 });
const SHORT = new Intl.NumberFormat(undefined, { notation: "compact", maximumFractionDigits: 1 });

/** A number in full up to 9,999, and then in short. */
export function number(value: number): string {
  return Math.abs(value) < 10_000 ? WHOLE.format(value) : SHORT.format(value);
}

/** A whole number in full. */
export function whole(value: number): string {
  return WHOLE.format(value);
}

/** Events a second, with as many digits as say something. */
export function rate(value: number): string {
  if (value === 0) return "0";
  if (value < 0.01) return "<0.01";
  if (value >= 100) return number(Math.round(value));
  return value.toLocaleString(undefined, { maximumFractionDigits: value < 1 ? 2 : 1 });
}

/** A part of a whole in percent. A part that is there is never shown as none, nor as all while something else is there. */
export function percent(part: number, all: number): string {
  if (all === 0) return "–";
  const value = (part / all) * 100;
  if (value > 0 && value < 0.1) return "<0.1%";
  if (value < 100 && value > 99.9) return ">99.9%";
  return `${value.toLocaleString(undefined, { maximumFractionDigits: value < 10 ? 1 : 0 })}%`;
}

export function bytes(value: number): string {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0;
  for (; value >= 1024 && unit < units.length - 1; unit++) value /= 1024;
  return `${value.toLocaleString(undefined, { maximumFractionDigits: value < 10 && unit > 0 ? 1 : 0 })} ${units[unit]}`;
}

export function milliseconds(seconds: number): string {
  const value = seconds * 1000;
  if (value >= 1000) return `${seconds.toLocaleString(undefined, { maximumFractionDigits: 1 })} s`;
  return `${value.toLocaleString(undefined, { maximumFractionDigits: value < 10 ? 1 : 0 })} ms`;
}

export function duration(seconds: number): string {
  if (seconds < 90) return `${Math.max(0, Math.round(seconds))} s`;
  if (seconds < 5400) return `${Math.round(seconds / 60)} min`;
  if (seconds < 172_800) return `${Math.round(seconds / 3600)} h`;
  return `${Math.round(seconds / 86_400)} days`;
}

/** A text in which what cannot be seen, or would turn other letters around, is written as JSON can write it. */
export function legible(text: string): string {
  return text.replaceAll(/[\p{Cc}\p{Cf}\p{Zl}\p{Zp}]/gu, (one) => {
    // Emoji are joined by a character that cannot be seen.
    return one === "\u200d" ? one : `\\u${one.charCodeAt(0).toString(16).padStart(4, "0")}`;
  });
}

/** A moment on an axis, from seconds since 1970: as fine as the step of the axis. */
export function moment(seconds: number, step: number): string {
  const at = new Date(seconds * 1000);
  const isMidnight = at.getHours() === 0 && at.getMinutes() === 0 && at.getSeconds() === 0;
  if (step >= 86_400 || isMidnight) return DAY.format(at);
  return step < 60 ? CLOCK.format(at) : CLOCK.format(at).slice(0, 5);
}

/** How long it was from one event to another, from milliseconds. */
export function between(ms: number): string {
  if (ms < 1000) return `${Math.round(ms)} ms`;
  const seconds = ms / 1000;
  return seconds < 90 ? `${seconds.toLocaleString(undefined, { maximumFractionDigits: 1 })} s` : duration(seconds);
}

/** A moment in the zone of the reader, with UTC when the mouse points at it. Today is not named. */
export function Time({ at, precise = false }: { at: string; precise?: boolean }) {
  const moment = new Date(at);
  const today = new Date();
  const clock = CLOCK.format(moment) + (precise ? `.${String(moment.getMilliseconds()).padStart(3, "0")}` : "");
  const day = moment.getFullYear() === today.getFullYear() ? DAY : DAY_OF_YEAR;
  const text = moment.toDateString() === today.toDateString() ? clock : `${day.format(moment)}, ${clock}`;
  return (
    <time dateTime={at} title={`${at.replace("T", " ").replace("Z", "")} UTC`}>
      {text}
    </time>
  );
}

/** The name of an event type. Text of events is isolated, so that no letters of it turn others around. */
export function EventType({ category, name }: { category: string | null; name: string | null }) {
  if (category === null || name === null) return <em class="quiet">no event type</em>;
  return (
    <bdi class="type" title={legible(`${category} / ${name}`)}>
      {legible(category)} <span class="quiet">/</span> {legible(name)}
    </bdi>
  );
}

/** An id or digest in short, in full when the mouse points at it. */
export function Short({ id }: { id: string }) {
  return (
    <code title={id} class="short">
      {id.slice(0, 8)}
    </code>
  );
}

export function OutcomeMark({ outcome }: { outcome: OutcomeKind }) {
  return <span class={`mark ${outcome}`}>{outcome}</span>;
}
