// A chart of rates over time, with its numbers as text beside it: the legend tells the values under the mouse, and the table
// below has them for whoever does not see the picture.
import { useEffect, useRef, useState } from "preact/hooks";
import uPlot from "uplot";
import "uplot/dist/uPlot.min.css";
import { color, colors } from "./theme";
import { moment, rate, Time } from "./words";

export interface Line {
  name: string;
  /** The color's name in the style sheet. */
  color: string;
  values: (number | null)[];
}

/** Rows of the table at most. */
const ROWS_MAX = 40;

interface Given {
  title: string;
  times: number[];
  lines: Line[];
  /** The first and the last moment that is shown. */
  span: [number, number];
  /** What stands behind the name of a value: "/s" for rates, nothing for counts. */
  unit?: string;
}

export function Chart({ title, times, lines, span, unit = "/s" }: Given) {
  const place = useRef<HTMLDivElement>(null);
  const plot = useRef<uPlot | null>(null);
  const range = useRef(span);
  range.current = span;
  const [at, setAt] = useState<number | null>(null);
  const names = lines.map((line) => line.name).join();

  useEffect(() => {
    const element = place.current;
    if (element === null) return;
    const axis: uPlot.Axis = {
      stroke: () => color("--quiet"),
      grid: { stroke: () => color("--line"), width: 1 },
      ticks: { show: false },
      font: "12px system-ui, sans-serif",
    };
    const made = new uPlot(
      {
        width: element.clientWidth,
        height: element.clientHeight,
        legend: { show: false },
        cursor: { y: false, drag: { x: false, y: false }, points: { size: 7 } },
        scales: { x: { time: true, range: () => range.current }, y: { range: (_, __, max) => [0, Math.max(max * 1.1, 0.1)] } },
        axes: [
          { ...axis, space: 70, values: (_, ticks, __, ___, step) => ticks.map((tick) => moment(tick, step)) },
          { ...axis, size: 48, values: (_, ticks) => ticks.map((tick) => rate(tick)) },
        ],
        series: [
          {},
          ...lines.map((line) => ({
            label: line.name,
            stroke: () => color(line.color),
            width: 1.75,
            points: { show: false },
            ...(line.name === "stored" ? { fill: () => color("--stored-fill") } : {}),
            paths: uPlot.paths.stepped?.({ align: 1 }) ?? null,
          })),
        ],
        hooks: { setCursor: [(self) => setAt(self.cursor.idx ?? null)] },
      } as uPlot.Options,
      [[], ...lines.map(() => [])] as unknown as uPlot.AlignedData,
      element,
    );
    plot.current = made;
    const sized = new ResizeObserver(() => made.setSize({ width: element.clientWidth, height: element.clientHeight }));
    sized.observe(element);
    return () => {
      sized.disconnect();
      made.destroy();
      plot.current = null;
    };
  }, [names]);

  useEffect(() => plot.current?.setData([times, ...lines.map((line) => line.values)] as uPlot.AlignedData), [times, lines]);
  const drawn = colors.value;
  useEffect(() => plot.current?.redraw(), [drawn]);

  const shown = at ?? times.length - 2;
  const time = times[shown];
  const step = Math.max(1, Math.ceil(times.length / ROWS_MAX));
  const rows = times.map((_, index) => index).filter((index) => (times.length - 1 - index) % step === 0);
  const latest = lines.map((line) => `${line.name} ${rate(line.values[times.length - 2] ?? 0)}`).join(", ");
  return (
    <figure class="chart">
      <figcaption class="legend">
        {lines.map((line) => (
          <span key={line.name} class={`key ${line.name}`}>
            {line.name} <b>{rate(line.values[shown] ?? 0)}</b>
          </span>
        ))}
        <span class="quiet at">{time !== undefined && <Time at={new Date(time * 1000).toISOString()} />}</span>
      </figcaption>
      <div class="plot" ref={place} role="img" aria-label={`${title}. Latest: ${latest}.`} />
      <details>
        <summary>The same as a table</summary>
        <div class="scroll" tabIndex={0} role="region" aria-label={`${title}, as a table`}>
          <table>
            <thead>
              <tr>
                <th scope="col">Time</th>
                {lines.map((line) => (
                  <th key={line.name} scope="col" class="number">
                    {line.name}
                    {unit}
                  </th>
                ))}
              </tr>
            </thead>
            <tbody>
              {rows.reverse().map((index) => (
                <tr key={times[index]}>
                  <td>
                    <Time at={new Date((times[index] ?? 0) * 1000).toISOString()} />
                  </td>
                  {lines.map((line) => (
                    <td key={line.name} class="number">
                      {rate(line.values[index] ?? 0)}
                    </td>
                  ))}
                </tr>
              ))}
            </tbody>
          </table>
        </div>
      </details>
    </figure>
  );
}
