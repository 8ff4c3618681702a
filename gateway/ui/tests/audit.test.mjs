// The audit trail, as an administrator reads it.
import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { eventually, Gateway, holdsForEveryone, openPage, signedIn as signedInAt, startBrowser } from "./support.mjs";

const HOSTILE = '<img src=x onerror="document.title=`broken`">';
const LONG = "a-name-that-nobody-has-broken-into-words-".repeat(5).slice(0, 200);
/** More changes than a page has. */
const CHANGES = 110;

let gateway, browser;

before(async () => {
  gateway = await Gateway.start();
  browser = await startBrowser();
  for (const name of [HOSTILE, LONG, "🛒 متجر"]) await gateway.add(name, ["ingest"]);
  await gateway.add("busy", ["ingest"]);
  for (let number = 1; number <= CHANGES; number++) await gateway.ask("PATCH", "/v1/applications/busy", { events_per_second: number });
  await gateway.ask("PATCH", "/v1/applications/busy", { event_types: ["a/\u202elive.evil", HOSTILE.replace("/", "") + "/*"], scopes: ["ingest", "read"] });
});
after(async () => {
  await browser?.close();
  await gateway?.end();
});

const signedIn = (view, options) => signedInAt(browser, gateway, { view, ...options });
const entries = (page) => page.locator(".trail summary");

async function ends(page) {
  assert.deepEqual(page.faults, []);
  await page.context().close();
}

test("an entry opens by keyboard alone to what was changed, by whom, from where and by which request", async () => {
  const page = await signedIn("audit?subject=busy");
  await entries(page).first().waitFor();
  await entries(page).first().focus();
  await page.keyboard.press("Enter");
  const whole = page.locator(".trail .whole").first();
  await whole.getByRole("rowheader", { name: "scopes" }).waitFor();
  await whole.getByText("ingest, read").waitFor();
  const { json } = await gateway.ask("GET", "/v1/audit?subject=busy&limit=1");
  const [entry] = json.entries;
  for (const text of [entry.request_id, entry.peer, entry.actor.token_id, entry.id]) await whole.getByText(text, { exact: true }).first().waitFor();
  await whole.getByText("a/\\u202elive.evil").waitFor();
  assert.equal(await page.locator("main img").count(), 0);
  assert.equal(await page.title(), "Audit · The Eye");
  await ends(page);
});

test("older entries come page by page, and the back button leads to the newer ones", async () => {
  const page = await signedIn("audit?subject=busy");
  await eventually("a page is full", async () => (await entries(page).count()) === 100);
  await page.getByRole("link", { name: "Older" }).click();
  await page.getByText("This is where the trail begins.").waitFor();
  assert.equal(await entries(page).count(), CHANGES + 2 - 100);
  assert.match(page.url(), /cursor=/);
  await page.reload();
  await page.getByText("This is where the trail begins.").waitFor();
  await page.goBack();
  await eventually("the newer page is back", async () => (await entries(page).count()) === 100);
  await page.goForward();
  await page.getByRole("link", { name: "To the newest" }).click();
  await eventually("the newest are shown", async () => (await entries(page).count()) === 100);
  await ends(page);
});

test("the filters stand in the address, and what does not fit them is left out", async () => {
  const page = await signedIn("audit");
  await entries(page).first().waitFor();
  await page.getByLabel("action").fill("application_add");
  await page.keyboard.press("Enter");
  await eventually("only what was added is shown", async () => (await entries(page).count()) === 4);
  await page.getByLabel("subject").fill(HOSTILE);
  await page.keyboard.press("Enter");
  await eventually("only one is shown", async () => (await entries(page).count()) === 1);
  assert.match(page.url(), /action=application_add&subject=/);
  await page.goBack();
  await eventually("the filter before is back", async () => (await entries(page).count()) === 4);
  await page.getByLabel("to", { exact: true }).fill("2020-01-01T00:00:00");
  await page.getByText("No entry fits these filters.").waitFor();
  assert.match(page.url(), /to=20(19|20)-/);
  await page.getByRole("link", { name: "Show all entries" }).click();
  await entries(page).filter({ hasText: "busy" }).first().click();
  await page.getByRole("link", { name: "Only by this actor" }).click();
  await eventually("the actor is in the address", async () => page.url().includes("actor=admin.token"));
  await page.goto(`${gateway.url}/#/audit?from=yesterday`);
  await page.getByText("The audit trail could not be read.").waitFor();
  await page.getByText(/Request/).first().waitFor();
  await ends(page);
});

test("entries that come while somebody reads wait until they are asked for", async () => {
  const page = await signedIn("audit?subject=late");
  await page.getByText("No entry fits these filters.").waitFor();
  await gateway.add("late", ["ingest"]);
  await page.getByRole("button", { name: "Show 1 newer" }).click();
  assert.equal(await entries(page).count(), 1);
  await gateway.ask("DELETE", "/v1/applications/late");
  await page.getByRole("button", { name: "Show 1 newer" }).waitFor();
  assert.equal(await entries(page).count(), 1, "nothing has moved");
  await page.getByRole("button", { name: "Show 1 newer" }).click();
  assert.equal(await entries(page).count(), 2);
  await ends(page);
});

test("who may only read is not offered the audit trail", async () => {
  const token = await gateway.add("reader", ["read"]);
  const page = await signedIn("overview", { token });
  assert.equal(await page.getByRole("link", { name: "Audit" }).count(), 0);
  await page.goto(`${gateway.url}/#/audit`);
  await page.getByText("Your application has not the scope").waitFor();
  await ends(page);
});

for (const colorScheme of ["light", "dark"]) {
  for (const width of [360, 1920]) {
    test(`the audit trail is accessible at ${width} px, ${colorScheme}`, async () => {
      const page = await openPage(browser, { colorScheme, viewport: { width, height: 900 }, bypassCSP: true });
      await page.goto(await gateway.signInAddress());
      await page.getByRole("navigation", { name: "Views" }).waitFor();
      for (const view of ["audit", "audit?subject=nobody", "audit?action=application_add", "audit?subject=busy"]) {
        await page.goto(`${gateway.url}/#/${view}`);
        await page.locator("main section.card").first().waitFor();
        for (const summary of await entries(page).all().then((all) => all.slice(0, 4))) await summary.click();
        await holdsForEveryone(page, view);
      }
      await ends(page);
    });
  }
}
