// Builds the panel into `dist/`, which the gateway embeds: each file once as it is and once compressed. All names but that of
// the page have a digest of their content.
import { build } from "esbuild";
import { mkdir, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { basename, join } from "node:path";
import { fileURLToPath } from "node:url";
import { gzipSync } from "node:zlib";

const here = fileURLToPath(new URL(".", import.meta.url));
const dist = join(here, "dist");

await mkdir(dist, { recursive: true });
for (const name of await readdir(dist)) {
  if (name !== ".gitignore") await rm(join(dist, name));
}
const { metafile } = await build({
  absWorkingDir: here,
  entryPoints: { app: "src/main.tsx" },
  outdir: "dist",
  entryNames: "[name]-[hash]",
  chunkNames: "part-[hash]",
  bundle: true,
  splitting: true,
  format: "esm",
  target: ["chrome111", "firefox115", "safari16.4"],
  jsx: "automatic",
  jsxImportSource: "preact",
  minify: true,
  legalComments: "none",
  metafile: true,
  logLevel: "warning",
});
const made = Object.entries(metafile.outputs);
const entry = made.find(([, output]) => output.entryPoint === "src/main.tsx");
if (entry?.[1].cssBundle === undefined) throw new Error("the build made no script with a style");
const page = (await readFile(join(here, "src/index.html"), "utf8"))
  .replace("{script}", basename(entry[0]))
  .replace("{style}", basename(entry[1].cssBundle));
await writeFile(join(dist, "index.html"), page);
let sum = 0;
for (const name of await readdir(dist)) {
  if (name === ".gitignore") continue;
  const packed = gzipSync(await readFile(join(dist, name)), { level: 9 });
  await writeFile(join(dist, `${name}.gz`), packed);
  sum += packed.length;
}
console.log(`The panel is built into gateway/ui/dist: ${(sum / 1024).toFixed(1)} KiB compressed.`);
