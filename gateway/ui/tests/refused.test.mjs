// What was refused and why, and the way to judge it again, as people do it: `make test-panel`.
import assert from "node:assert/strict";
import { cp, mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { event, eventually, Gateway, holdsForEveryone, MODULES, signedIn, startBrowser } from "./support.mjs";

const BAD_HOST = { host: "https://shop.example/<img src=x onerror=alert(1)>", path: "/" };
let gateway, browser, modules, shop, kiosk, reader;

before(async () => {
  modules = await mkdtemp(join(tmpdir(), "eye-modules-"));
  await cp(MODULES, modules, { recursive: true });
  gateway = await Gateway.start({ EYE_MODULES: modules });
  browser = await startBrowser();
  shop = await gateway.add("shop", ["ingest"]);
  kiosk = await gateway.add("kiosk", ["ingest"]);
  reader = await gateway.add("reader", ["read"]);
  await gateway.send(Array.from({ length: 30 }, () => event({ data: BAD_HOST })), shop);
  await gateway.send(Array.from({ length: 3 }, () => event({ data: { path: "/x" } })), kiosk);
  await gateway.send([event({ name: "\u202eevil <b>" }), event({ name: "" }), event({ timestamp: "never" })], kiosk);
  await eventually("all letters are written", async () => (await gateway.ask("GET", "/v1/dead-letters?limit=1000")).json.dead_letters.length === 36);
});
after(async () => {
  await browser?.close();
  await gateway?.end();
  await rm(modules, { recursive: true, force: true });
});

test("the reason is found in a minute: by group, and marked at its place", async () => {
  const page = await signedIn(browser, gateway);
  await page.getByRole("link", { name: "Refused", exact: true }).click();
  await page.getByText("36 events were refused in the last 24 hours.").waitFor();
  const group = page.locator(".groups li", { hasText: "Give the host name alone" });
  assert.match(await group.innerText(), /^30[\s\S]*page interaction[\s\S]*shop/);
  await group.getByRole("link", { name: /Give the host name/ }).click();
  await page.getByText("30 events were refused").waitFor();
  assert.match(page.url(), /violation=bad_host/);
  await page.getByRole("link", { name: "the latest" }).click();
  const kept = page.getByRole("group", { name: "What is kept of the event" });
  const marked = kept.locator(".marked", { hasText: "host" });
  await marked.getByText("Give the host name alone").waitFor();
  assert.equal(await kept.locator("img").count(), 0, "what an event holds is text");
  await page.goBack();
  await page.getByText("30 events were refused").waitFor();
  assert.deepEqual(page.faults, []);
  await page.context().close();
});

test("a field that is missing is told where it should be", async () => {
  const page = await signedIn(browser, gateway, { view: "refused?violation=required&application=kiosk" });
  await page.getByText("3 events were refused").waitFor();
  await page.getByRole("link", { name: "the latest" }).click();
  await page.getByText("is not there:").waitFor();
  await page.context().close();
});

test("who may only read is told what would pass, and is not offered to store it", async () => {
  const page = await signedIn(browser, gateway, { view: "refused?violation=bad_host", token: reader });
  await page.getByText("30 events were refused").waitFor();
  await page.getByRole("button", { name: "Would they pass now?" }).click();
  await page.getByText("Nothing was changed. 30 judged: 30 would be rejected again.").waitFor();
  await page.getByText("Why 30 would not pass").click();
  await page.locator(".failures").getByText("Give the host name alone").first().waitFor();
  assert.equal(await page.getByRole("button", { name: /Redrive/ }).count(), 0);
  await page.context().close();
});

test("a redrive by keyboard alone: by choice, then by filter", async () => {
  await rm(join(modules, "page interaction/pageview.wasm"));
  await eventually("nobody judges the type", async () => {
    const { json } = await gateway.ask("POST", "/v1/events?dry_run=true", event({ data: BAD_HOST }));
    return json.outcome === "stored" || json.would === "stored";
  });
  const page = await signedIn(browser, gateway, { view: "refused?violation=bad_host" });
  await page.getByText("30 events were refused").waitFor();
  await page.getByRole("row").nth(30).waitFor();
  const reach = async (name) => {
    for (let step = 0; step < 200; step++) {
      const focused = await page.evaluate(() => {
        const { activeElement: at } = document;
        return (at?.innerText || at?.closest("label")?.textContent || "").trim();
      });
      if (name.test(focused)) return;
      await page.keyboard.press("Tab");
    }
    assert.fail(`the key Tab never leads to ${name}`);
  };
  await reach(/^Choose this event/);
  await page.keyboard.press("Space");
  await page.keyboard.press("Tab");
  await page.keyboard.press("Tab");
  await reach(/^Choose this event/);
  await page.keyboard.press("Space");
  await page.getByRole("heading", { name: "2 chosen" }).waitFor();
  const chosen = page.locator(".chosen-letters");
  await reach(/^Redrive…/);
  await page.keyboard.press("Enter");
  await chosen.locator("button:focus", { hasText: "Redrive 2 chosen letters" }).waitFor();
  await page.keyboard.press("Enter");
  await eventually("two are stored", async () => (await gateway.ask("GET", "/v1/events?category=page%20interaction")).json.events.length === 2);

  await page.reload();
  await page.getByText("30 events were refused").waitFor();
  await reach(/^Would they pass now/);
  await page.keyboard.press("Enter");
  await page.getByText("28 judged: 28 would be stored.").waitFor();
  await reach(/^Redrive…/);
  await page.keyboard.press("Enter");
  await page.locator("button:focus", { hasText: "Redrive 28 letters" }).waitFor();
  await page.keyboard.press("Enter");
  await page.getByText("28 judged: 28 stored.").waitFor();
  const { json } = await gateway.ask("GET", "/v1/events?category=page%20interaction&limit=1000");
  assert.equal(json.events.length, 30);
  assert.deepEqual(page.faults, []);
  await page.context().close();
});

test("nothing refused says what to do", async () => {
  const page = await signedIn(browser, gateway, { view: "refused?code=trap" });
  await page.getByText("Nothing that fits these filters was refused in the last 24 hours.").waitFor();
  await page.getByRole("button", { name: "Show all" }).click();
  await page.getByText("36 events were refused").waitFor();
  await page.context().close();
});

for (const colorScheme of ["light", "dark"]) {
  for (const width of [360, 1920]) {
    test(`what was refused is for everyone, ${colorScheme}, ${width} px`, async () => {
      const page = await signedIn(browser, gateway, { colorScheme, viewport: { width, height: 900 }, bypassCSP: true, view: "refused" });
      await page.locator(".groups li").first().waitFor();
      await page.getByRole("button", { name: /Redrive…/ }).first().click();
      await holdsForEveryone(page, "refused");
      await page.locator(".groups").getByRole("link", { name: "the latest" }).first().click();
      await page.getByRole("heading", { name: "What is kept of it" }).waitFor();
      await holdsForEveryone(page, "letter");
      await page.goto(`${gateway.url}/#/refused?code=trap`);
      await page.locator(".empty").waitFor();
      await holdsForEveryone(page, "refused, empty");
      await page.context().close();
    });
  }
}
