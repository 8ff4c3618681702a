// Candidates, replays and the guard as people use them, in a real browser: `make test-panel`.
import assert from "node:assert/strict";
import { chmod, cp, mkdtemp, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { event, eventually, Gateway, holdsForEveryone, MODULES, signedIn as signedInAt, startBrowser } from "./support.mjs";

const PAGEVIEW = "validator?type=page+interaction%2Fpageview";
const URL_OF = "/v1/validators/page%20interaction/pageview";
/** A schema that refuses each event whose path is /checkout. */
const STRICT = schema({ host: { type: "string" }, path: { type: "string", pattern: "^/(|shoes)$" } });

let browser, gateway, modules;

before(async () => {
  modules = await mkdtemp(join(tmpdir(), "eye-modules-"));
  await chmod(modules, 0o755);
  await cp(MODULES, modules, { recursive: true, dereference: true, filter: (path) => !path.endsWith(".gitignore") });
  gateway = await Gateway.start({ EYE_MODULES_FROM: "database" });
  const pageview = await readFile(join(modules, "page interaction/pageview.wasm"));
  const headers = { authorization: `Bearer ${gateway.admin}`, "content-type": "application/wasm" };
  const pushed = await fetch(`${gateway.url}${URL_OF}`, { method: "PUT", headers, body: pageview });
  assert.equal(pushed.status, 200, await pushed.text());
  gateway.shop = await gateway.add("shop", ["ingest"]);
  await gateway.send([visit("/shoes"), visit("/"), visit("/checkout"), visit("/checkout")], gateway.shop);
  browser = await startBrowser();
});
after(async () => {
  await browser?.close();
  await gateway?.end();
  await rm(modules, { recursive: true, force: true });
});

const signedIn = (options = {}) => signedInAt(browser, gateway, { bypassCSP: true, ...options });
const visit = (path) => event({ data: { host: "shop.example", path } });
const file = (text, name = "pageview.schema.json") => ({ name, mimeType: "application/schema+json", buffer: Buffer.from(text) });
const card = (page, name) => page.getByRole("region", { name, exact: true });
const candidate = async () => (await gateway.ask("GET", `${URL_OF}/candidate`)).json;

function schema(properties) {
  return JSON.stringify({ $schema: "https://json-schema.org/draft/2020-12/schema", type: "object", required: ["host", "path"], properties });
}

/** Chooses a file, and what to do with it. */
async function choose(page, text, use) {
  const ship = card(page, "Ship a version");
  await ship.locator("input[type=file]").setInputFiles(file(text));
  await ship.getByText("The gateway would take it.").waitFor();
  await ship.getByRole("radio", { name: use }).check();
  return ship;
}

test("a file is replayed over past events before it is used", async () => {
  const page = await signedIn();
  await page.goto(`${gateway.url}/#/${PAGEVIEW}`);
  const ship = await choose(page, STRICT, "Replay");
  await ship.getByRole("button", { name: "Judge past events by it" }).click();
  const table = ship.getByRole("region", { name: "Outcomes then and now" });
  await table.waitFor();
  const row = table.getByRole("row", { name: /^stored/ });
  assert.deepEqual((await row.getByRole("cell").allTextContents()).map((text) => text.trim().split(" ")[0]), ["2", "0", "2", "0"]);
  const changes = ship.getByRole("table", { name: "Changes" });
  assert.match(await changes.innerText(), /\/path[\s\S]*pattern[\s\S]*stored → refused[\s\S]*shop/);
  await holdsForEveryone(page, "the page of a validator");
  // Nothing has changed, and an example leads to its event.
  assert.equal((await gateway.ask("GET", `${URL_OF}`)).json.candidate, null);
  await changes.getByRole("link").first().click();
  await page.getByText("/checkout").first().waitFor();
  await page.context().close();
});

test("a candidate is tried as a shadow, watched, compared on a pasted event and promoted", async () => {
  const page = await signedIn();
  await page.goto(`${gateway.url}/#/${PAGEVIEW}`);
  const ship = await choose(page, STRICT, "Shadow");
  await ship.getByRole("button", { name: "Try it as a shadow" }).click();
  await ship.getByText("It is tried").waitFor();
  const tried = card(page, /^Candidate/);
  await tried.getByText("shadow").first().waitFor();
  await tried.getByText("it waits for events").waitFor();
  await gateway.send([visit("/shoes"), visit("/checkout"), visit("/shoes")], gateway.shop);
  const pairs = tried.locator("dl[aria-label=Pairs]");
  await pairs.waitFor();
  await eventually("the pairs are shown", async () => /the same\s*2[\s\S]*would refuse\s*1/.test(await pairs.innerText()));
  await tried.getByRole("table", { name: "Differences" }).getByText("/path").waitFor();
  await holdsForEveryone(page, "the page of a validator");
  const pasted = card(page, "Try an event");
  await pasted.locator("textarea").fill(JSON.stringify(visit("/checkout")));
  await pasted.getByRole("button", { name: "Judge it" }).click();
  await pasted.getByRole("heading", { name: "By the candidate" }).waitFor();
  const [sent, by] = await pasted.locator(".verdict-of-try").allInnerTexts();
  assert.match(sent, /would be\s*stored/);
  assert.match(by, /would be\s*rejected[\s\S]*\/path/);
  await tried.getByRole("button", { name: "Promote…" }).click();
  await tried.getByRole("button", { name: "Promote it" }).click();
  await tried.getByText("It serves.").waitFor();
  assert.equal((await candidate()).code, "no_candidate");
  assert.equal((await gateway.send(visit("/checkout"), gateway.shop)).status, 422);
  // The way back, for the tests that follow.
  assert.equal((await gateway.ask("POST", `${URL_OF}/rollback`, {})).status, 200);
  await page.context().close();
});

test("a canary is discarded with the keyboard alone", async () => {
  const page = await signedIn();
  await page.goto(`${gateway.url}/#/${PAGEVIEW}`);
  const ship = await choose(page, schema({ host: { type: "string" }, path: { type: "string" } }), "Canary");
  await ship.getByRole("spinbutton", { name: "Percent of the sessions" }).fill("12.5");
  await ship.getByRole("button", { name: "Try it as a canary" }).press("Enter");
  await ship.getByText("12.5 % of the sessions").waitFor();
  assert.deepEqual([(await candidate()).mode, (await candidate()).percent], ["canary", 12.5]);
  const tried = card(page, /^Candidate/);
  await tried.getByText("canary on 12.5 % of the sessions").waitFor();
  // Steps are shown with what they wait for, and a share may be a whole number.
  const headers = { authorization: `Bearer ${gateway.admin}`, "content-type": "application/schema+json" };
  const body = schema({ host: { type: "string" }, path: { type: "string" } });
  const steps = await fetch(`${gateway.url}${URL_OF}?auto=5%25:10m,25%25:30m`, { method: "PUT", headers, body });
  assert.equal(steps.status, 200);
  await tried.getByText("canary on 5 % of the sessions").waitFor();
  await tried.getByText("until 200 events were compared; now 0").waitFor();
  await tried.getByRole("button", { name: "Discard…" }).press("Enter");
  await tried.getByText("is tried no more").waitFor();
  await page.keyboard.press("Tab");
  await page.keyboard.press("Enter");
  await tried.getByText("It is discarded.").waitFor();
  assert.equal((await candidate()).code, "no_candidate");
  await page.context().close();
});

test("a rule that is taken back says why, and what it refused is judged again from there", async () => {
  const page = await signedIn();
  await page.goto(`${gateway.url}/#/${PAGEVIEW}`);
  const tooStrict = schema({ host: { type: "string" }, path: { const: "/nowhere" } });
  const ship = await choose(page, tooStrict, "Serve");
  await ship.getByRole("button", { name: "Push it" }).click();
  await ship.getByText("It serves.").waitFor();
  const events = () => Array.from({ length: 100 }, () => visit("/shoes"));
  const back = card(page, "Taken back by the guard");
  await eventually("the guard takes it back", async () => {
    await gateway.send(events(), gateway.shop);
    return (await gateway.ask("GET", URL_OF)).json.taken_back.length > 0;
  });
  await back.getByText(/it refused \d+ of \d+ events/).waitFor();
  await holdsForEveryone(page, "the page of a validator");
  // The same file is refused in words, and force is offered.
  await page.reload();
  await card(page, "Ship a version").locator("input[type=file]").setInputFiles(file(tooStrict));
  await card(page, "Ship a version").getByText("the guard may take it back again").waitFor();
  await back.getByRole("link", { name: "Look, and judge again" }).click();
  await page.getByRole("heading", { name: "Refused" }).first().waitFor();
  assert.match(page.url(), /validator=[0-9a-f]{64}/);
  await page.context().close();
});
