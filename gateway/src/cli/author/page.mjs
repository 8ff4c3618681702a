// The rule for a page or Node, made by `eye validator bundle --js`: the code that a gateway runs, called by the canonical ABI
// of components. Each event gets a new instance, so that no event sees what another one left.
const [wasm, schema, limits, types] = PARTS;

const module = await WebAssembly.compile(Uint8Array.from(atob(wasm), (byte) => byte.charCodeAt(0)));
const encoder = new TextEncoder();
const decoder = new TextDecoder("utf-8", { fatal: true });

/** An instance in the state in which it judges, and its summary. */
function begun() {
  const { exports } = new WebAssembly.Instance(module);
  exports.start?.();
  const memory = exports["memory 0"];
  const instance = {
    /** Gives texts to a function, and returns the address of its answer. */
    call(name, ...values) {
      const flat = values.flatMap((value) => {
        if (typeof value !== "string") return [value];
        const bytes = encoder.encode(value);
        const at = exports[`${name} realloc`](0, 0, 1, bytes.length) >>> 0;
        new Uint8Array(memory.buffer, at, bytes.length).set(bytes);
        return [at, bytes.length];
      });
      return exports[name](...flat) >>> 0;
    },
    word: (at) => new DataView(memory.buffer).getUint32(at, true),
    text: (at) => decoder.decode(new Uint8Array(memory.buffer, instance.word(at), instance.word(at + 4))),
  };
  if (schema !== null) instance.call("configure", schema, ...limits);
  instance.summary = instance.text(instance.call("describe"));
  return instance;
}

const TIME = /^(.*?)(?:\.([0-9]{1,6})[0-9]*)?(Z|z|[+-][0-9]{2}:[0-9]{2})$/;

function microseconds(text) {
  const parts = TIME.exec(text);
  const seconds = parts === null ? Number.NaN : Date.parse(`${parts[1]}${parts[3]}`);
  if (Number.isNaN(seconds)) throw new TypeError("the timestamp of an event is written such as 2026-01-05T09:15:27Z");
  return BigInt(seconds) * 1000n + BigInt((parts[2] ?? "").padEnd(6, "0"));
}

/** Judges an event as a gateway would. What is left out of it is made up; `data` is an object, or the JSON text of one. */
export function validate(event) {
  const instance = begun();
  const { word, text } = instance;
  const at = instance.call(
    "validate",
    event.id ?? "01890a5d-ac96-774b-bcce-b302099a8057",
    event.application ?? "test",
    event.session_id ?? "67e55044-10b1-426f-9247-bb680e5fe0c8",
    event.category ?? types[0],
    event.name ?? types[1],
    microseconds(event.timestamp ?? "2023-11-14T22:13:20Z"),
    typeof event.data === "string" ? event.data : JSON.stringify(event.data),
  );
  switch (word(at) & 255) {
    case 0:
      return { verdict: "accept" };
    case 1:
      return { verdict: "amend", data: text(at + 4) };
    default: {
      const [first, count] = [word(at + 4), word(at + 8)];
      const places = Array.from({ length: count }, (_, index) => first + 24 * index);
      const violations = places.map((it) => ({ pointer: text(it), code: text(it + 8), message: text(it + 16) }));
      return { verdict: "reject", violations };
    }
  }
}

export const { summary } = begun();
