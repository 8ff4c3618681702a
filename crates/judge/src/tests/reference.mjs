// Judges by Node's engine: reads modules and events as JSON from standard input, and writes what each event comes to. Each
// event meets a new instance in which `describe` ran. The canonical ABI is done here by hand, for the types of the contract.
import { readFileSync } from "node:fs";

const encoder = new TextEncoder();
const decoder = new TextDecoder("utf-8", { fatal: true });

/** Instances of the parts, each of which may import from the first; what the last one exports. */
function instantiate(parts) {
  const instances = [];
  for (const part of parts) {
    const given = instances.length > 0 ? { first: instances[0].exports } : {};
    instances.push(new WebAssembly.Instance(part, given));
  }
  return instances.at(-1).exports;
}

function text(exports, at) {
  const words = new DataView(exports.memory.buffer);
  const [start, length] = [words.getUint32(at, true), words.getUint32(at + 4, true)];
  return decoder.decode(new Uint8Array(exports.memory.buffer, start, length));
}

function describe(exports) {
  const at = exports.describe() >>> 0;
  const summary = text(exports, at);
  exports.cabi_post_describe?.(at);
  return summary;
}

function put(exports, value) {
  const bytes = encoder.encode(value);
  const at = exports.cabi_realloc(0, 0, 1, bytes.length) >>> 0;
  if (at + bytes.length > exports.memory.buffer.byteLength) throw new WebAssembly.RuntimeError("no such place");
  new Uint8Array(exports.memory.buffer).set(bytes, at);
  return [at, bytes.length];
}

function validate(exports, event) {
  const flat = [];
  for (const field of ["id", "application", "session_id", "category", "name"]) flat.push(...put(exports, event[field]));
  const data = put(exports, event.data);
  const at = exports.validate(...flat, BigInt(event.timestamp), ...data) >>> 0;
  const view = new DataView(exports.memory.buffer);
  const kind = view.getUint8(at);
  let verdict = "accept";
  if (kind === 1) verdict = `amend ${text(exports, at + 4)}`;
  if (kind === 2) {
    const [list, count] = [view.getUint32(at + 4, true), view.getUint32(at + 8, true)];
    const one = (index) => [0, 8, 16].map((part) => text(exports, list + 24 * index + part)).join("|");
    verdict = `reject ${Array.from({ length: count }, (_, index) => one(index)).join("; ")}`;
  }
  exports.cabi_post_validate?.(at);
  return verdict;
}

/** What comes of `run`, or that it trapped. */
function outcome(run) {
  try {
    return run();
  } catch (error) {
    if (error instanceof WebAssembly.RuntimeError || error instanceof RangeError) return "trap";
    throw error;
  }
}

const modules = JSON.parse(readFileSync(0, "utf8"));
const answers = modules.map(({ parts, events }) => {
  const compiled = parts.map((part) => new WebAssembly.Module(Buffer.from(part, "base64")));
  return {
    described: outcome(() => describe(instantiate(compiled))),
    verdicts: events.map((event) =>
      outcome(() => {
        const exports = instantiate(compiled);
        describe(exports);
        return validate(exports, event);
      }),
    ),
  };
});
process.stdout.write(JSON.stringify(answers));
