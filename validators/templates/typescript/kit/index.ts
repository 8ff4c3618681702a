// Write a validator for The Eye: a shape, one function, and a few examples.

export { Decimal } from "./decimal.ts";
export { Json, JsonObject, type Part, type Value } from "./json.ts";
export { Pattern } from "./pattern.ts";
export { Place, pointer } from "./place.ts";
export { big, choice, decimal, flag, json, list, map, number, object, optional, type Read, type Shape, text, whole } from "./read.ts";
export { isCountry, isCurrency, isEmail, isHostName, isUrl, isUuid } from "./rules.ts";
export {
  accept,
  amend,
  type Definition,
  type Event,
  type Example,
  type More,
  type RawEvent,
  type ReceivedEvent,
  reject,
  type Validator,
  validator,
} from "./validator.ts";
export { type At, type Verdict, type Violation, Violations } from "./violations.ts";
