// Exploring what was stored, as people do it: `make test-panel`.
import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { event, eventually, Gateway, holdsForEveryone, signedIn, startBrowser } from "./support.mjs";

const SESSION = "e2085be5-9137-4e4e-80b5-f1ffddc25423";
const BEGAN = Date.now() - 3_600_000;
let gateway, browser, shop, kiosk, hostile;

const at = (seconds) => new Date(BEGAN + seconds * 1000).toISOString();

before(async () => {
  gateway = await Gateway.start();
  browser = await startBrowser();
  shop = await gateway.add("shop", ["ingest"]);
  kiosk = await gateway.add("kiosk", ["ingest"]);
  await gateway.send([event({ session_id: SESSION, timestamp: at(0) }), event({ session_id: SESSION, timestamp: at(2) })], shop);
  await gateway.send([event({ session_id: SESSION, timestamp: at(602) })], kiosk);
  hostile = event({
    session_id: SESSION,
    category: "<img src=x onerror=alert(1)>",
    name: "it's \u05d0\u05d1\u05d2 😀",
    timestamp: at(603),
    data: { "<b>": "<script>alert(1)</script>", "\u202eevil": "it's", deep: { a: { b: [1, { c: null }] } }, long: "x".repeat(3000), list: [...Array(500).keys()] },
  });
  await gateway.send([hostile], kiosk);
});
after(async () => {
  await browser?.close();
  await gateway?.end();
});

test("a session shows its events in order, with gaps in time and all its applications", async () => {
  const page = await signedIn(browser, gateway, { view: "explore" });
  await page.getByLabel("session", { exact: true }).fill(SESSION);
  await page.keyboard.press("Enter");
  await page.getByText("4 events, from").waitFor();
  const lines = await page.locator(".rows li").allInnerTexts();
  assert.equal(lines.length, 4);
  assert.match(lines[0], /first[\s\S]*pageview[\s\S]*shop/);
  assert.match(lines[1], /\+2 s/);
  assert.match(lines[2], /\+10 min[\s\S]*kiosk/);
  await page.getByRole("button", { name: /kiosk/ }).click();
  await page.getByText("2 events, from").waitFor();
  assert.match(page.url(), /application=kiosk/);
  await page.goBack();
  await page.getByText("4 events, from").waitFor();
  assert.deepEqual(page.faults, []);
  await page.context().close();
});

test("an event opens beside the list, as a tree and as JSON, and the way back closes it", async () => {
  const page = await signedIn(browser, gateway, { view: "explore?category=page+interaction" });
  await page.locator(".rows a").first().click();
  const pane = page.getByRole("complementary", { name: "The opened event" });
  await pane.getByRole("heading", { name: "Data" }).waitFor();
  await pane.locator(".tree").getByText("shop.example").waitFor();
  assert.match(await pane.innerText(), /Judged by\s+[0-9a-f]{64}/);
  await pane.getByRole("radio", { name: "JSON" }).check({ force: true });
  await pane.getByRole("region", { name: "The data of the event" }).getByText('"host": "shop.example"').waitFor();
  await page.goBack();
  await pane.waitFor({ state: "detached" });
  assert.deepEqual(page.faults, []);
  await page.context().close();
});

test("what an event holds is text, and the command sends the very same event again", async () => {
  const page = await signedIn(browser, gateway, { view: `explore?session=${SESSION}&open=${SESSION}.${hostile.id}` });
  const pane = page.getByRole("complementary", { name: "The opened event" });
  await pane.locator(".tree").getByText("<script>alert(1)</script>").waitFor();
  await pane.locator(".tree").getByText("\\u202eevil").waitFor();
  assert.equal(await pane.locator("img, script").count(), 0);
  await pane.getByRole("button", { name: "All 3,002 characters" }).click();
  await pane.locator(".tree").getByText("x".repeat(3000)).waitFor();
  const command = await pane.getByRole("region", { name: "Command that sends the event again" }).innerText();
  const { execFileSync } = await import("node:child_process");
  const answer = execFileSync("bash", ["-c", command], { env: { ...process.env, EYE_TOKEN: kiosk }, encoding: "utf8" });
  assert.match(answer, /"outcome":"duplicate"/);
  assert.deepEqual(page.faults, []);
  await page.context().close();
});

test("sessions are found by their time, and lead to their events", async () => {
  const page = await signedIn(browser, gateway, { view: "explore?show=sessions" });
  const row = page.getByRole("row", { name: /e2085be5/ });
  await row.waitFor();
  assert.match(await row.innerText(), /4[\s\S]*10 min[\s\S]*(kiosk, shop|shop, kiosk)/);
  await row.getByRole("link").click();
  await page.getByText("4 events, from").waitFor();
  await page.context().close();
});

test("nothing found says what to do, and a session that is no UUID is told at its field", async () => {
  const page = await signedIn(browser, gateway, { view: "explore?category=nothing" });
  await page.getByText("No event that fits these filters occurred in the last 24 hours.").waitFor();
  const field = page.getByLabel("session", { exact: true });
  await field.fill("nonsense");
  await page.keyboard.press("Enter");
  assert.match(await field.evaluate((element) => element.validationMessage), /A session is a UUID/);
  await page.context().close();
});

test("a session of 10,000 events is read whole, and moves at a key", async () => {
  const long = event();
  for (let part = 0; part < 10; part++) {
    const some = Array.from({ length: 1000 }, (_, index) => event({ session_id: long.session_id, timestamp: at(part * 300 + index * 0.3), data: { host: "shop.example", path: `/${part * 1000 + index}` } }));
    const { stored } = await gateway.send(some, part % 2 === 0 ? shop : kiosk);
    assert.equal(stored, 1000);
  }
  const page = await signedIn(browser, gateway, { view: `explore?session=${long.session_id}` });
  await page.getByText("10,000 events, from").waitFor();
  assert.ok((await page.locator(".rows li").count()) < 120, "only the lines in sight are drawn");
  await page.getByRole("region", { name: /Events of the session/ }).focus();
  await page.keyboard.press("End");
  await eventually("the last event is in sight", async () => (await page.getByText('"/9999"').count()) > 0);
  await page.keyboard.press("Enter");
  await page.getByRole("complementary", { name: "The opened event" }).locator(".tree").getByText('"/9999"').waitFor();
  // The list is where it was.
  assert.ok((await page.locator(".rows").evaluate((element) => element.scrollTop)) > 100_000);
  assert.deepEqual(page.faults, []);
  await page.context().close();
});

for (const colorScheme of ["light", "dark"]) {
  for (const width of [360, 1920]) {
    test(`exploring is for everyone, ${colorScheme}, ${width} px`, async () => {
      const page = await signedIn(browser, gateway, { colorScheme, viewport: { width, height: 900 }, bypassCSP: true });
      for (const view of ["explore", "explore?show=sessions", `explore?session=${SESSION}&open=${SESSION}.${hostile.id}`, "explore?category=nothing"]) {
        await page.goto(`${gateway.url}/#/${view}`);
        await page.locator(".rows a, .sessions, .empty").first().waitFor();
        if (view.includes("open=")) await page.getByRole("heading", { name: "Send it again" }).waitFor();
        await holdsForEveryone(page, view);
      }
      await page.context().close();
    });
  }
}
