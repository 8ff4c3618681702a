// Serves the panel from `dist/` in front of a running gateway, and builds it again when a source changes: the gateway itself
// has the files of its own build. `EYE_GATEWAY=http://127.0.0.1:8000 npm run dev`
import { spawn } from "node:child_process";
import { watch } from "node:fs";
import { readFile } from "node:fs/promises";
import { createServer, request } from "node:http";
import { fileURLToPath } from "node:url";

const here = fileURLToPath(new URL(".", import.meta.url));
const gateway = new URL(process.env.EYE_GATEWAY ?? "http://127.0.0.1:8000");
const port = Number(process.env.PORT ?? 8080);
const types = { html: "text/html; charset=utf-8", js: "text/javascript; charset=utf-8", css: "text/css; charset=utf-8" };
const policy = (await readFile(`${here}../src/panel/files.rs`, "utf8")).match(/const POLICY: &str = "([^"]*)"/)?.[1] ?? "";

let building = Promise.resolve();
let timer;
const rebuild = () => {
  clearTimeout(timer);
  timer = setTimeout(() => {
    building = new Promise((done) => spawn("node", ["build.mjs"], { cwd: here, stdio: "inherit" }).on("close", done));
  }, 100);
};
watch(`${here}src`, { recursive: true }, rebuild);

createServer(async (asked, answer) => {
  await building;
  const name = asked.url === "/" ? "index.html" : asked.url?.match(/^\/panel\/([\w-]+\.(?:js|css))$/)?.[1];
  const content = name === undefined ? undefined : await readFile(`${here}dist/${name}`).catch(() => undefined);
  if (name !== undefined && content !== undefined) {
    const headers = { "content-type": types[name.split(".").at(-1)], "cache-control": "no-store" };
    answer.writeHead(200, { ...headers, "content-security-policy": policy.replaceAll(/\\\s+/g, "") }).end(content);
    return;
  }
  const { hostname, port: there } = gateway;
  const passed = request({ hostname, port: there, path: asked.url, method: asked.method, headers: asked.headers });
  passed.on("response", (got) => got.pipe(answer.writeHead(got.statusCode ?? 502, got.headers)));
  passed.on("error", () => answer.destroy());
  answer.on("close", () => passed.destroy());
  asked.pipe(passed);
}).listen(port, "127.0.0.1", () => console.log(`http://127.0.0.1:${port} shows the panel of ${gateway.href}`));
