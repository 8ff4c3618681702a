// Reads something again and again while a view shows it. What was read stays until the next answer, so that nothing jumps and
// a gateway that is away empties no page.
import { useEffect, useRef, useState } from "preact/hooks";
import { Refused, Unreachable } from "../api/client";

export interface Loaded<T> {
  /** The last answer; undefined before the first. */
  data: T | undefined;
  /** Why the last request failed, if it did. */
  problem: Refused | Unreachable | null;
}

/** A part of the time that an answer takes, so that slow answers are asked for less often. */
const REST = 20;

/** Reads by `read` each `every` milliseconds, and at once when `key` changes. Rests while nobody sees the page. */
export function useLoaded<T>(key: string, every: number, read: (signal: AbortSignal) => Promise<T>): Loaded<T> {
  const [state, setState] = useState<Loaded<T> & { key: string }>({ key, data: undefined, problem: null });
  const latest = useRef(read);
  latest.current = read;
  useEffect(() => {
    const control = new AbortController();
    let timer: ReturnType<typeof setTimeout> | undefined;
    let busy = false;
    const round = async () => {
      clearTimeout(timer);
      if (busy) return;
      busy = true;
      const began = performance.now();
      try {
        const data = await latest.current(control.signal);
        if (!control.signal.aborted) setState({ key, data, problem: null });
      } catch (error) {
        if (control.signal.aborted) return;
        if (!(error instanceof Refused) && !(error instanceof Unreachable)) throw error;
        setState((before) => ({ key, data: before.key === key ? before.data : undefined, problem: error }));
      } finally {
        busy = false;
      }
      const took = performance.now() - began;
      if (!document.hidden && every > 0) timer = setTimeout(() => void round(), Math.max(every, took * REST));
    };
    const seen = () => {
      if (!document.hidden) void round();
    };
    document.addEventListener("visibilitychange", seen);
    void round();
    return () => {
      control.abort();
      clearTimeout(timer);
      document.removeEventListener("visibilitychange", seen);
    };
  }, [key, every]);
  return state.key === key ? state : { data: undefined, problem: null };
}

/** What a reader with limits may not see is null, and is not shown. */
export async function unlessHidden<T>(read: () => Promise<T>): Promise<T | null> {
  try {
    return await read();
  } catch (error) {
    if (error instanceof Refused && (error.status === 404 || error.status === 403)) return null;
    throw error;
  }
}
