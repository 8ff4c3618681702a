// A component is a picture of the program after it was built: a clock would stand at that time for ever, and every random number
// would be the same one. The build puts these in place of JavaScript's own, so that nobody judges by them unawares.

const NO_CLOCK =
  "a validator has no clock: judge by `event.timestamp`, or by `event.receivedAt` in `judgeAt`, the time at which the gateway " +
  "received the event";
const NO_CHANCE =
  "a validator has no randomness: the same event gets the same verdict; take `event.id` for something that differs from event to event";

const OwnDate = globalThis.Date;

function refuse(why: string): never {
  throw new Error(why);
}

/** JavaScript's `Date`, for times that an event gives. */
export const Date: DateConstructor = new Proxy(OwnDate, {
  construct: (target, given) => (given.length === 0 ? refuse(NO_CLOCK) : Reflect.construct(target, given)),
  apply: () => refuse(NO_CLOCK),
  get: (target, name) => (name === "now" ? () => refuse(NO_CLOCK) : Reflect.get(target, name)),
});

/** JavaScript's `Math`, without `random`. */
export const Math: typeof globalThis.Math = Object.create(globalThis.Math, {
  random: { value: () => refuse(NO_CHANCE) },
});

/** In place of `crypto`. */
export const crypto: unknown = new Proxy({}, { get: () => refuse(NO_CHANCE) });

/** In place of `performance`. */
export const performance: unknown = new Proxy({}, { get: () => refuse(NO_CLOCK) });
