// A small picture of counts over time: all of them, and those that are refused. Its label says the same in words.
import "./sparkline.css";

/** The units of the picture; it is stretched to its place. */
const WIDTH = 120;
const HEIGHT = 28;

export function Sparkline({ values, label }: { values: readonly { all: number; refused: number }[]; label: string }) {
  const most = Math.max(...values.map(({ all }) => all), 1);
  const step = WIDTH / Math.max(values.length, 1);
  const line = (of: (value: { all: number; refused: number }) => number) =>
    values.map((value, index) => `${index === 0 ? "M" : "L"}${(index * step).toFixed(1)} ${heightOf(of(value), most)}H${((index + 1) * step).toFixed(1)}`).join("");
  const all = line((value) => value.all);
  return (
    <svg class="sparkline" viewBox={`0 0 ${WIDTH} ${HEIGHT}`} preserveAspectRatio="none" role="img" aria-label={label}>
      <path class="ground" d={`${all}V${HEIGHT}H0Z`} />
      <path class="all" d={all} />
      {values.some(({ refused }) => refused > 0) && <path class="refused" d={`${line((value) => value.refused)}V${HEIGHT}H0Z`} />}
    </svg>
  );
}

/** Where a count stands. One that is there is always seen. */
function heightOf(count: number, most: number): string {
  return count === 0 ? String(HEIGHT) : (HEIGHT - 1 - Math.max(count / most, 0.06) * (HEIGHT - 3)).toFixed(1);
}
