// The panel while much happens: `make test-panel`.
import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { event, eventually, Gateway, signedIn, startBrowser } from "./support.mjs";

const SECONDS = 60;
/** Requests a second, and events of each. */
const REQUESTS = 10;
const EVENTS = 100;
let gateway, browser, shop;

before(async () => {
  gateway = await Gateway.start();
  browser = await startBrowser();
  shop = await gateway.add("shop", ["ingest"]);
});
after(async () => {
  await browser?.close();
  await gateway?.end();
});

/** Milliseconds from asking for the page to its first content. It is told, and decides nothing. */
async function firstPaint(page) {
  const times = [];
  for (let look = 0; look < 9; look++) {
    await page.reload();
    await page.getByRole("heading", { name: "Overview" }).waitFor();
    times.push(await page.evaluate(() => Math.round(performance.getEntriesByName("first-contentful-paint")[0]?.startTime ?? 0)));
  }
  return times.sort((a, b) => a - b)[4];
}

test("a thousand outcomes a second for a minute are all counted, and the page stays quick", async () => {
  const page = await signedIn(browser, gateway);
  console.log(`first paint of the overview: ${await firstPaint(page)} ms (median of 9)`);
  await page.goto(`${gateway.url}/#/live`);
  await page.getByText("Live.", { exact: true }).waitFor();
  const fill = () => event({ category: "load", name: "tick" });
  const began = Date.now();
  let sent = 0;
  const waits = [];
  for (let request = 0; request < SECONDS * REQUESTS; request++) {
    const { stored } = await gateway.send(Array.from({ length: EVENTS }, fill), shop);
    assert.equal(stored, EVENTS);
    sent += stored;
    if (request % REQUESTS === 0) {
      const asked = Date.now();
      await page.evaluate(() => new Promise((done) => requestAnimationFrame(() => setTimeout(done))));
      waits.push(Date.now() - asked);
    }
    await new Promise((done) => setTimeout(done, Math.max(0, began + ((request + 1) * 1000) / REQUESTS - Date.now())));
  }
  await eventually(`${sent} outcomes are counted`, async () => (await page.locator(".total").getAttribute("title")) === `${sent.toLocaleString("en-US")} outcomes`);
  assert.ok((await page.locator(".rows li").count()) < 120, "only the lines in sight are drawn");
  const { size, heap } = await page.evaluate(() => ({ size: Number(document.querySelector(".rows li")?.ariaSetSize), heap: performance.memory?.usedJSHeapSize }));
  assert.ok(size > 0 && size <= 6000, `${size} lines are kept`);
  waits.sort((a, b) => a - b);
  console.log(`${sent} outcomes in ${(Date.now() - began) / 1000} s; the page answered within ${waits[Math.floor(waits.length / 2)]} ms (median), ${waits.at(-1)} ms (longest); heap ${Math.round(heap / 2 ** 20)} MiB`);
  // A list that is paused stands still while more comes.
  await page.getByRole("button", { name: "Pause" }).click();
  const first = await page.locator(".rows li").first().innerText();
  await gateway.send(Array.from({ length: EVENTS }, fill), shop);
  await page.getByRole("button", { name: /newer/ }).waitFor();
  assert.equal(await page.locator(".rows li").first().innerText(), first);
  assert.deepEqual(page.faults, []);
  await page.context().close();
});
