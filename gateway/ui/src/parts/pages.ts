// Reads a list page by page, as far as somebody asks for. What was read stays until something else is asked for.
import { useCallback, useEffect, useRef, useState } from "preact/hooks";
import { Refused, Unreachable } from "../api/client";

export interface Page<T> {
  rows: T[];
  next: string | null;
}

export interface Pages<T> {
  rows: readonly T[];
  /** Whether there is more than what was read. */
  isMore: boolean;
  isBusy: boolean;
  /** Whether the first page has come. */
  isThere: boolean;
  problem: Refused | Unreachable | null;
  /** Reads the next page. */
  more: () => void;
  /** Reads all again from the first page. */
  again: () => void;
}

interface State<T> {
  key: string;
  rows: readonly T[];
  next: string | null;
  isBusy: boolean;
  isThere: boolean;
  problem: Refused | Unreachable | null;
}

/** Reads the first `pages` pages by itself. */
export function usePages<T>(key: string, pages: number, read: (cursor: string | null, signal: AbortSignal) => Promise<Page<T>>): Pages<T> {
  const start: State<T> = { key, rows: [], next: null, isBusy: true, isThere: false, problem: null };
  const [state, setState] = useState(start);
  const [round, setRound] = useState(0);
  const latest = useRef(read);
  latest.current = read;
  const control = useRef<AbortController | null>(null);

  const go = useCallback(async (cursor: string | null, count: number, before: readonly T[], signal: AbortSignal) => {
    let rows = before;
    let next = cursor;
    setState((now) => ({ ...now, key, isBusy: true, problem: null }));
    try {
      for (let page = 0; page < count && (page === 0 || next !== null); page++) {
        const got = await latest.current(next, signal);
        if (signal.aborted) return;
        rows = rows.length === 0 ? got.rows : [...rows, ...got.rows];
        next = got.next;
        setState({ key, rows, next, isBusy: page + 1 < count && next !== null, isThere: true, problem: null });
      }
    } catch (error) {
      if (signal.aborted) return;
      if (!(error instanceof Refused) && !(error instanceof Unreachable)) throw error;
      setState((now) => ({ ...now, key, isBusy: false, problem: error }));
    }
  }, [key]);

  useEffect(() => {
    const made = new AbortController();
    control.current = made;
    void go(null, pages, [], made.signal);
    return () => made.abort();
  }, [key, round]);

  const shown = state.key === key ? state : start;
  return {
    rows: shown.rows,
    isMore: shown.next !== null,
    isBusy: shown.isBusy,
    isThere: shown.isThere,
    problem: shown.problem,
    more: () => {
      if (!shown.isBusy && control.current !== null) void go(shown.next, 1, shown.rows, control.current.signal);
    },
    again: () => setRound((now) => now + 1),
  };
}
