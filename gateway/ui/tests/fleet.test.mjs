// Two gateways on one database, their generations, jobs and settings, as people look at them.
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { event, eventually, Gateway, holdsForEveryone, MODULES, openPage, signedIn as signedInAt, startBrowser } from "./support.mjs";

const HOSTILE = "<img src=x onerror=alert(1)>\u202egnp.evil";
const PAGEVIEW = "page interaction/pageview";

let gateway, other, browser, hasSettings;

before(async () => {
  gateway = await Gateway.start({ EYE_MODULES_FROM: "database", EYE_GATEWAY_NAME: "one" });
  const host = encodeURIComponent(join(gateway.folder, "data/run"));
  const url = `postgres://eye@localhost:5432/eye?host=${host}&sslmode=disable`;
  other = await Gateway.start({ EYE_MODULES_FROM: "database", EYE_GATEWAY_NAME: "two", EYE_DATABASE_URL: url });
  browser = await startBrowser();
  hasSettings = (await gateway.ask("GET", "/v1/settings")).status === 200;
  await push(PAGEVIEW, PAGEVIEW);
  await push(PAGEVIEW, "page interaction/cta click");
  await push(`shop/${HOSTILE}`, PAGEVIEW);
});
after(async () => {
  await browser?.close();
  await other?.end();
  await gateway?.end();
});

/** Pushes one of the built modules for an event type, and waits until both gateways serve it. */
async function push(type, module) {
  const path = type.split("/").map(encodeURIComponent).join("/");
  const headers = { authorization: `Bearer ${gateway.admin}`, "content-type": "application/wasm", prefer: "wait=60" };
  const answer = await fetch(`${gateway.url}/v1/validators/${path}`, { method: "PUT", headers, body: await readFile(join(MODULES, `${module}.wasm`)) });
  const told = await answer.json();
  assert.equal(told.state, "active", JSON.stringify(told));
  return told.generation;
}

/** A session of the database that does something and stays open, until it is ended. */
async function sql(text) {
  const session = spawn("psql", ["-X", "-q", "-At", "-v", "ON_ERROR_STOP=1", "-h", join(gateway.folder, "data/run"), "-U", "eye", "eye"], { env: { PATH: process.env.PATH } });
  let told = "";
  for (const stream of [session.stdout, session.stderr]) stream.on("data", (more) => (told += more));
  session.stdin.write(`${text};\n\\echo ready\n`);
  await eventually(`the database has done ${text}`, async () => told.includes("ready"));
  return { end: () => session.stdin.end() };
}

const signedIn = (view, options) => signedInAt(browser, gateway, { view, ...options });
const table = (page, name) => page.getByRole("table", { name });

async function ends(page) {
  assert.deepEqual(page.faults, []);
  await page.context().close();
}

test("each gateway is shown with what it serves, and what it alone does for all", async () => {
  const page = await signedIn("fleet");
  const rows = table(page, "Gateways").locator("tbody tr");
  await eventually("both are shown, and well", async () => (await rows.filter({ hasText: "well" }).count()) === 2);
  const { json } = await gateway.ask("GET", "/v1/gateways");
  for (const name of ["one", "two"]) await rows.filter({ hasText: new RegExp(`^${name}`) }).getByText(`generation ${json.generation}`).waitFor();
  await rows.filter({ hasText: "(this one)" }).getByText(gateway.address).waitFor();
  await eventually("somebody has each duty", async () => (await rows.getByText("works on the jobs").count()) === 1);
  await ends(page);
});

test("a generation shows what it changed and all modules of it", async () => {
  const page = await signedIn("fleet");
  await table(page, "Generations").getByRole("link", { name: "2", exact: true }).click();
  await page.getByRole("heading", { level: 2, name: "Generation 2" }).waitFor();
  const changed = table(page, "What it changed").locator("tbody tr");
  assert.equal(await changed.count(), 1);
  const digests = await changed.locator("code.short").evaluateAll((all) => all.map((one) => one.title));
  const of = async (number) => (await gateway.ask("GET", `/v1/generations/${number}`)).json.slots[0].digest;
  assert.deepEqual(digests, [await of(1), await of(2)], "the digest before, and the one after");
  await page.goBack();
  await table(page, "Generations").getByRole("link", { name: "3", exact: true }).click();
  await table(page, "What it changed").getByText("no module").waitFor();
  assert.equal(await table(page, "All modules of it").locator("tbody tr").count(), 2);
  assert.equal(await page.locator("main img").count(), 0);
  await page.goto(`${gateway.url}/#/generation?number=99`);
  await page.getByText("There is no such generation").waitFor();
  await ends(page);
});

test("going back shows what would change, asks, and then serves the earlier modules, by keyboard alone", async () => {
  const { json: now } = await gateway.ask("GET", "/v1/gateways");
  const page = await signedIn("generation?number=1");
  await page.getByRole("link", { name: "Go back to it" }).focus();
  await page.keyboard.press("Enter");
  await page.getByRole("heading", { name: "Go back to generation 1?" }).waitFor();
  const rows = table(page, "What would change").locator("tbody tr");
  assert.equal(await rows.count(), 2);
  await rows.getByText("taken away").waitFor();
  await page.keyboard.press("Escape");
  await table(page, "What would change").waitFor({ state: "detached" });
  assert.equal((await gateway.ask("GET", "/v1/gateways")).json.generation, now.generation, "a look changes nothing");
  await eventually("the focus is back", () => page.evaluate(() => document.activeElement.id === "act-back"));
  await page.keyboard.press("Enter");
  const yes = page.getByRole("button", { name: "Go back to it" });
  await yes.waitFor();
  for (let steps = 0; steps < 50 && !(await yes.evaluate((one) => one === document.activeElement)); steps++) await page.keyboard.press("Tab");
  await page.keyboard.press("Enter");
  await page.getByText("Its modules serve again, as").waitFor();
  const slots = (await gateway.ask("GET", `/v1/generations/${now.generation + 1}`)).json.slots;
  assert.deepEqual(slots, (await gateway.ask("GET", "/v1/generations/1")).json.slots);
  await page.getByRole("link", { name: `generation ${now.generation + 1}` }).click();
  await page.getByText("serves now", { exact: true }).waitFor();
  assert.equal(await page.getByRole("link", { name: "Go back to it" }).count(), 0, "it serves already");
  await ends(page);
});

test("what the fleet refuses is told, and done only if somebody means it", async () => {
  const earlier = await push("shop/secret", PAGEVIEW);
  // This module takes secrets out of refused events, and the one before does not.
  await push("shop/secret", "form interaction/submit");
  const page = await signedIn(`generation?number=${earlier}&act=back`);
  await page.getByRole("button", { name: "Go back to it" }).click();
  await page.getByText("A gateway cannot serve this.").waitFor();
  await page.getByText("so that such events would be kept as they came (").waitFor();
  await page.getByLabel(/^Do it all the same/).check();
  await page.getByRole("button", { name: "Go back to it" }).click();
  await page.getByText("Its modules serve again, as").waitFor();
  await page.goto(`${gateway.url}/#/fleet`);
  await table(page, "Generations").locator("tbody tr").first().getByText("forced").waitFor();
  await ends(page);
});

test("what the guard took back is named before somebody goes back, and must be forced", async () => {
  const earlier = await push("shop/order", PAGEVIEW);
  await push("shop/order", "page interaction/cta click");
  const slots = (await gateway.ask("GET", `/v1/generations/${earlier}`)).json.slots;
  const { digest } = slots.find((slot) => slot.event_type === "shop/order");
  const reason = `it refused 90 of 200 events ${HOSTILE}`;
  const session = await sql(
    `insert into taken_back (event_type, digest, trial, code, reason, counts) values ('shop/order', decode('${digest}', 'hex'), 'replacement', 'refuses', '${reason}', '{}')`,
  );
  session.end();
  const page = await signedIn(`generation?number=${earlier}&act=back`);
  await page.getByText("That must be forced").waitFor();
  await page.getByRole("listitem").filter({ hasText: "shop/order" }).getByText("90 of 200").waitFor();
  await page.getByRole("button", { name: "Go back to it" }).click();
  await page.getByText("Nothing was changed.").first().waitFor();
  await page.getByLabel(/^Do it all the same/).check();
  await page.getByRole("button", { name: "Go back to it" }).click();
  await page.getByText("Its modules serve again, as").waitFor();
  await ends(page);
});

test("a job is followed, and cancelled by keyboard alone", async () => {
  const token = await gateway.add("sender", ["ingest"]);
  const bad = () => event({ data: { host: "https://shop.example/<img src=x>", path: "/" } });
  await gateway.send(Array.from({ length: 50 }, bad), token);
  await eventually("the letters are written", async () => (await gateway.ask("GET", "/v1/dead-letters?limit=100")).json.dead_letters.length === 50);
  const page = await signedIn("fleet");
  await page.getByText("Judging many refused events again is a job.").waitFor();

  const { json: done } = await gateway.ask("POST", "/v1/jobs", { kind: "redrive", filter: {}, dry_run: true });
  const jobs = table(page, "Jobs").locator("tbody tr");
  await jobs.filter({ hasText: "done" }).getByText("50 of 50").waitFor();
  await jobs.getByText("dry run").waitFor();
  await jobs.getByRole("link", { name: "redrive" }).click();
  await page.getByText("dry run: it changes nothing").waitFor();
  await page.getByText("50 rejected").waitFor();
  await table(page, "Codes").waitFor();
  assert.ok(page.url().includes(done.id));
  assert.equal(await page.getByRole("link", { name: "Cancel it" }).count(), 0, "it has ended");

  // The job waits for the letters, so it is there for as long as it takes.
  const lock = await sql("begin; lock table dead_letters in access exclusive mode");
  const { json: job } = await gateway.ask("POST", "/v1/jobs", { kind: "redrive", filter: { code: "validation" }, dry_run: true });
  await page.goto(`${gateway.url}/#/job?id=${job.id}`);
  await page.getByRole("link", { name: "Cancel it" }).focus();
  await page.keyboard.press("Enter");
  const yes = page.getByRole("button", { name: "Cancel it" });
  await yes.waitFor();
  for (let steps = 0; steps < 50 && !(await yes.evaluate((one) => one === document.activeElement)); steps++) await page.keyboard.press("Tab");
  await page.keyboard.press("Enter");
  await yes.waitFor({ state: "detached" });
  lock.end();
  await page.getByText("cancelled", { exact: true }).waitFor();

  await page.goto(`${gateway.url}/#/fleet?state=cancelled`);
  await jobs.filter({ hasText: "cancelled" }).waitFor();
  assert.equal(await jobs.count(), 1);
  await page.getByLabel("state").selectOption("failed");
  await page.getByText("No job fits these filters.").waitFor();
  await page.goBack();
  await jobs.filter({ hasText: "cancelled" }).waitFor();
  await page.goto(`${gateway.url}/#/job?id=${crypto.randomUUID()}`);
  await page.getByText("There is no such job.").waitFor();
  await ends(page);
});

test("the settings are found by their key, and left out where the gateway does not tell them", async () => {
  const page = await signedIn("fleet");
  await table(page, "Gateways").waitFor();
  const settings = page.getByRole("heading", { name: "Settings of this gateway" });
  if (!hasSettings) {
    await settings.waitFor({ state: "detached" });
    return ends(page);
  }
  await settings.waitFor();
  await page.getByLabel("key").fill("modules_from");
  const rows = table(page, "Settings").locator("tbody tr");
  await eventually("one is left", async () => (await rows.count()) === 1);
  await rows.getByText("database").first().waitFor();
  assert.match(page.url(), /key=modules_from/);
  await page.getByLabel("key").fill("");
  await page.getByLabel("only what differs from its default").check();
  await rows.filter({ hasText: "gateway_name" }).waitFor();
  assert.equal(await rows.filter({ hasText: "drain_ms" }).count(), 0);
  await page.goBack();
  await rows.filter({ hasText: "drain_ms" }).waitFor();
  await ends(page);
});

test("who may only read sees gateways and generations, and nothing that needs more", async () => {
  const token = await gateway.add("reader", ["read"]);
  const page = await signedIn("fleet", { token });
  await table(page, "Gateways").waitFor();
  await table(page, "Generations").getByRole("link", { name: "1", exact: true }).waitFor();
  for (const name of ["Jobs", "Settings of this gateway"]) assert.equal(await page.getByRole("heading", { name }).count(), 0);
  await table(page, "Generations").getByRole("link", { name: "1", exact: true }).click();
  await table(page, "All modules of it").waitFor();
  assert.equal(await page.getByRole("link", { name: "Go back to it" }).count(), 0);
  await page.goto(`${gateway.url}/#/generation?number=1&act=back`);
  await table(page, "All modules of it").waitFor();
  assert.equal(await page.getByRole("button", { name: "Go back to it" }).count(), 0);
  await page.goto(`${gateway.url}/#/job?id=${crypto.randomUUID()}`);
  await page.getByText("Your application has not the scope").waitFor();
  await ends(page);

  const limited = await gateway.add("limited", ["read"], { read_event_types: ["shop/*"] });
  const narrow = await signedIn("fleet", { token: limited });
  await narrow.getByText("What your application may read is limited").waitFor();
  assert.equal(await table(narrow, "Generations").count(), 0);
  await ends(narrow);
});

for (const colorScheme of ["light", "dark"]) {
  for (const width of [360, 1920]) {
    test(`the fleet is accessible at ${width} px, ${colorScheme}`, async () => {
      const page = await openPage(browser, { colorScheme, viewport: { width, height: 900 }, bypassCSP: true });
      await page.goto(await gateway.signInAddress());
      await page.getByRole("navigation", { name: "Views" }).waitFor();
      const { json } = await gateway.ask("GET", "/v1/jobs");
      for (const view of ["fleet", "generation?number=3", "generation?number=2&act=back", `job?id=${json.jobs[0].id}`]) {
        await page.goto(`${gateway.url}/#/${view}`);
        await page.locator("main section.card").first().waitFor();
        if (view.includes("back")) await table(page, "What would change").waitFor();
        await eventually("the view is loaded", async () => (await page.locator("main p.quiet", { hasText: /^…$/ }).count()) === 0);
        await holdsForEveryone(page, view);
      }
      await ends(page);
    });
  }
}

test("a gateway that has gone is told", async () => {
  await other.stop();
  const page = await signedIn("fleet");
  const rows = table(page, "Gateways").locator("tbody tr");
  await eventually("it is gone or told", async () => (await rows.filter({ hasText: "gone" }).count()) === 1 || (await rows.count()) === 1);
  await rows.filter({ hasText: "one" }).getByText("well").waitFor();
  await ends(page);
});
