// Ships a module for an event type that has none yet, or for any other: its category and name are given by hand.
import { useState } from "preact/hooks";
import { get } from "../../api/client";
import { type Slot, wrongOf } from "../../api/modules";
import { unlessHidden, useLoaded } from "../../parts/loading";
import { Ship } from "./ship";

/** What is typed: `*` is the wildcard. */
const part = (text: string): string | null => (text.trim() === "*" ? null : text);

export function ShipNew() {
  const [category, setCategory] = useState("");
  const [name, setName] = useState("");
  const gateways = useLoaded("where modules come from", 0, (signal) => unlessHidden(() => get("/v1/gateways", undefined, { signal })));
  const from = gateways.data?.gateways.find(({ answers }) => answers)?.modules_from;
  const slot: Slot = { category: part(category), name: part(name) };
  const wrong = wrongOf(slot);
  const begun = category !== "" && name !== "";
  // The file of `shop/sale` is called `sale.wasm`, so a name need not be typed twice.
  const named = (file: string) => {
    if (name === "") setName(nameOf(file) ?? "");
  };
  return (
    <section class="card" aria-labelledby="ship-new">
      <h2 id="ship-new">Ship a module for an event type</h2>
      <p class="quiet small">
        The name <code>*</code> stands for the other names of a category; <code>*</code> twice for everything else.
      </p>
      <div class="filters names">
        <label class="field">
          <span>Category</span>
          <input type="text" value={category} spellcheck={false} placeholder="shop" onInput={(event) => setCategory(event.currentTarget.value)} />
        </label>
        <label class="field">
          <span>Name</span>
          <input type="text" value={name} spellcheck={false} placeholder="sale" onInput={(event) => setName(event.currentTarget.value)} />
        </label>
      </div>
      <p class="bad small" role="status">
        {begun && wrong !== null ? wrong : ""}
      </p>
      <Ship slot={wrong === null ? slot : null} from={from} after={() => {}} named={named} elsewhere />
    </section>
  );
}

/** The name that a file of the modules directory stands for. */
function nameOf(file: string): string | null {
  const stem = file.replace(/\.(wasm|schema\.json)$/, "");
  if (stem === "_") return "*";
  try {
    const name = decodeURIComponent(stem);
    return wrongOf({ category: "any", name }) === null ? name : null;
  } catch {
    return null;
  }
}
