// A long list of lines of one height, of which only those in sight are drawn. Arrow keys, Page, Home and End move through it.
import type { ComponentChild } from "preact";
import { useLayoutEffect, useRef, useState } from "preact/hooks";

/** Lines that are drawn beyond both edges. */
const MORE = 8;

interface Given<T> {
  label: string;
  rows: readonly T[];
  height: number;
  keyOf: (row: T) => number;
  hrefOf: (row: T) => string | null;
  show: (row: T) => ComponentChild;
  /** Called with whether the first line is in sight. */
  onTop: (isTop: boolean) => void;
}

export function Rows<T>({ label, rows, height, keyOf, hrefOf, show, onTop }: Given<T>) {
  const box = useRef<HTMLDivElement>(null);
  const [view, setView] = useState({ top: 0, height: 600 });
  const [current, setCurrent] = useState<number | null>(null);
  const focused = useRef(false);

  useLayoutEffect(() => {
    const element = box.current;
    if (element === null) return;
    const look = () => setView({ top: element.scrollTop, height: element.clientHeight });
    const sized = new ResizeObserver(look);
    sized.observe(element);
    return () => sized.disconnect();
  }, []);

  const first = Math.max(0, Math.floor(view.top / height) - MORE);
  const last = Math.min(rows.length, Math.ceil((view.top + view.height) / height) + MORE);
  const place = current === null ? -1 : rows.findIndex((row) => keyOf(row) === current);

  // Before anything is painted: a key that follows at once goes to the line that is shown.
  useLayoutEffect(() => {
    if (focused.current && place >= 0) box.current?.querySelector<HTMLElement>('[data-current="true"]')?.focus({ preventScroll: true });
  });

  const move = (to: number) => {
    const index = Math.max(0, Math.min(rows.length - 1, to));
    const row = rows[index];
    const element = box.current;
    if (row === undefined || element === null) return;
    focused.current = true;
    setCurrent(keyOf(row));
    if (index * height < element.scrollTop) element.scrollTop = index * height;
    else if ((index + 1) * height > element.scrollTop + element.clientHeight) {
      element.scrollTop = (index + 1) * height - element.clientHeight;
    }
  };
  const page = Math.max(1, Math.floor(view.height / height) - 1);
  const steps: Record<string, number> = { ArrowDown: 1, ArrowUp: -1, PageDown: page, PageUp: -page, Home: -rows.length, End: rows.length };
  const key = (event: KeyboardEvent) => {
    const step = steps[event.key];
    if (step === undefined || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    // The first key leads to the first line in sight, but for those that lead to an end.
    const isEnd = Math.abs(step) === rows.length;
    move(place < 0 && !isEnd ? Math.ceil(view.top / height) : Math.max(place, 0) + step);
  };
  const scrolled = () => {
    const element = box.current;
    if (element === null) return;
    setView({ top: element.scrollTop, height: element.clientHeight });
    onTop(element.scrollTop < height);
  };
  return (
    <div class="rows" ref={box} onScroll={scrolled} onKeyDown={key} onFocusOut={() => (focused.current = false)} tabIndex={rows.length === 0 ? -1 : 0} role="region" aria-label={label}>
      <ol style={{ height: `${rows.length * height}px` }}>
        {rows.slice(first, last).map((row, offset) => {
          const index = first + offset;
          const isCurrent = index === place;
          const href = hrefOf(row);
          const given = {
            "data-current": isCurrent,
            tabIndex: -1,
            onFocus: () => {
              focused.current = true;
              setCurrent(keyOf(row));
            },
          };
          return (
            <li key={keyOf(row)} style={{ transform: `translateY(${index * height}px)`, height: `${height}px` }} aria-setsize={rows.length} aria-posinset={index + 1}>
              {href === null ? <span {...given}>{show(row)}</span> : <a href={href} {...given}>{show(row)}</a>}
            </li>
          );
        })}
      </ol>
    </div>
  );
}
