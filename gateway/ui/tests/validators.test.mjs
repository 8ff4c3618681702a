// The views of validators as people use them, in a real browser: `make test-panel`.
import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { chmod, cp, mkdir, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { event, eventually, Gateway, holdsForEveryone, MODULES, signedIn as signedInAt, startBrowser } from "./support.mjs";

const PAGEVIEW = "validator?type=page+interaction%2Fpageview";
const HOSTILE = "<img src=x onerror=alert(1)>";
const LONG = "W".repeat(200);
const FOXES = "🦊".repeat(40);

let browser, gateway, modules, fleet, pageview, submit;

before(async () => {
  modules = await mkdtemp(join(tmpdir(), "eye-modules-"));
  await chmod(modules, 0o755);
  await cp(MODULES, modules, { recursive: true, dereference: true, filter: (path) => !path.endsWith(".gitignore") });
  pageview = await readFile(join(modules, "page interaction/pageview.wasm"));
  submit = await readFile(join(modules, "form interaction/submit.wasm"));
  await mkdir(join(modules, "shop"));
  await writeFile(join(modules, "shop/other.wasm"), "this is text");
  await writeFile(join(modules, "shop/\u202eevil.wasm"), "x");
  gateway = await Gateway.start({ EYE_MODULES: modules });
  const shop = await gateway.add("shop", ["ingest"]);
  const wrong = event({ data: { host: "https://shop.example/", path: "/" } });
  await gateway.send([event(), event(), wrong, event({ category: HOSTILE, name: LONG }), event({ category: FOXES, name: "🦊 / %2F" })], shop);
  browser = await startBrowser();
});
after(async () => {
  await browser?.close();
  await gateway?.end();
  await fleet?.end();
  await rm(modules, { recursive: true, force: true });
});

const signedIn = (options = {}, at = gateway) => signedInAt(browser, at, options);

/** The same module with a section of its own, which gives it another digest. */
function version(module, text) {
  const content = Buffer.from(`\x01v${text}`);
  content[0] = 1;
  return Buffer.concat([module, Buffer.from([0, content.length]), content]);
}
const digestOf = (content) => createHash("sha256").update(content).digest("hex");
const file = (buffer, name = "module.wasm") => ({ name, mimeType: "application/wasm", buffer });
const card = (page, name) => page.getByRole("region", { name, exact: true });
const serving = async (type, at = gateway) => (await at.ask("GET", `/v1/validators/${type}`)).json.digest;

async function drop(page, ...files) {
  const transfer = await page.evaluateHandle((files) => {
    const made = new DataTransfer();
    for (const [name, content] of files) made.items.add(new File([Uint8Array.from(content)], name));
    return made;
  }, files.map(({ name, buffer }) => [name, [...buffer]]));
  await page.dispatchEvent("body", "dragover", { dataTransfer: transfer });
  await page.dispatchEvent("body", "drop", { dataTransfer: transfer });
}

/** Goes from control to control until the one that is looked for has the focus. */
async function tabTo(page, what, backwards = false) {
  for (let step = 0; step < 150; step++) {
    await page.keyboard.press(backwards ? "Shift+Tab" : "Tab");
    const text = await page.evaluate(() => {
      const { activeElement: at } = document;
      if (!at?.matches("button, input, a, textarea, summary")) return "";
      return `${at?.getAttribute("aria-label") ?? ""} ${at?.closest("label")?.textContent ?? ""} ${at?.textContent ?? ""}`;
    });
    if (what.test(text)) return;
  }
  assert.fail(`the keyboard never came to ${what}`);
}

async function push(path, content, at = gateway, token = at.admin) {
  const headers = { authorization: `Bearer ${token}`, "content-type": "application/wasm" };
  const answer = await fetch(`${at.url}/v1/validators/${path}`, { method: "PUT", headers, body: content });
  return { status: answer.status, json: await answer.json() };
}

async function close(page) {
  assert.deepEqual(page.faults, []);
  await page.context().close();
}

test("the list tells what serves, how it judges, and which types nobody judges, and its filters have addresses", async () => {
  const page = await signedIn({ view: "validators" });
  const row = page.getByRole("row", { name: /page interaction \/ pageview/ });
  await row.getByText((await serving("page%20interaction/pageview")).slice(0, 8)).waitFor();
  await row.getByText("active").waitFor();
  await row.getByRole("img", { name: /\d+ events in the last 24 hours, 1 of them refused/ }).waitFor();
  await page.getByRole("row", { name: /shop \/ other/ }).getByText("Nothing serves").waitFor();
  await page.getByRole("heading", { name: "Judged by nobody" }).waitFor();
  await page.getByRole("link", { name: new RegExp(`${HOSTILE.slice(0, 8)}.*${LONG}`) }).waitFor();
  await page.getByText("shop/\\u202eevil.wasm").waitFor();
  await page.getByLabel("Find").fill("nothing has this");
  await page.getByText("No validator fits these filters").waitFor();
  await page.getByLabel("Find").fill("pageview");
  await eventually("the address has the text", async () => page.url().includes("text=pageview"));
  assert.equal(await page.locator("table.modules tbody tr").count(), 1);
  await page.getByRole("link", { name: /pageview/ }).first().click();
  await page.getByRole("heading", { name: "How it judges" }).waitFor();
  await page.goBack();
  await page.getByLabel("Find").waitFor();
  assert.equal(await page.getByLabel("Find").inputValue(), "pageview");
  await page.goto(`${gateway.url}/#/validators?trouble=only`);
  await page.getByRole("row", { name: /shop \/ other/ }).waitFor();
  assert.equal(await page.locator("table.modules tbody tr").count(), 1);
  await page.getByRole("link", { name: /shop \/ other/ }).click();
  const trouble = card(page, "What is wrong");
  await trouble.getByText("a complete WebAssembly file").waitFor();
  await trouble.getByText("put the module here that the build made").last().waitFor();
  await trouble.getByRole("link", { name: "module_unavailable" }).waitFor();
  await close(page);
});

test("a file is dropped, checked and pushed over what it was checked against", async () => {
  const next = version(pageview, "dropped");
  const before = await serving("page%20interaction/pageview");
  const page = await signedIn({ view: PAGEVIEW });
  const ship = card(page, "Ship a version");
  await ship.waitFor();
  await drop(page, file(next, `${HOSTILE}.wasm`));
  await ship.getByText("The gateway would take it.").waitFor();
  await ship.getByText(`${HOSTILE}.wasm`).waitFor();
  await ship.getByText(before).waitFor();
  assert.equal(await serving("page%20interaction/pageview"), before, "a check changes nothing");
  await ship.getByLabel(/Commit/).fill("3f2a91c");
  // Another push comes between the check and the push.
  const between = version(pageview, "between");
  assert.equal((await push("page%20interaction/pageview", between)).status, 200);
  await ship.getByRole("button", { name: "Push it" }).click();
  await ship.getByText("Another change came first").first().waitFor();
  assert.equal(await serving("page%20interaction/pageview"), digestOf(between));
  assert.equal(await ship.getByRole("button", { name: "Push it" }).count(), 0, "what was checked is no longer so");
  await ship.getByRole("button", { name: "Check it again" }).click();
  await ship.getByText("The gateway would take it.").waitFor();
  await ship.getByText(digestOf(between)).waitFor();
  assert.equal(await ship.getByLabel(/Commit/).inputValue(), "3f2a91c", "what was typed stays");
  await ship.getByRole("button", { name: "Push it" }).click();
  await ship.getByText("It serves.").waitFor();
  assert.equal(await serving("page%20interaction/pageview"), digestOf(next));
  await card(page, "Digest of the module that serves").getByText(digestOf(next)).waitFor();
  await close(page);
});

test("what cannot be a module is refused with what was expected, found, and how to mend it", async () => {
  const before = await serving("page%20interaction/pageview");
  const page = await signedIn({ view: PAGEVIEW });
  const ship = card(page, "Ship a version");
  const field = ship.locator("input[type=file]");
  for (const [what, content, found] of [
    ["text", Buffer.from(`${HOSTILE} is no module`), /XML, which begins with/],
    ["a part of a file", pageview.subarray(0, 1000), /1000 bytes that do not parse/],
    ["a module of another world", Buffer.from([0, 0x61, 0x73, 0x6d, 1, 0, 0, 0]), /.+/],
  ]) {
    await field.setInputFiles(file(content, `${LONG}.wasm`));
    await ship.getByText("The gateway would not take this file").waitFor();
    for (const name of ["Expected", "Found", "How to mend it"]) {
      const text = await ship.locator("dt", { hasText: name }).locator("xpath=following-sibling::dd[1]").innerText();
      assert.ok(text.length > 5, `${what}: ${name} is ${text}`);
      if (name === "Found") assert.match(text, found, what);
    }
    assert.equal(await ship.getByRole("button", { name: /push it/i }).count(), 0, what);
    // The refusal of the file before is gone while the next one is checked.
    await field.setInputFiles(file(version(pageview, what)));
    await ship.getByText("The gateway would take it.").waitFor();
  }
  await field.setInputFiles(file(Buffer.alloc(0)));
  await ship.getByText("The gateway would not take this file").waitFor();
  await drop(page, file(pageview), file(submit));
  await ship.getByText("Choose one file").waitFor();
  assert.equal(await serving("page%20interaction/pageview"), before);
  await close(page);
});

test("a new version that redacts no more is refused, and the refusal says how it would be lifted", async () => {
  const page = await signedIn({ view: "validator?type=form+interaction%2Fsubmit" });
  const ship = card(page, "Ship a version");
  await ship.locator("input[type=file]").setInputFiles(file(pageview));
  await ship.getByText("as the version before has it").first().waitFor();
  await ship.getByText("into the module's settings").first().waitFor();
  assert.equal(await page.getByRole("button", { name: /force/ }).count(), 0, "a directory has settings for that");
  await close(page);
});

test("a directory that is not for the gateway to write is told", async () => {
  await mkdir(join(modules, ".git"));
  const page = await signedIn({ view: PAGEVIEW });
  const ship = card(page, "Ship a version");
  await ship.locator("input[type=file]").setInputFiles(file(version(pageview, "elsewhere")));
  await ship.getByText("The modules come from elsewhere").waitFor();
  await ship.getByRole("link", { name: "What modules_elsewhere means" }).waitFor();
  await rm(join(modules, ".git"), { recursive: true });
  await close(page);
});

test("the keyboard alone checks, pushes, rolls back and tries an event", async () => {
  const before = await serving("page%20interaction/pageview");
  const next = version(pageview, "keyboard");
  const page = await signedIn({ view: PAGEVIEW });
  // The browser asks for no file by itself from here on.
  page.on("filechooser", () => {});
  await card(page, "Ship a version").waitFor();
  await tabTo(page, /Choose a module or a JSON Schema/);
  const [chooser] = await Promise.all([page.waitForEvent("filechooser"), page.keyboard.press("Enter")]);
  await chooser.setFiles(file(next));
  await page.getByText("The gateway would take it.").waitFor();
  await tabTo(page, /^ *Commit/);
  await page.keyboard.type("abc123");
  await tabTo(page, /^ *Push it/);
  await page.keyboard.press("Enter");
  await page.getByText("It serves.").waitFor();
  assert.equal(await serving("page%20interaction/pageview"), digestOf(next));
  await card(page, "Versions").getByRole("row", { name: new RegExp(digestOf(next).slice(0, 12)) }).getByText("serves").waitFor();
  await tabTo(page, /Roll back to the version before/);
  await page.keyboard.press("Enter");
  const change = page.getByRole("group", { name: "Roll back" });
  await change.getByText(before).waitFor();
  await page.keyboard.press("Escape");
  await change.waitFor({ state: "detached" });
  assert.equal(await serving("page%20interaction/pageview"), digestOf(next), "Escape changes nothing");
  await page.keyboard.press("Enter");
  await change.getByText(before).waitFor();
  await tabTo(page, /^ *Roll back$/);
  await page.keyboard.press("Enter");
  await change.getByText("It is rolled back.").waitFor();
  assert.equal(await serving("page%20interaction/pageview"), before);
  await tabTo(page, /^ *Close$/);
  await page.keyboard.press("Enter");
  await change.waitFor({ state: "detached" });
  await page.getByLabel(/An event as JSON/).focus();
  await page.keyboard.press("Control+Enter");
  await card(page, "Try an event").getByText("It would be").waitFor();
  await close(page);
});

test("one version is chosen to go back to, and its file is saved", async () => {
  const page = await signedIn({ view: PAGEVIEW });
  const versions = card(page, "Versions");
  const first = digestOf(pageview);
  const row = versions.getByRole("row", { name: new RegExp(first.slice(0, 12)) });
  const [saved] = await Promise.all([page.waitForEvent("download"), row.getByRole("button", { name: /File/ }).click()]);
  assert.equal(digestOf(await readFile(await saved.path())), first);
  await row.getByRole("button", { name: /Roll back to it/ }).click();
  const change = page.getByRole("group", { name: "Roll back" });
  await change.getByText(first).waitFor();
  await change.getByRole("button", { name: "Roll back" }).click();
  await change.getByText("It is rolled back.").waitFor();
  assert.equal(await serving("page%20interaction/pageview"), first);
  await close(page);
});

test("a module for a new event type is shipped from the list, and retired and brought back on its page", async () => {
  const name = `${HOSTILE} 🦊 a/b%2F`;
  const page = await signedIn({ view: "validators" });
  const ship = card(page, "Ship a module for an event type");
  await ship.getByLabel("Category").fill(" shop");
  await ship.locator("input[type=file]").setInputFiles(file(pageview, "sale.wasm"));
  await eventually("the file says the name", async () => (await ship.getByLabel("Name").inputValue()) === "sale");
  await ship.getByText("no space at its ends").waitFor();
  assert.ok(await ship.getByRole("button", { name: "Check it" }).isDisabled());
  await ship.getByLabel("Category").fill(FOXES);
  await ship.getByLabel("Name").fill(name);
  await ship.getByRole("button", { name: "Check it" }).click();
  await ship.getByText("nothing: no module has served these events").waitFor();
  await ship.getByRole("button", { name: "Push it" }).click();
  await ship.getByText("It serves.").waitFor();
  await ship.getByRole("link", { name: /Look at/ }).click();
  await page.getByRole("heading", { level: 2, name: new RegExp("onerror=alert") }).waitFor();
  await page.reload();
  await page.getByText("Serves since").waitFor();
  const path = `${encodeURIComponent(FOXES)}/${encodeURIComponent(name)}`;
  assert.equal(await serving(path), digestOf(pageview));
  await page.getByRole("button", { name: "Retire…" }).click();
  const change = page.getByRole("group", { name: "Retire the module" });
  await change.getByText(digestOf(pageview)).waitFor();
  await change.getByRole("button", { name: "Cancel" }).click();
  assert.equal(await serving(path), digestOf(pageview));
  await page.getByRole("button", { name: "Retire…" }).click();
  await change.getByRole("button", { name: "Retire it" }).click();
  await change.getByText("It is retired.").waitFor();
  assert.equal((await gateway.ask("GET", `/v1/validators/${path}`)).status, 404);
  await change.getByRole("button", { name: "Close" }).click();
  await page.getByText("No module of its own judges this event type").waitFor();
  await page.getByRole("button", { name: "Roll back to the version before" }).click();
  await page.getByRole("group", { name: "Roll back" }).getByRole("button", { name: "Roll back" }).click();
  await page.getByText("It is rolled back.").waitFor();
  assert.equal(await serving(path), digestOf(pageview));
  await close(page);
});

test("wildcards and a literal star have pages of their own", async () => {
  assert.equal((await push("star/*", pageview)).status, 200);
  assert.equal((await push("star/%2A", version(pageview, "star"))).status, 200);
  const page = await signedIn({ view: "validators?text=star" });
  await page.getByRole("link", { name: "star / * its other names" }).click();
  await card(page, "Digest of the module that serves").getByText(digestOf(pageview)).waitFor();
  await page.goBack();
  await page.getByRole("link", { name: "star / *", exact: true }).click();
  await card(page, "Digest of the module that serves").getByText(digestOf(version(pageview, "star"))).waitFor();
  for (const type of ["shop", "a/b/c", "*/sale", "a/%", "../..", ""]) {
    await page.goto(`${gateway.url}/#/validator?${new URLSearchParams({ type })}`);
    await page.getByText("This address names no event type").waitFor();
  }
  await close(page);
});

test("a pasted event is judged without being stored, with what is wrong and where", async () => {
  const page = await signedIn({ view: PAGEVIEW });
  const trial = card(page, "Try an event");
  const text = trial.getByLabel(/An event as JSON/);
  await eventually("it begins with a stored event", async () => (await text.inputValue()).includes("shop.example"));
  const judge = trial.getByRole("button", { name: "Judge it" });
  await judge.click();
  await trial.getByText("stored", { exact: true }).waitFor();
  await trial.getByText(await serving("page%20interaction/pageview")).waitFor();
  const mine = event({ data: { host: `https://${HOSTILE}`, path: "no" } });
  await text.fill(JSON.stringify(mine));
  await judge.click();
  await trial.getByText("rejected", { exact: true }).waitFor();
  await trial.getByText("/host", { exact: true }).waitFor();
  await trial.getByText("/path", { exact: true }).waitFor();
  await trial.getByRole("group", { name: "The event, with what is wrong in its place" }).getByText("Give the host name alone").waitFor();
  await trial.getByText(await serving("page%20interaction/pageview")).waitFor();
  await text.fill('{\n  "id": "🦊", "data" {}\n}');
  await judge.click();
  await trial.getByText("The body is not JSON").waitFor();
  await trial.getByRole("button", { name: /Go to line 2, column/ }).click();
  const place = await text.evaluate((field) => [document.activeElement === field, field.value.slice(field.selectionStart, field.selectionEnd)]);
  assert.deepEqual(place, [true, "{"]);
  await text.fill(JSON.stringify({ ...mine, timestamp: "yesterday" }));
  await judge.click();
  await trial.getByText("before any module").waitFor();
  await text.fill(JSON.stringify([event(), mine]));
  await judge.click();
  await trial.getByText("Event 2").waitFor();
  const { json } = await gateway.ask("GET", `/v1/events?session_id=${mine.session_id}`);
  assert.deepEqual(json.events, []);
  await close(page);
});

test("what a scope may not do is not offered, and what it may do elsewhere is refused in the page", async () => {
  const reader = await gateway.add("only-reads", ["read"]);
  const page = await signedIn({ view: "validators", token: reader });
  await page.getByRole("row", { name: /pageview/ }).waitFor();
  assert.equal(await page.locator("input[type=file]").count(), 0);
  await page.goto(`${gateway.url}/#/${PAGEVIEW}`);
  await card(page, "Versions").waitFor();
  assert.equal(await page.locator("input[type=file], textarea").count(), 0);
  assert.equal(await page.getByRole("button", { name: /roll back|retire|file|push/i }).count(), 0);
  await close(page);

  const shipper = await gateway.add("ships-shop", ["ship", "read"], { ship_event_types: ["shop/*"] });
  const other = await signedIn({ view: PAGEVIEW, token: shipper });
  const ship = card(other, "Ship a version");
  await ship.locator("input[type=file]").setInputFiles(file(version(pageview, "not mine")));
  await ship.getByText("may ship shop/*").waitFor();
  await other.getByRole("button", { name: "Retire…" }).click();
  await other.getByRole("group", { name: "Retire the module" }).getByText("may ship shop/*").waitFor();
  assert.equal(await other.locator("textarea").count(), 0, "to try an event needs the scope ingest");
  await close(other);

  const kiosk = await gateway.add("limited", ["read"], { read_applications: ["limited"] });
  const limited = await signedIn({ view: "validators", token: kiosk });
  await limited.getByText("sees the events of some applications alone").waitFor();
  await close(limited);
});

for (const colorScheme of ["light", "dark"]) {
  for (const width of [360, 1920]) {
    test(`the views of validators are for everybody, ${colorScheme}, ${width} px`, async () => {
      const page = await signedIn({ colorScheme, viewport: { width, height: 900 }, bypassCSP: true, view: "validators" });
      await page.getByRole("heading", { name: "Judged by nobody" }).waitFor();
      await page.locator("svg.sparkline").first().waitFor();
      await holdsForEveryone(page, "the list");
      await page.goto(`${gateway.url}/#/validator?type=shop/other`);
      await page.getByRole("heading", { name: "What is wrong" }).waitFor();
      await holdsForEveryone(page, "a type in trouble");
      await page.goto(`${gateway.url}/#/validator?${new URLSearchParams({ type: `${FOXES}/${LONG}` })}`);
      await page.getByText("No module of its own").waitFor();
      await holdsForEveryone(page, "a type with a long name and no module");
      await page.goto(`${gateway.url}/#/${PAGEVIEW}`);
      await page.getByRole("button", { name: "Retire…" }).click();
      await page.getByRole("button", { name: "Retire it" }).waitFor();
      await page.getByRole("button", { name: "Judge it" }).click();
      await page.getByText("It would be").waitFor();
      const field = page.locator("input[type=file]");
      await field.setInputFiles(file(version(pageview, "looked at"), `${LONG}.wasm`));
      await page.getByText("The gateway would take it.").waitFor();
      await holdsForEveryone(page, "a type with all that can be open");
      await field.setInputFiles(file(submit.subarray(0, 99), `${FOXES}.wasm`));
      await page.getByText("How to mend it").waitFor();
      await holdsForEveryone(page, "a refused file");
      await close(page);
    });
  }
}

/** Another gateway on the database of the fleet. */
async function another(name, settings = {}) {
  const other = new Gateway();
  const folder = join(fleet.folder, name);
  await mkdir(folder);
  const database = `postgres://eye@/eye?host=${join(fleet.folder, "data/run")}`;
  const port = 20_000 + Math.floor(Math.random() * 10_000);
  const environment = { EYE_DATABASE_URL: database, EYE_MODULES_FROM: "database", EYE_GATEWAY_NAME: name, ...settings };
  Object.assign(other, { folder, environment, address: `127.0.0.1:${port}`, url: `http://127.0.0.1:${port}` });
  await other.run();
  return other;
}

test("an empty list says how to ship the first validator", async () => {
  fleet = await Gateway.start({ EYE_MODULES_FROM: "database", EYE_GATEWAY_NAME: "one" });
  const page = await signedIn({ view: "validators", bypassCSP: true }, fleet);
  await page.getByText(/eye validator push sale\.wasm --type shop\/sale/).waitFor();
  await holdsForEveryone(page, "the empty list");
  await close(page);
});

test("a push waits for every gateway, and tells who shipped which commit", async () => {
  const second = await another("two");
  const page = await signedIn({ view: "validator?type=shop/sale" }, fleet);
  const ship = card(page, "Ship a version");
  await ship.locator("input[type=file]").setInputFiles(file(pageview));
  await ship.getByText("All gateways prepare it").waitFor();
  await ship.getByLabel(/Commit/).fill("3f2a91c");
  // It hangs until the page has said that it waits for it.
  second.process.kill("SIGSTOP");
  await ship.getByRole("button", { name: "Push it" }).click();
  await ship.getByText("These gateways still prepare it").waitFor();
  await ship.getByText("two", { exact: true }).waitFor();
  second.process.kill("SIGCONT");
  await ship.getByText("It serves.").waitFor();
  await page.getByText("Shipped by").waitFor();
  await card(page, "Versions").getByText("3f2a91c").waitFor();
  await card(page, "Changes of the last day").getByText("push").waitFor();
  await second.stop();
  await close(page);
});

test("a refusal of a gateway of the fleet is told, and force lifts it after its words", async () => {
  const small = await another("small", { EYE_MEMORY_BYTES_MAX: "65536", EYE_OUTPUT_BYTES_MAX: "65536" });
  const page = await signedIn({ view: "validator?type=shop/sale" }, fleet);
  const ship = card(page, "Ship a version");
  const next = version(pageview, "forced");
  await ship.locator("input[type=file]").setInputFiles(file(next));
  await ship.getByRole("button", { name: "Push it" }).click();
  await ship.getByText("A gateway cannot serve this").waitFor();
  await ship.getByText("small", { exact: true }).waitFor();
  assert.equal(await serving("shop/sale", fleet), digestOf(pageview));
  await ship.getByText("A gateway that cannot answers 503").waitFor();
  await ship.getByRole("button", { name: "Push it with force" }).click();
  await ship.getByText("It serves.").waitFor();
  assert.equal(await serving("shop/sale", fleet), digestOf(next));
  await small.stop();
  await close(page);
});

test("a version that redacts no more is shipped with force alone", async () => {
  assert.equal((await push("form/submit", submit, fleet)).status, 200);
  const page = await signedIn({ view: "validator?type=form/submit" }, fleet);
  const ship = card(page, "Ship a version");
  await ship.locator("input[type=file]").setInputFiles(file(pageview));
  await ship.getByText("takes nothing out of refused events any more").waitFor();
  await ship.getByRole("button", { name: "Check it with force" }).click();
  await ship.getByText("The gateway would take it.").waitFor();
  assert.equal(await serving("form/submit", fleet), digestOf(submit));
  await ship.getByRole("button", { name: "Push it with force" }).click();
  await ship.getByText("It serves.").waitFor();
  assert.equal(await serving("form/submit", fleet), digestOf(pageview));
  await close(page);
});
