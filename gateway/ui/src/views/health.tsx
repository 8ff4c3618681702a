// What is wrong with modules and gateways. What a reader with limits may not see is left out.
import { hrefOf } from "../address";
import { get } from "../api/client";
import { troubleOf } from "../api/modules";
import { unlessHidden, useLoaded } from "../parts/loading";
import { Problem } from "../parts/problem";
import { Time } from "../parts/words";
import { hrefOfSlot } from "./validators/words";

const EVERY = 5000;

export function Modules() {
  const { data, problem } = useLoaded("validators", EVERY, (signal) => unlessHidden(() => get("/v1/validators", undefined, { signal })));
  if (data === null) return null;
  const troubled = (data?.validators ?? []).flatMap((one) => {
    const why = troubleOf(one);
    return why === null ? [] : [{ key: one.file, title: one.event_type, why, href: hrefOfSlot(one) }];
  });
  const rest = (data?.problems ?? []).map(({ file, why, nearest }) => ({
    key: `file ${file}`,
    title: file,
    why: nearest === null ? why : `${why}. Nearest name: ${nearest}`,
    href: hrefOf("validators"),
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
          {list.map(({ key, title, why, href }) => (
            <li key={key}>
              <a href={href}>
                <bdi class="type">{title}</bdi>
              </a>
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
