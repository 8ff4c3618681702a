// What ends or replaces the rights of an application: each is asked first, and says what it ends.
import { useState } from "preact/hooks";
import { Refused, type Schemas, send } from "../../api/client";
import { Ask, FormField, saidOf } from "../../parts/form";
import { Time } from "../../parts/words";
import { type Application, count, isInUse } from "./words";

interface Given {
  of: Application;
  done: (now: Schemas["ApplicationWithToken"], what: string) => void;
  leave: () => void;
  /** The session of this page is one of this application. */
  isOwn: boolean;
}

const placesOf = ({ name }: Application) => ({ places: { name } });

/** What stops working when it is shut out. */
function Ended({ of, isOwn }: { of: Application; isOwn: boolean }) {
  const each = [
    of.known_by !== "network" && of.tokens > 0 ? count(of.tokens, "token") : "",
    of.certificates.length > 0 ? count(of.certificates.length, "certificate") : "",
    of.networks.length > 0 ? count(of.networks.length, "network") : "",
  ].filter((one) => one !== "");
  const last = of.token_details.flatMap(({ last_used_at: at }) => (at === null ? [] : [at])).sort().at(-1);
  return (
    <ul>
      <li>{each.length === 0 ? "It has nothing that it could be known by." : `What it is known by is refused on all gateways within a second: ${each.join(", ")}.`}</li>
      {last !== undefined && (
        <li>
          It was last used <Time at={last} />.
        </li>
      )}
      {of.scopes.includes("ingest") && <li>Events that it sends from then on are refused with 401. It has to keep them, or they are lost.</li>}
      {of.scopes.some((scope) => scope !== "ingest") && <li>Its streams end, and who is signed in to the panel as it is signed out.</li>}
      {isOwn && (
        <li>
          <strong>You are signed in as it: you are signed out too.</strong>
        </li>
      )}
    </ul>
  );
}

export function Suspend({ of, done, leave, isOwn }: Given) {
  const act = async () => done(await send<Application>("PATCH", "/v1/applications/{name}", { ...placesOf(of), body: { active: false } }), "It is suspended.");
  return (
    <Ask id="suspend" title={<>Suspend <bdi>{of.name}</bdi>?</>} yes="Suspend it" act={act} leave={leave} doing="It was not suspended.">
      <Ended of={of} isOwn={isOwn} />
      <p>It can be resumed, and then all of this works again as it is. What it has sent stays.</p>
    </Ask>
  );
}

export function Resume({ of, done, leave }: Given) {
  const act = async () => done(await send<Application>("PATCH", "/v1/applications/{name}", { ...placesOf(of), body: { active: true } }), "It is active again.");
  return (
    <Ask id="resume" title={<>Resume <bdi>{of.name}</bdi>?</>} yes="Resume it" act={act} leave={leave} doing="It was not resumed.">
      <p>Its tokens, certificates and networks work again, on all gateways within a second, but tokens whose time is over.</p>
    </Ask>
  );
}

export function Revoke({ of, done, leave, isOwn }: Given) {
  const act = async () => done(await send<Application>("POST", "/v1/applications/{name}/revoke", placesOf(of)), "It is revoked, and stays so.");
  return (
    <Ask id="revoke" title={<>Revoke <bdi>{of.name}</bdi>?</>} yes="Revoke it for ever" isGrave act={act} leave={leave} doing="It was not revoked.">
      <Ended of={of} isOwn={isOwn} />
      <p>
        <strong>This cannot be taken back</strong>, and its name is not given again. What it has sent stays, under its name. To shut it out for a while, suspend it.
      </p>
    </Ask>
  );
}

/** Which of its tokens the gateway ends for a new one. */
function turnOf({ token_details: [older, newest] }: Application) {
  if (older === undefined) return <p>It gets a token.</p>;
  if (newest === undefined) {
    return <p>It gets a second token. The one that it has stays live until you end it, so that senders can change over one by one.</p>;
  }
  if (newest.last_used_at === null) {
    return (
      <p>
        Nobody has used its newest token (<code>{newest.id}</code>): that one ends, and the new one takes its place. The older one stays live.
      </p>
    );
  }
  if (isInUse(older)) {
    return (
      <p>
        <strong>Both of its tokens were used within a day</strong>, so the gateway will refuse this: a third would end one that somebody still has. End the older one first.
      </p>
    );
  }
  return (
    <p>
      Its older token (<code>{older.id}</code>), which was not used for a day, ends. The newer one stays live beside the new one.
    </p>
  );
}

export function Rotate({ of, done, leave }: Given) {
  const [expires, setExpires] = useState("");
  const [error, setError] = useState<string>();
  const act = async () => {
    setError(undefined);
    const body = expires.trim() === "" ? {} : { expires: expires.trim() };
    try {
      const now = await send<Schemas["ApplicationWithToken"]>("POST", "/v1/applications/{name}/rotate", { ...placesOf(of), body });
      done(now, now.tokens > 1 ? "It has a new token, and the older one stays live until you end it." : "It has a new token.");
    } catch (refused) {
      if (!(refused instanceof Refused) || refused.problem.parameter !== "expires") throw refused;
      setError(saidOf(refused, "expires"));
      requestAnimationFrame(() => document.getElementById("rotate-expires")?.focus());
    }
  };
  return (
    <Ask id="rotate" title={<>A new token for <bdi>{of.name}</bdi>?</>} yes="Make the token" act={act} leave={leave} doing="No token was made.">
      {turnOf(of)}
      <FormField id="rotate-expires" label="The new token ends" hint="After a time, such as 90d or 12h, or at a date, such as 2027-01-31. Empty: never." error={error}>
        {(given) => <input type="text" {...given} value={expires} placeholder="never" spellcheck={false} onInput={(event) => setExpires(event.currentTarget.value)} />}
      </FormField>
    </Ask>
  );
}

export function EndOld({ of, done, leave, isOwn }: Given) {
  const [older, newest] = of.token_details;
  const act = async () => {
    const body = { expire_old: true };
    done(await send<Application>("POST", "/v1/applications/{name}/rotate", { ...placesOf(of), body }), "Its older token has ended. The new one alone works.");
  };
  if (older === undefined || newest === undefined) return null;
  return (
    <Ask id="end-old" title={<>End the older token of <bdi>{of.name}</bdi>?</>} yes="End the older token" isGrave act={act} leave={leave} doing="The older token lives on.">
      <ul>
        <li>
          <code>{older.id}</code> {older.last_used_at === null ? "was never used" : <>was last used <Time at={older.last_used_at} /></>}. Whoever still sends it is refused with 401,
          on all gateways within a second.
        </li>
        <li>
          <code>{newest.id}</code>, the newer one, {newest.last_used_at === null ? <strong>was never used yet: has the application got it?</strong> : <>was last used <Time at={newest.last_used_at} />, and stays.</>}
        </li>
        {isOwn && <li>You are signed in as this application. If you signed in by the older token, you are signed out.</li>}
      </ul>
    </Ask>
  );
}
