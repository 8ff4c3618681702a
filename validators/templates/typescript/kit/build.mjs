// Builds the project: `node kit/build.mjs` makes build/rule.wasm, a component without imports, and
// `node kit/build.mjs --js OUT.mjs TYPE` one module for a page or Node. A failed build leaves neither file.

import { execFileSync } from "node:child_process";
import { createHash } from "node:crypto";
import { cpSync, existsSync, mkdirSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { dirname, join, resolve } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";

const kit = dirname(fileURLToPath(import.meta.url));
const project = dirname(kit);
const made = join(project, "build", "typescript");
const kept = join(project, "build", "kept");

/** The function of the contract that each of JavaScript's becomes, and the world that has it. */
const WORLDS = {
  redact: "eye:validator/redact@1.1.0",
  examples: "eye:validator/examples@1.1.0",
  validateAt: "eye:validator/validate-at@1.1.0",
};

class Told extends Error {}

function checkTypes() {
  const compiler = join(project, "node_modules", "typescript", "bin", "tsc");
  try {
    execFileSync(process.execPath, [compiler, "--noEmit", "--project", project], { cwd: project, stdio: ["ignore", 2, 2] });
  } catch {
    throw new Told("the types do not fit; tsc has said where");
  }
}

/** One module of an entry and all that it imports. */
async function bundle(entry, options) {
  const { build } = await import("esbuild");
  const { outputFiles } = await build({
    stdin: { contents: entry, resolveDir: project, sourcefile: "entry.ts", loader: "ts" },
    absWorkingDir: project,
    bundle: true,
    format: "esm",
    platform: "neutral",
    target: "es2022",
    charset: "utf8",
    write: false,
    legalComments: "none",
    inject: [join(kit, "frozen.ts")],
    ...options,
  }).catch(() => {
    throw new Told("esbuild could not put the project together; it has said why");
  });
  return outputFiles[0].text;
}

/** The validator of the project, run here to see which functions it has. */
async function validator() {
  const file = join(made, "look.mjs");
  writeFileSync(file, await bundle(
    'import "./kit/freeze.ts";\nexport { default } from "./src/rule.ts";',
    { sourcemap: "inline", outfile: file },
  ));
  process.setSourceMapsEnabled(true);
  const own = ["Date", "Math", "crypto", "performance"].map((name) => [
    name,
    Object.getOwnPropertyDescriptor(globalThis, name),
  ]);
  try {
    const { default: rule } = await import(pathToFileURL(file)).catch((error) => {
      throw new Told(`src/rule.ts does not run:\n${error.stack}`);
    });
    check(rule);
    return rule;
  } finally {
    // The tools need a clock.
    for (const [name, property] of own) Object.defineProperty(globalThis, name, property);
  }
}

/** Holds what a project exports to what a build needs. */
function check(rule) {
  if (typeof rule?.describe !== "function" || typeof rule?.validate !== "function") {
    throw new Told("src/rule.ts has no validator as its default export: export default validator({ ... })");
  }
  tryExamples(rule);
}

/** Runs the examples, since a component cannot say why it broke. Whether their verdicts are right, `eye validator test` says. */
function tryExamples(rule) {
  for (const example of [...rule.describe().examples, ...(rule.examples?.() ?? [])]) {
    const event = {
      id: "01890a5d-ac96-774b-bcce-b302099a8057",
      application: example.application ?? "test",
      sessionId: "67e55044-10b1-426f-9247-bb680e5fe0c8",
      category: "test",
      name: example.name ?? "test",
      timestamp: example.timestamp ?? 1_700_000_000_000_000n,
      data: example.data,
    };
    try {
      (rule.validateAt ?? rule.validate)(event, event.timestamp);
      rule.redact?.(example.data);
    } catch (error) {
      throw new Told(`the example \`${example.title}\` breaks the validator:\n${error.stack}`);
    }
  }
}

/** Writes the contract with a world that has these functions. */
function writeWorld(names) {
  const folder = join(made, "wit");
  cpSync(join(kit, "wit"), join(folder, "deps"), { recursive: true });
  const includes = ["eye:validator/validator@1.0.0", ...names.map((name) => WORLDS[name])];
  const lines = includes.map((world) => `  include ${world};`);
  writeFileSync(join(folder, "world.wit"), `package project:rule;\nworld rule {\n${lines.join("\n")}\n}\n`);
  return folder;
}

async function component() {
  const target = join(project, "build", "rule.wasm");
  rmSync(target, { force: true });
  checkTypes();
  const rule = await validator();
  const names = Object.keys(WORLDS).filter((name) => rule[name] !== undefined);
  const entry =
    'import "./kit/freeze.ts";\n' +
    'import rule from "./src/rule.ts";\n' +
    `export const { ${["describe", "validate", ...names].join(", ")} } = rule;\n`;
  const jsSource = await bundle(entry, { minifySyntax: true, minifyWhitespace: true });
  writeWhole(target, await componentOf(jsSource, names));
}

/** The component of a source. No two that componentize-qjs makes are the same, so the last one is kept for the same source. */
async function componentOf(jsSource, names) {
  const witPath = writeWorld(names);
  const hash = createHash("sha256");
  const files = [
    join(witPath, "world.wit"),
    ...["1.0.0", "1.1.0"].map((version) => join(kit, "wit", version, "validator.wit")),
    join(project, "package-lock.json"),
    fileURLToPath(import.meta.url),
  ];
  for (const part of [jsSource, ...files.map((file) => readFileSync(file))]) hash.update(part).update("\0");
  const file = join(kept, `${hash.digest("hex")}.wasm`);
  if (!existsSync(file)) {
    const { componentize } = await import("componentize-qjs");
    const options = { witPath, world: "rule", jsSource, stubWasi: true, sync: true, optSize: true };
    const { component } = await componentize(options);
    rmSync(kept, { recursive: true, force: true });
    writeWhole(file, component);
  }
  return readFileSync(file);
}

async function module(out, type) {
  rmSync(out, { force: true });
  checkTypes();
  await validator();
  const part = (text) => (text === undefined || text === "*" || text === "_" ? "test" : decodeURIComponent(text));
  const types = type.split("/").slice(0, 2);
  const entry =
    'import { judge } from "./kit/page.ts";\n' +
    'import rule from "./src/rule.ts";\n' +
    `const types = ${JSON.stringify([part(types[0]), part(types[1])])};\n` +
    "export const validate = (event, receivedAt) => judge(rule, types, event, receivedAt);\n" +
    "export const summary = rule.describe().summary;\n";
  writeWhole(out, await bundle(entry, { minify: true }));
}

function writeWhole(file, content) {
  mkdirSync(dirname(file), { recursive: true });
  writeFileSync(`${file}.new`, content);
  renameSync(`${file}.new`, file);
}

try {
  rmSync(made, { recursive: true, force: true });
  mkdirSync(made, { recursive: true });
  const [option, out, type] = process.argv.slice(2);
  if (option === "--js") await module(resolve(out), type ?? "*");
  else await component();
} catch (error) {
  process.stderr.write(`${error instanceof Told ? error.message : (error?.stack ?? error)}\n`);
  process.exitCode = 1;
}
