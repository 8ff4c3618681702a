// Who is signed in. The cookie of a session counts only with a secret that this tab keeps, in memory and in its session
// storage, so that a reload stays signed in and no other tab is. A watch asks each second whether the session still holds:
// so a revoked token, a changed scope and a gateway that is away are seen at once.
import { computed, signal } from "@preact/signals";
import { access, get, Refused, type Schemas, send, Unreachable } from "./api/client";

export type Who = Schemas["PanelSession"];
export type Scope = Who["scopes"][number];
type State =
  | { kind: "opening" }
  | { kind: "out"; why: string | null; problem: Refused | Unreachable | null }
  | { kind: "in"; who: Who };

const PLACE = "eye.secret";
/** Milliseconds between two looks at the session, and between two tries while the gateway does not answer. */
const LOOK_MS = 800;
/** The same while nobody sees the page. */
const HIDDEN_LOOK_MS = 10_000;

export const session = signal<State>({ kind: "opening" });
/** Since when the gateway has not answered, in milliseconds since 1970; null while it does. */
export const awaySince = signal<number | null>(null);

const scopes = computed<readonly Scope[]>(() => (session.value.kind === "in" ? session.value.who.scopes : []));

/** Whether the session may do what needs this scope. `admin` includes all others, `raw` and `ship` include `read`. */
export function may(scope: Scope): boolean {
  const own = scopes.value;
  return own.includes("admin") || own.includes(scope) || (scope === "read" && (own.includes("raw") || own.includes("ship")));
}

function out(why: string | null, problem: Refused | Unreachable | null = null): void {
  access.secret = null;
  sessionStorage.removeItem(PLACE);
  session.value = { kind: "out", why, problem };
}

access.ended = () =>
  out("Your session is over. It was signed out, it ran out, or the token behind it was revoked or replaced. Sign in again.");

/** Begins: with the code in the address, if it has one, or with the session of this tab. */
export async function begin(): Promise<void> {
  const code = location.hash.match(/^#code=([0-9a-f]+)$/)?.[1];
  if (code !== undefined) {
    // The code leaves the address and the history before anything else happens.
    history.replaceState(null, "", "/");
    await signInWith(code);
  } else {
    access.secret = sessionStorage.getItem(PLACE);
    if (access.secret === null) out(null);
  }
  void watch();
}

async function signInWith(code: string): Promise<void> {
  try {
    // What another session has left says nothing of this one.
    access.secret = null;
    const { secret, ...who } = await send<Schemas["PanelSignedIn"]>("POST", "/v1/panel/session", { body: { code } });
    access.secret = secret;
    sessionStorage.setItem(PLACE, secret);
    awaySince.value = null;
    session.value = { kind: "in", who };
  } catch (error) {
    if (error instanceof Refused && error.code === "unknown_code") {
      out("This address has been used, or it is older than ten minutes. Sign in with a token, or run `eye panel` for another address.");
    } else {
      out(null, known(error));
    }
  }
}

/** Signs in with a token. The page does not keep it: the gateway gives a code for it, and the code gives a session. */
export async function signIn(token: string): Promise<void> {
  try {
    const { code } = await send<Schemas["PanelCode"]>("POST", "/v1/panel/codes", { token });
    await signInWith(code);
  } catch (error) {
    out(null, known(error));
  }
}

/** Ends the session here and at the gateway. */
export async function signOut(): Promise<void> {
  try {
    await send("DELETE", "/v1/panel/session");
    out("You are signed out.");
  } catch (error) {
    if (error instanceof Refused && error.status === 401) return;
    out("This tab has forgotten your session, but the gateway could not end it. It ends by itself.", known(error));
  }
}

function known(error: unknown): Refused | Unreachable {
  if (error instanceof Refused || error instanceof Unreachable) return error;
  throw error;
}

/** Looks at the session for as long as the page is open. */
async function watch(): Promise<never> {
  for (;;) {
    const { secret } = access;
    if (secret !== null) {
      try {
        const who = await get("/v1/panel/session");
        if (secret === access.secret) session.value = same(who) ?? { kind: "in", who };
        awaySince.value = null;
      } catch (error) {
        if (!(error instanceof Refused)) awaySince.value ??= Date.now();
        else if (error.status !== 401) awaySince.value = null;
      }
    }
    await pause();
  }
}

/** The state as it is, if it shows the same already: then nothing is drawn again. */
function same(who: Who): State | null {
  const now = session.peek();
  return now.kind === "in" && JSON.stringify(now.who) === JSON.stringify(who) ? now : null;
}

function pause(): Promise<void> {
  return new Promise((done) => {
    const timer = setTimeout(done, document.hidden ? HIDDEN_LOOK_MS : LOOK_MS);
    document.addEventListener(
      "visibilitychange",
      () => {
        clearTimeout(timer);
        done();
      },
      { once: true },
    );
  });
}
