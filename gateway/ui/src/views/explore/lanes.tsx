// The events of a session along its time, a lane for each application: where it was busy, and where nothing came.
import type { StoredEvent } from "../explore";

/** Parts into which the time is divided; events of one part are one bar. */
const PARTS = 120;
/** Lanes at most; further applications share the last. */
const LANES = 6;

/** The color of an application among those of its session. */
export function colorOf(application: string, applications: readonly (readonly [string, number])[]): string {
  const place = applications.findIndex(([one]) => one === application);
  return `lane-${Math.min(place, LANES - 1)}`;
}

export function Lanes({ rows, applications }: { rows: readonly StoredEvent[]; applications: readonly string[] }) {
  const lanes = Math.min(applications.length, LANES);
  const times = rows.map(({ timestamp }) => Date.parse(timestamp));
  const begin = times[0] ?? 0;
  const lasted = Math.max((times.at(-1) ?? 0) - begin, 1);
  const counts = Array.from({ length: lanes }, () => new Array<number>(PARTS).fill(0));
  const places = new Map(applications.map((one, index) => [one, Math.min(index, LANES - 1)]));
  rows.forEach(({ application }, index) => {
    const lane = counts[places.get(application) ?? 0];
    const part = Math.min(PARTS - 1, Math.floor((((times[index] ?? begin) - begin) / lasted) * PARTS));
    if (lane !== undefined) lane[part] = (lane[part] ?? 0) + 1;
  });
  const most = Math.max(1, ...counts.flat());
  const height = 18;
  return (
    <svg class="lanes" viewBox={`0 0 ${PARTS} ${lanes * height}`} preserveAspectRatio="none" role="img" aria-label={`When events came, of ${applications.length} ${applications.length === 1 ? "application" : "applications"}`} style={{ height: `${lanes * height}px` }}>
      {counts.map((lane, index) => (
        <g key={index} class={`lane-${index}`}>
          <rect class="ground" x="0" y={index * height + height - 2} width={PARTS} height="1" />
          {lane.map((count, part) => {
            if (count === 0) return null;
            const tall = 3 + (Math.log2(1 + count) / Math.log2(1 + most)) * (height - 5);
            return <rect key={part} x={part} y={index * height + height - 2 - tall} width="0.9" height={tall} />;
          })}
        </g>
      ))}
    </svg>
  );
}
