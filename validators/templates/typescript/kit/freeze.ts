// The entry of a component imports this first, so that nothing that runs after finds JavaScript's own clock or randomness.

import { crypto, Date, Math, performance } from "./frozen.ts";

for (const [name, value] of Object.entries({ Date, Math, crypto, performance })) {
  Object.defineProperty(globalThis, name, { value, configurable: true });
}
