// A gateway with a Postgres of its own, and a browser that looks at it, for the tests of the panel.
import { spawn } from "node:child_process";
import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import { existsSync } from "node:fs";
import { chmod, mkdtemp, readFile, rm } from "node:fs/promises";
import { createRequire } from "node:module";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { chromium } from "playwright-core";

const AXE = await readFile(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");

export const ROOT = fileURLToPath(new URL("../../..", import.meta.url));
export const PROGRAM = process.env.EYE_PROGRAM ?? join(ROOT, "target/debug/eye");
const CHROMIUM = process.env.CHROMIUM ?? "/usr/bin/chromium";
export const MODULES = join(ROOT, "target/modules");
/** A folder with files of the panel that are used in place of those in the program, which spares a build while writing. */
const DIST = process.env.EYE_PANEL_DIST;
/** Milliseconds that anything may take to become true. */
const PATIENCE = 20_000;

/** Waits until `look` returns something. */
export async function eventually(what, look) {
  const until = Date.now() + PATIENCE;
  for (;;) {
    const found = await look().catch((error) => {
      if (Date.now() > until) throw error;
    });
    if (found) return found;
    if (Date.now() > until) throw new Error(`it never came true: ${what}`);
    await new Promise((done) => setTimeout(done, 50));
  }
}

async function freePort() {
  const server = createServer().listen(0, "127.0.0.1");
  await new Promise((done) => server.once("listening", done));
  const { port } = server.address();
  await new Promise((done) => server.close(done));
  return port;
}

export class Gateway {
  static async start(environment = {}) {
    if (!existsSync(PROGRAM)) throw new Error(`${PROGRAM} is not there: make test-panel builds it`);
    const gateway = new Gateway();
    gateway.folder = await mkdtemp(join(tmpdir(), "eye-panel-"));
    // Postgres runs as another user.
    await chmod(gateway.folder, 0o755);
    gateway.environment = environment;
    gateway.address = `127.0.0.1:${await freePort()}`;
    gateway.url = `http://${gateway.address}`;
    await gateway.run();
    // A gateway on the database of another one has the administrator of that one.
    gateway.admin = environment.EYE_DATABASE_URL === undefined ? (await readFile(join(gateway.folder, "data/admin.token"), "utf8")).trim() : undefined;
    return gateway;
  }

  /** Starts the program, again after `stop`, at the same address. */
  async run() {
    const names = Object.fromEntries(Object.entries(process.env).filter(([name]) => !name.startsWith("EYE_")));
    const settings = { EYE_MODULES: MODULES, EYE_LISTEN: this.address, EYE_DATA_DIR: join(this.folder, "data"), EYE_DRAIN_DELAY_MS: "0" };
    this.log = "";
    this.process = spawn(PROGRAM, ["serve"], { cwd: this.folder, env: { ...names, ...settings, ...this.environment } });
    for (const stream of [this.process.stdout, this.process.stderr]) stream.on("data", (text) => (this.log += text));
    await eventually("the gateway is ready", async () => {
      if (this.process.exitCode !== null) throw new Error(this.log);
      return (await fetch(`${this.url}/readyz`)).ok;
    });
  }

  async stop() {
    const ended = new Promise((done) => this.process.once("close", done));
    this.process.kill("SIGTERM");
    await ended;
  }

  async end() {
    if (this.process.exitCode === null) await this.stop();
    await rm(this.folder, { recursive: true, force: true });
  }

  /** Asks with a token, that of the administrator unless another is given. */
  async ask(method, path, body, token = this.admin) {
    const headers = { authorization: `Bearer ${token}`, "content-type": "application/json" };
    const answer = await fetch(`${this.url}${path}`, { method, headers, ...(body === undefined ? {} : { body: JSON.stringify(body) }) });
    return { status: answer.status, json: await answer.json() };
  }

  /** Adds an application, and returns its token. */
  async add(name, scopes, more = {}) {
    const { status, json } = await this.ask("POST", "/v1/applications", { name, scopes, ...more });
    if (status !== 201) throw new Error(JSON.stringify(json));
    return json.token;
  }

  /** Sends events, and returns their results. */
  async send(events, token) {
    return (await this.ask("POST", "/v1/events", events, token)).json;
  }

  /** An address that signs in once. */
  async signInAddress(token = this.admin) {
    const { json } = await this.ask("POST", "/v1/panel/codes", undefined, token);
    return `${this.url}/#code=${json.code}`;
  }
}

export function event(changes = {}) {
  return {
    id: randomUUID(),
    session_id: randomUUID(),
    category: "page interaction",
    name: "pageview",
    timestamp: new Date().toISOString(),
    data: { host: "shop.example", path: "/shoes" },
    ...changes,
  };
}

export async function startBrowser() {
  if (!existsSync(CHROMIUM)) throw new Error(`no browser at ${CHROMIUM}: install Debian's chromium, or name another in CHROMIUM`);
  return chromium.launch({ executablePath: CHROMIUM, args: ["--no-sandbox"] });
}

/** Opens a page. What its console says in anger, and what it asks other hosts for, is noted in `page.faults`. */
export async function openPage(browser, options = {}) {
  const context = await browser.newContext({ viewport: { width: 1280, height: 900 }, ...options });
  const page = await context.newPage();
  page.setDefaultTimeout(PATIENCE);
  page.faults = [];
  page.on("pageerror", (error) => page.faults.push(`error: ${error.stack}`));
  page.on("console", (message) => {
    // A browser reports each answer that is a refusal, and each that does not come, as an error of its own.
    if (message.type() === "error" && !message.text().startsWith("Failed to load resource")) page.faults.push(message.text());
  });
  if (DIST !== undefined) await page.route(/\/(panel\/[\w.-]+)?$/, (route) => fromDist(route).catch(() => route.abort().catch(() => {})));
  page.on("request", (request) => {
    const { host } = new URL(request.url());
    page.hosts ??= new Set();
    page.hosts.add(host);
  });
  return page;
}

async function fromDist(route) {
  const answer = await route.fetch({ url: new URL("/", route.request().url()).href });
  const name = new URL(route.request().url()).pathname.split("/").at(-1) || "index.html";
  const types = { html: "text/html; charset=utf-8", js: "text/javascript", css: "text/css", svg: "image/svg+xml" };
  const path = join(DIST, name);
  if (!existsSync(path)) return route.continue();
  const headers = { ...answer.headers(), "content-type": types[name.split(".").at(-1)] };
  delete headers["content-encoding"];
  return route.fulfill({ status: 200, headers, body: await readFile(path) });
}

/** A page that is signed in at a view, such as `live?outcome=stored`. */
export async function signedIn(browser, gateway, { view = "overview", token, ...options } = {}) {
  const page = await openPage(browser, options);
  await page.goto(await gateway.signInAddress(token));
  await page.getByRole("navigation", { name: "Views" }).waitFor();
  if (view !== "overview") await page.goto(`${gateway.url}/#/${view}`);
  return page;
}

/** Holds what the page shows to what everybody can use: nothing serious for axe, and nothing wider than the window. The page
 *  has to be opened with `bypassCSP`, or axe cannot be put into it. */
export async function holdsForEveryone(page, what) {
  const { wide, window } = await page.evaluate(() => ({ wide: document.documentElement.scrollWidth, window: innerWidth }));
  assert.ok(wide <= window, `${what} is ${wide} px wide in a window of ${window}`);
  await page.evaluate(AXE);
  const { violations } = await page.evaluate(() => axe.run());
  const serious = violations.filter(({ impact }) => impact === "serious" || impact === "critical");
  assert.deepEqual(serious.map(({ id, nodes }) => [id, nodes[0].html]), [], what);
}
