// The panel as people use it, in a real browser: `make test-panel`.
import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { event, eventually, Gateway, holdsForEveryone, openPage, signedIn as signedInAt, startBrowser } from "./support.mjs";

let gateway, browser;

before(async () => {
  gateway = await Gateway.start();
  browser = await startBrowser();
});
after(async () => {
  await browser?.close();
  await gateway?.end();
});

/** A page that is signed in, with what it shows. */
const signedIn = (options, token) => signedInAt(browser, gateway, { ...options, token });

test("the first event is sent from an empty overview", async () => {
  const page = await signedIn();
  await page.getByRole("heading", { name: "Send the first event" }).waitFor();
  assert.match(await page.locator("pre, code").first().innerText(), /curl -i .*\/v1\/events/);
  await page.getByRole("button", { name: /send/i }).first().click();
  await page.getByText("stored").first().waitFor();
  assert.deepEqual(page.faults, []);
  await page.context().close();
});

test("a token signs in, a wrong one is told, and no token stays in the page", async () => {
  const page = await openPage(browser);
  await page.goto(gateway.url);
  await page.getByLabel(/Token/).fill("eye_nobody");
  await page.keyboard.press("Enter");
  await page.getByText("No application has this token").waitFor();
  await page.getByLabel(/Token/).fill(gateway.admin);
  await page.keyboard.press("Enter");
  await page.getByRole("heading", { name: "Overview" }).waitFor();
  const kept = await page.evaluate(() => JSON.stringify([{ ...localStorage }, { ...sessionStorage }, document.cookie]));
  assert.ok(!kept.includes(gateway.admin), kept);
  await page.reload();
  await page.getByRole("heading", { name: "Overview" }).waitFor();
  await page.getByRole("button", { name: "Sign out" }).click();
  await page.getByRole("button", { name: "Sign in" }).waitFor();
  assert.deepEqual([...page.hosts], [gateway.address], "it asks no other host");
  await page.context().close();
});

test("an address signs in once", async () => {
  const address = await gateway.signInAddress();
  const page = await openPage(browser);
  await page.goto(address);
  await page.getByRole("heading", { name: "Overview" }).waitFor();
  assert.ok(!page.url().includes("code="), page.url());
  const other = await openPage(browser);
  await other.goto(address);
  await other.getByText("has been used").waitFor();
  await page.context().close();
  await other.context().close();
});

test("the reason of a rejected event is found from the overview and from the live list", async () => {
  const kiosk = await gateway.add("kiosk", ["ingest"]);
  const hostile = event({ data: { host: "https://shop.example/<img src=x onerror=alert(1)>", path: "/" } });
  await gateway.send([event(), event(), hostile], kiosk);
  const page = await signedIn();
  await page.getByRole("heading", { name: "Refused, by reason" }).waitFor();
  await page.getByText("Give the host name alone").first().waitFor();
  await page.getByRole("link", { name: "Live" }).click();
  await page.getByRole("heading", { name: "Live" }).waitFor();
  // The list begins with what comes from now on.
  await eventually("a rejected event is shown", async () => {
    await gateway.send([{ ...hostile, id: crypto.randomUUID() }], kiosk);
    return (await page.locator(".rows a", { hasText: "rejected" }).count()) > 0;
  });
  await page.getByRole("button", { name: "Pause" }).click();
  await page.locator(".rows a", { hasText: "rejected" }).first().click();
  await page.getByRole("heading", { name: "What is kept of it" }).waitFor();
  await page.getByText("Give the host name alone").first().waitFor();
  await page.goBack();
  await page.getByRole("heading", { name: "Live" }).waitFor();
  assert.deepEqual(page.faults, []);
  await page.context().close();
});

test("a revoked application is signed out within seconds", async () => {
  const token = await gateway.add("reader", ["read"]);
  const page = await signedIn({}, token);
  const { status } = await gateway.ask("DELETE", "/v1/applications/reader");
  assert.ok(status < 300, String(status));
  await page.getByText("Your session is over").waitFor();
  await page.context().close();
});

test("a gateway that restarts is said to be away, and the page goes on by itself", async () => {
  const page = await signedIn();
  await gateway.stop();
  await page.getByText(/^It was last heard/).waitFor();
  await gateway.run();
  await page.getByText(/^It was last heard/).waitFor({ state: "detached" });
  await page.getByRole("heading", { name: "Overview" }).waitFor();
  await page.context().close();
});

for (const [colorScheme, width] of ["light", "dark"].flatMap((scheme) => [[scheme, 360], [scheme, 1920]])) {
  test(`signing in, the overview and the live list are for everyone, ${colorScheme}, ${width} px`, async () => {
    const page = await openPage(browser, { colorScheme, viewport: { width, height: 900 }, bypassCSP: true });
    await page.goto(gateway.url);
    await page.getByRole("button", { name: "Sign in" }).waitFor();
    await holdsForEveryone(page, "sign-in");
    await page.goto("about:blank");
    await page.goto(await gateway.signInAddress());
    await page.getByRole("navigation", { name: "Views" }).waitFor();
    for (const view of ["overview", "live"]) {
      await page.goto(`${gateway.url}/#/${view}`);
      await page.getByRole("heading", { level: 1 }).waitFor();
      await page.waitForTimeout(500);
      await holdsForEveryone(page, view);
    }
    await page.context().close();
  });
}

test("the files of the page are small, strict and kept", async () => {
  const page = await fetch(gateway.url, { headers: { "accept-encoding": "gzip" } });
  assert.match(page.headers.get("content-security-policy"), /default-src 'none'.*frame-ancestors 'none'/);
  assert.equal(page.headers.get("cache-control"), "no-cache");
  const html = await page.text();
  assert.ok(!/<script(?![^>]*src=)|<style|style=|onload=/.test(html), html);
  let bytes = 0;
  for (const [, path] of html.matchAll(/(?:src|href)="(\/panel\/[^"]+)"/g)) {
    const file = await fetch(`${gateway.url}${path}`, { headers: { "accept-encoding": "gzip" } });
    assert.equal(file.status, 200, path);
    bytes += Number(file.headers.get("content-length"));
  }
  assert.ok(bytes > 0 && bytes < 120 * 1024, `${bytes} bytes`);
});
