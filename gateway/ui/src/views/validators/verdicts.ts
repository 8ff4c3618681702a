// How the events of each slot ended over time, from the counts that the gateway keeps as they are written.
import { type Count, none, rowsSince, type Sums, WIDTH_S } from "../../api/counts";
import { isSame, judgeOf, type Slot, wordsOf } from "../../api/modules";

const DAY_S = 86_400;

/** The last day of one slot, hour by hour. */
export interface Day {
  hours: Sums[];
  total: Sums;
}

/** The last day of every slot that any event belongs to, by the words of the slot. */
export async function daysOf(slots: readonly Slot[], signal: AbortSignal): Promise<Map<string, Day>> {
  if (slots.length === 0) return new Map();
  const now = Date.now() / 1000;
  const { rows, bucket } = await rowsSince(new Date((now - DAY_S) * 1000), "hour", signal);
  const width = WIDTH_S[bucket];
  const first = Math.floor((now - DAY_S) / width);
  const length = Math.floor(now / width) - first + 1;
  const days = new Map<string, Day>();
  for (const { start, category, name, outcome, count } of rows) {
    const slot = judgeOf(slots, category, name);
    if (slot === undefined) continue;
    const key = wordsOf(slot);
    const day = days.get(key) ?? { hours: Array.from({ length }, none), total: none() };
    days.set(key, day);
    day.total[outcome] += count;
    const hour = day.hours[Math.floor(Date.parse(start) / 1000 / width) - first];
    if (hour !== undefined) hour[outcome] += count;
  }
  return days;
}

/** The counts that belong to a slot. Those of a wildcard are all but those of the slots that come before it. */
export function belonging(rows: readonly Count[], slot: Slot, slots: readonly Slot[]): Count[] {
  const known = [...slots, slot];
  return rows.filter(({ category, name }) => {
    const judge = judgeOf(known, category, name);
    return judge !== undefined && isSame(judge, slot);
  });
}
