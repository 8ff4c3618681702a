// Signing in, with a token or by the address that `eye panel` prints.
import { KeyRound } from "lucide";
import { useEffect, useRef, useState } from "preact/hooks";
import { Refused, type Unreachable } from "../api/client";
import { Icon } from "../parts/icon";
import { Problem } from "../parts/problem";
import { signIn } from "../session";

export function SignIn({ why, problem }: { why: string | null; problem: Refused | Unreachable | null }) {
  const [busy, setBusy] = useState(false);
  const field = useRef<HTMLInputElement>(null);
  useEffect(() => {
    document.title = "Sign in · The Eye";
    field.current?.focus();
  }, []);
  const submit = async (event: Event) => {
    event.preventDefault();
    const token = field.current?.value.trim() ?? "";
    if (token === "" || busy) return;
    setBusy(true);
    await signIn(token);
    setBusy(false);
    field.current?.select();
  };
  const unknown = problem instanceof Refused && problem.code === "unknown_sender";
  return (
    <main class="alone">
      <div class="card sign-in">
        <img src="/panel/icon.svg" alt="" width="40" height="40" />
        <h1>Sign in to The Eye</h1>
        <div aria-live="polite">{why !== null && <p class="notice">{why}</p>}</div>
        {problem !== null && <Problem of={problem} doing={unknown ? "No application has this token." : "You are not signed in."} />}
        <form onSubmit={submit}>
          <label for="token">Token of an application with the scope read</label>
          <input id="token" ref={field} type="password" autocomplete="off" spellcheck={false} required placeholder="eye_…" />
          <button type="submit" class="primary" disabled={busy}>
            <Icon of={KeyRound} />
            {busy ? "Signing in…" : "Sign in"}
          </button>
        </form>
        <p class="quiet">
          No token at hand? On the machine of the gateway, <code>eye panel</code> prints an address that signs in once. The page
          keeps no token, and its session ends with this tab.
        </p>
      </div>
    </main>
  );
}
