// Takes a picture of every view in both themes at both widths, with events of all outcomes, for people to look at:
// `node tests/pictures.mjs FOLDER`. With EYE_GATEWAY and EYE_TOKEN, of that gateway instead of one of its own.
import { mkdir } from "node:fs/promises";
import { join } from "node:path";
import { event, Gateway, openPage, startBrowser } from "./support.mjs";

const folder = process.argv[2] ?? "pictures";
await mkdir(folder, { recursive: true });
const gateway = process.env.EYE_GATEWAY
  ? Object.assign(new Gateway(), { url: process.env.EYE_GATEWAY, admin: process.env.EYE_TOKEN, end: async () => {} })
  : await Gateway.start();
const browser = await startBrowser();
const sizes = { narrow: { width: 360, height: 760 }, wide: { width: 1920, height: 1080 } };
let load;
try {
  const pages = [];
  for (const [size, viewport] of Object.entries(sizes)) {
    for (const colorScheme of ["light", "dark"]) {
      const page = await openPage(browser, { viewport, colorScheme });
      const take = async (name) => page.screenshot({ path: join(folder, `${name}-${size}-${colorScheme}.png`), fullPage: true });
      await page.goto(gateway.url);
      await page.getByRole("button", { name: "Sign in" }).waitFor();
      await take("sign-in");
      await page.goto("about:blank");
      await page.goto(await gateway.signInAddress());
      await page.getByRole("heading", { name: "Overview" }).waitFor();
      await page.waitForTimeout(1500);
      await take("empty");
      pages.push({ page, take });
    }
  }
  const shop = await gateway.add("shop", ["ingest"]);
  const kiosk = await gateway.add("kiosk", ["ingest"]);
  const long = "a very long event type that nobody has thought of when the column was made ".repeat(2).trim();
  const round = async () => {
    const events = [
      ...Array.from({ length: 12 }, () => event()),
      event({ category: "shop", name: "sale", data: { amount: 12.5 } }),
      event({ category: "shop", name: long }),
    ];
    await gateway.send(events, shop);
    await gateway.send(events[0], shop);
    await gateway.send([event({ data: { host: "https://shop.example/", path: "/" } }), event({ name: "" }), event(), event({ category: "<b>bold</b>", name: "\u202eevil" })], kiosk);
  };
  await round();
  load = setInterval(() => void round().catch(() => {}), 400);
  await new Promise((done) => setTimeout(done, 8000));
  for (const { page, take } of pages) {
    await page.bringToFront();
    await page.goto(`${gateway.url}/#/overview?range=5m`);
    await page.waitForTimeout(4000);
    await take("overview");
    await page.goto(`${gateway.url}/#/live`);
    await page.waitForTimeout(2500);
    await page.getByRole("button", { name: "Pause" }).click();
    await take("live");
    await page.locator(".rows a", { hasText: "stored" }).first().click();
    await page.getByRole("heading", { name: "Data" }).waitFor();
    await take("event");
    await page.goBack();
    await page.locator(".rows a", { hasText: "rejected" }).first().click();
    await page.getByRole("heading", { name: "What is kept of it" }).waitFor();
    await take("letter");
    if (page.faults.length > 0) console.error(page.faults);
  }
} finally {
  clearInterval(load);
  await browser.close();
  await gateway.end();
}
