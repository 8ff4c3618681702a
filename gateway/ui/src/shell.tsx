// The frame of every view: who is signed in, the navigation, and what is wrong with the gateway itself.
import { LogOut, Monitor, Moon, Sun } from "lucide";
import { useEffect, useRef, useState } from "preact/hooks";
import { address, hrefOf } from "./address";
import { Icon } from "./parts/icon";
import { nextTheme, theme } from "./parts/theme";
import { duration } from "./parts/words";
import { awaySince, may, session, signOut } from "./session";
import { VIEWS } from "./views";
import { SignIn } from "./views/sign-in";

const THEME_ICONS = { system: Monitor, light: Sun, dark: Moon };

export function Shell() {
  const state = session.value;
  if (state.kind === "opening") {
    return (
      <main class="alone">
        <h1 class="unseen">The Eye</h1>
        {awaySince.value === null ? <p class="quiet">Opening…</p> : <Away />}
      </main>
    );
  }
  if (state.kind === "out") return <SignIn why={state.why} problem={state.problem} />;
  return <Inside application={state.who.application} scopes={state.who.scopes} endsAt={state.who.ends_at} />;
}

function Inside({ application, scopes, endsAt }: { application: string; scopes: readonly string[]; endsAt: string }) {
  const { view: id, filters } = address.value;
  const view = VIEWS.find((one) => one.id === id && one.show !== undefined);
  const title = view?.title ?? "Nothing here";
  const heading = useRef<HTMLHeadingElement>(null);
  const first = useRef(true);

  useEffect(() => {
    document.title = `${title} · The Eye`;
    // A screen reader reads on at the new view. The first one is where it starts anyway.
    if (!first.current) {
      heading.current?.focus({ preventScroll: true });
      scrollTo(0, 0);
    }
    first.current = false;
    // Where the page is narrow, the navigation is wider than the window.
    document.querySelector("nav [aria-current]")?.scrollIntoView({ block: "nearest", inline: "center" });
  }, [id]);

  return (
    <div class="frame">
      <a class="skip" href="#main" onClick={skip}>
        To the content
      </a>
      <header>
        <a class="brand" href={hrefOf("overview")}>
          <img src="/panel/icon.svg" alt="" width="24" height="24" /> The Eye
        </a>
        <nav aria-label="Views">
          <ul>
            {VIEWS.filter((one) => one.show !== undefined && one.icon !== null && may(one.scope)).map((one) => (
              <li key={one.id}>
                <a href={hrefOf(one.id)} {...(one.id === id ? { "aria-current": "page" as const } : one.id === view?.under ? { "aria-current": "true" as const } : {})}>
                  {one.icon !== null && <Icon of={one.icon} />}
                  {one.title}
                </a>
              </li>
            ))}
          </ul>
        </nav>
        <div class="who">
          <span class="name" title={`Scopes: ${scopes.join(", ")}. Signed in until ${new Date(endsAt).toLocaleString()}.`}>
            <span class="unseen">Signed in as </span>
            <bdi>{application}</bdi>
          </span>
          <button type="button" class="plain" onClick={nextTheme} title={`Colors: ${theme.value}`}>
            <Icon of={THEME_ICONS[theme.value]} />
            <span class="unseen">Colors: {theme.value}</span>
          </button>
          <button type="button" class="plain" onClick={() => void signOut()} title="Sign out">
            <Icon of={LogOut} />
            <span class="unseen">Sign out</span>
          </button>
        </div>
      </header>
      <main id="main" tabIndex={-1}>
        {awaySince.value !== null && <Away />}
        <h1 ref={heading} tabIndex={-1}>
          {title}
        </h1>
        <Content view={view} filters={filters} />
      </main>
    </div>
  );
}

function Content({ view, filters }: { view: (typeof VIEWS)[number] | undefined; filters: Record<string, string> }) {
  if (view?.show === undefined) {
    return (
      <p>
        The panel has no such page. <a href={hrefOf("overview")}>Go to the overview</a>.
      </p>
    );
  }
  if (!may(view.scope)) {
    return (
      <p>
        Your application has not the scope <code>{view.scope}</code>, which this page needs. An administrator can give it.
      </p>
    );
  }
  const Show = view.show;
  return <Show filters={filters} />;
}

function skip(event: Event): void {
  event.preventDefault();
  document.getElementById("main")?.focus();
}

/** Says that the gateway does not answer. What is shown meanwhile is old. */
function Away() {
  const [, setNow] = useState(0);
  useEffect(() => {
    const timer = setInterval(() => setNow(Date.now()), 1000);
    return () => clearInterval(timer);
  }, []);
  const since = awaySince.value ?? Date.now();
  return (
    <div class="problem away">
      <span role="alert">The gateway does not answer.</span>
      <span>It was last heard {duration((Date.now() - since) / 1000)} ago. The page tries again each second.</span>
    </div>
  );
}
