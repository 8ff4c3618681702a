// A choice of the time that a view shows.
import { RANGES, type Range } from "../api/counts";

export function Ranges({ range, choose }: { range: Range; choose: (range: Range) => void }) {
  return (
    <fieldset class="choice">
      <legend class="unseen">Time that is shown</legend>
      {(Object.keys(RANGES) as Range[]).map((id) => (
        <label key={id} class={id === range ? "chosen" : ""}>
          <input type="radio" name="range" value={id} checked={id === range} aria-label={RANGES[id].words} onChange={() => choose(id)} />
          <span>{RANGES[id].title}</span>
        </label>
      ))}
    </fieldset>
  );
}
