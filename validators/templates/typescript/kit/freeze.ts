// The entry of a component imports this first, so that nothing that runs after finds JavaScript's own clock or randomness.

import { crypto, Date, Math, performance } from "./frozen.ts";

Object.assign(globalThis, { Date, Math, crypto, performance });
