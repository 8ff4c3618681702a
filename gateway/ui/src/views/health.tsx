// What is wrong with modules and gateways. What a reader with limits may not see is left out.
import { get, type Schemas } from "../api/client";
import { unlessHidden, useLoaded } from "../parts/loading";
import { Problem } from "../parts/problem";
import { Time } from "../parts/words";

const EVERY = 5000;

/** What is wrong with a module, if something is. */
function trouble(one: Schemas["Validator"]): string | null {
  const error = one.last_error ?? one.settings_error;
  if (error !== null) return `${one.digest === null ? "Nothing serves" : "An older version serves on"}. ${error.found}. ${error.mend}`;
  if (one.held !== null) return "Nothing serves, so its events are not judged.";
  if (one.lost_since !== null) return "Its file is lost. The last good version serves on.";
  if (one.standing === "off-path") return "It is off the path, since it kept using up its time.";
  if (one.standing === "slow") return "It is slow, so it is called away from the request threads.";
  return null;
}

export function Modules() {
  const { data, problem } = useLoaded("validators", EVERY, (signal) => unlessHidden(() => get("/v1/validators", undefined, { signal })));
  if (data === null) return null;
  const troubled = (data?.validators ?? []).flatMap((one) => {
    const why = trouble(one);
    return why === null ? [] : [{ key: one.file, title: one.event_type, why }];
  });
  const rest = (data?.problems ?? []).map(({ file, why, nearest }) => ({
    key: `file ${file}`,
    title: file,
    why: nearest === null ? why : `${why}. Nearest name: ${nearest}`,
  }));
  const list = [...troubled, ...rest];
  const serving = data?.validators.filter((one) => one.digest !== null).length ?? 0;
  return (
    <section class="card" aria-labelledby="modules">
      <h2 id="modules">Modules in trouble</h2>
      {problem !== null && <Problem of={problem} doing="The modules could not be read." />}
      {data === undefined ? (
        <p class="quiet">…</p>
      ) : list.length === 0 ? (
        <p class="quiet">{serving === 0 ? "No module serves: every event is accepted as it is." : `None: ${serving} ${serving === 1 ? "module serves" : "modules serve"} without a problem.`}</p>
      ) : (
        <ul class="troubles">
          {list.map(({ key, title, why }) => (
            <li key={key}>
              <bdi class="type">{title}</bdi>
              <p>
                <bdi>{why}</bdi>
              </p>
            </li>
          ))}
        </ul>
      )}
    </section>
  );
}

export function Gateways() {
  const { data, problem } = useLoaded("gateways", EVERY, (signal) => unlessHidden(() => get("/v1/gateways", undefined, { signal })));
  if (data === null) return null;
  return (
    <section class="card" aria-labelledby="gateways">
      <h2 id="gateways">Gateways</h2>
      {problem !== null && <Problem of={problem} doing="The gateways could not be read." />}
      {data === undefined ? (
        <p class="quiet">…</p>
      ) : (
        <table>
          <thead>
            <tr>
              <th scope="col">Name</th>
              <th scope="col">State</th>
              <th scope="col">Version</th>
              <th scope="col">Since</th>
            </tr>
          </thead>
          <tbody>
            {data.gateways.map((one) => (
              <tr key={one.id}>
                <th scope="row">
                  <bdi title={one.listen}>{one.name}</bdi>
                  {one.answers && <span class="quiet"> (this one)</span>}
                </th>
                <td>
                  {!one.live ? (
                    <span class="bad">
                      gone, last seen <Time at={one.seen} />
                    </span>
                  ) : one.problems.length > 0 ? (
                    <span class="bad">
                      <bdi>{one.problems.map((each) => each.why).join("; ")}</bdi>
                    </span>
                  ) : (
                    "well"
                  )}
                </td>
                <td>{one.version}</td>
                <td>
                  <Time at={one.since} />
                </td>
              </tr>
            ))}
          </tbody>
        </table>
      )}
    </section>
  );
}
