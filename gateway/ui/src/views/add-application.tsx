// Adds an application, and shows its token the one time that there is one.
import { useState } from "preact/hooks";
import { hrefOf } from "../address";
import { type Schemas, send } from "../api/client";
import { EMPTY, newOf } from "./applications/draft";
import { ApplicationForm } from "./applications/form";
import { TokenOnce } from "./applications/token";
import "./applications/applications.css";

export function AddApplication() {
  const [made, setMade] = useState<Schemas["ApplicationWithToken"] | null>(null);
  if (made !== null) {
    return (
      <>
        <p class="notice" role="status">
          <bdi>{made.name}</bdi> was added. This gateway knows it now, the others within a second.
        </p>
        {made.token !== undefined && <TokenOnce token={made.token} name={made.name} />}
        <p class="acts">
          <a class="button" href={hrefOf("application", { name: made.name })}>
            Go to <bdi>{made.name}</bdi>
          </a>
          <a class="button" href={hrefOf("applications")}>
            All applications
          </a>
        </p>
      </>
    );
  }
  return (
    <section class="card">
      <ApplicationForm
        start={EMPTY}
        before={null}
        submit={async (draft) => setMade(await send<Schemas["ApplicationWithToken"]>("POST", "/v1/applications", { body: newOf(draft) }))}
        yes="Add it"
        doing="It was not added."
        beside={<a href={hrefOf("applications")}>Leave it</a>}
      />
    </section>
  );
}
