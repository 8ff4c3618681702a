// What runs: the gateways of the database, the sets of modules that they have served, long work, and the settings of the
// gateway that answers. What the session may not see is left out.
import type { Filters } from "../address";
import { may } from "../session";
import { Gateways } from "./fleet/gateways";
import { Generations } from "./fleet/generations";
import { Jobs } from "./fleet/jobs";
import { Settings } from "./fleet/settings";
import "../parts/form.css";
import "./fleet/fleet.css";

export function Fleet({ filters }: { filters: Filters }) {
  return (
    <>
      <Gateways />
      <Generations filters={filters} />
      {may("admin") && <Jobs filters={filters} />}
      {may("admin") && <Settings filters={filters} />}
    </>
  );
}
