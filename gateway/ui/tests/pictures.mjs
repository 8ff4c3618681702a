// Takes a picture of every view in both themes at both widths, with events of all outcomes, for people to look at:
// `node tests/pictures.mjs FOLDER`. With EYE_GATEWAY and EYE_TOKEN, of that gateway instead of one of its own.
import { randomUUID } from "node:crypto";
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
  const session = randomUUID();
  for (let step = 0; step < 40; step++) {
    const at = Date.now() - 2_400_000 + step * 4000 + Math.floor(step / 9) * 400_000;
    await gateway.send([event({ session_id: session, timestamp: new Date(at).toISOString(), data: { host: "shop.example", path: `/shoes/${step}` } })], step % 3 === 0 ? kiosk : shop);
  }
  const { json } = await gateway.ask("GET", "/v1/dead-letters?code=rule&limit=1");
  const views = {
    overview: "overview?range=5m",
    live: "live",
    explore: "explore",
    session: `explore?session=${session}`,
    sessions: "explore?show=sessions",
    refused: "refused",
    letter: `letter?id=${json.dead_letters[0].id}`,
    validators: "validators",
    validator: "validator?type=page%20interaction/pageview",
    applications: "applications",
    application: "application?name=shop",
    "add-application": "add-application",
    fleet: "fleet",
    audit: "audit",
    nothing: "explore?category=nothing",
  };
  for (const { page, take } of pages) {
    await page.bringToFront();
    for (const [name, address] of Object.entries(views)) {
      await page.goto(`${gateway.url}/#/${address}`);
      await page.waitForTimeout(name === "overview" ? 4000 : 1800);
      await take(name);
    }
    await page.goto(`${gateway.url}/#/explore?session=${session}`);
    await page.locator(".rows a").nth(3).click();
    await page.getByRole("heading", { name: "Send it again" }).waitFor();
    await take("event");
    if (page.faults.length > 0) console.error(page.faults);
  }
} finally {
  clearInterval(load);
  await browser.close();
  await gateway.end();
}
