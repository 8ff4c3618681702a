// A change of a slot from its request to its end: the gateways prepare it, and it is reached, refused, or overtaken.
import { useEffect, useRef, useState } from "preact/hooks";
import { Refused, Unreachable } from "../../api/client";
import { type GatewayRefusal, type LoadError, type ModuleChange, type One, oneOf, type Preparation, type Slot } from "../../api/modules";
import { unlessHidden } from "../../parts/loading";

/** What is asked of the gateway: to answer after this many seconds, whether all gateways are ready or not. */
export const WAIT_S = 3;
/** Milliseconds that a gateway may take to load a large module and answer. */
export const SHIP_MS = 120_000;
const LOOK_MS = 700;
/** A gateway gives a preparation up after ten minutes. */
const LOOKS_MAX = 900;

export type Progress =
  | { kind: "idle" }
  | { kind: "asking" }
  | { kind: "preparing"; change: ModuleChange; waits: readonly GatewayRefusal[] }
  | { kind: "reached"; change: ModuleChange }
  | { kind: "failed"; problem: Refused | Unreachable }
  | { kind: "refused"; error: LoadError | Preparation };

/** Whether somebody waits for the change. */
export const isUnderWay = ({ kind }: Progress): boolean => kind === "asking" || kind === "preparing";

/** What has become of a change, by what its slot says now; null is a slot that is not there. */
export function settled(one: One | null, change: ModuleChange): Progress {
  const preparing: Progress = { kind: "preparing", change, waits: change.waits_for ?? [] };
  const preparation = one?.preparations?.find(({ id }) => id === change.preparation);
  if (preparation !== undefined) {
    const { state, waits_for: waits, generation } = preparation;
    if (state === "preparing") return { kind: "preparing", change, waits };
    if (state !== "active") return { kind: "refused", error: preparation };
    const is = one?.digest === change.digest;
    return is ? { kind: "reached", change: generation === null ? change : { ...change, generation } } : { kind: "preparing", change, waits };
  }
  if ((one?.digest ?? null) === change.digest) return { kind: "reached", change };
  const error = one?.last_error ?? null;
  return error !== null && error.digest === change.digest ? { kind: "refused", error } : preparing;
}

/** Asks for a change and follows it. `after` is called when it has come to its end. */
export function useChange(slot: Slot | null, after: () => void): { progress: Progress; run: (ask: () => Promise<ModuleChange>, of?: Slot) => Promise<void>; forget: () => void } {
  const [progress, setProgress] = useState<Progress>({ kind: "idle" });
  const control = useRef(new AbortController());
  useEffect(() => () => control.current.abort(), []);

  const follow = async (change: ModuleChange, of: Slot, signal: AbortSignal) => {
    let now: Progress = { kind: "preparing", change, waits: change.waits_for ?? [] };
    for (let look = 0; look < LOOKS_MAX && now.kind === "preparing" && !signal.aborted; look++) {
      setProgress(now);
      await new Promise((done) => setTimeout(done, LOOK_MS));
      try {
        now = settled(await unlessHidden(() => oneOf(of, signal)), change);
      } catch (error) {
        // What the gateway does not tell now, it tells later.
        if (!(error instanceof Refused) && !(error instanceof Unreachable) && !signal.aborted) throw error;
      }
    }
    return now;
  };
  const run = async (ask: () => Promise<ModuleChange>, of: Slot | null = slot) => {
    if (of === null) return;
    control.current.abort();
    control.current = new AbortController();
    const { signal } = control.current;
    setProgress({ kind: "asking" });
    let end: Progress;
    try {
      const change = await ask();
      end = change.state === "preparing" ? await follow(change, of, signal) : { kind: "reached", change };
    } catch (error) {
      if (!(error instanceof Refused) && !(error instanceof Unreachable)) throw error;
      end = { kind: "failed", problem: error };
    }
    if (signal.aborted) return;
    setProgress(end);
    after();
  };
  return { progress, run, forget: () => setProgress({ kind: "idle" }) };
}
