// The views of applications, as an administrator uses them.
import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { event, eventually, Gateway, holdsForEveryone, openPage, signedIn as signedInAt, startBrowser } from "./support.mjs";

const HOSTILE = '<img src=x onerror="document.title=`broken`">';
const OVERRIDE = "\u202egnp.evil";
const LONG = "a-name-that-nobody-has-broken-into-words-".repeat(5).slice(0, 200);

let gateway, browser;

before(async () => {
  gateway = await Gateway.start();
  browser = await startBrowser();
});
after(async () => {
  await browser?.close();
  await gateway?.end();
});

const signedIn = (view, options) => signedInAt(browser, gateway, { view, ...options });
const shown = async (name) => (await gateway.ask("GET", `/v1/applications/${encodeURIComponent(name)}`)).json;
const row = (page, name) => page.getByRole("row").filter({ has: page.getByRole("link", { name, exact: true }) });

/** Everything that the browser keeps or shows. */
async function everywhere(page) {
  const kept = await page.evaluate(() => JSON.stringify([{ ...localStorage }, { ...sessionStorage }, document.cookie, location.href, history.state, document.documentElement.outerHTML]));
  return kept + JSON.stringify(await page.context().storageState());
}

/** Presses Tab until the element that has the focus is the one that is looked for. */
async function tabTo(page, role, name) {
  const wanted = page.getByRole(role, { name, exact: true });
  for (let steps = 0; steps < 200; steps++) {
    if (await wanted.evaluateAll((found) => found.includes(document.activeElement))) return;
    await page.keyboard.press("Tab");
  }
  assert.fail(`Tab does not lead to the ${role} ${name}`);
}

async function ends(page) {
  assert.deepEqual(page.faults, []);
  await page.context().close();
}

test("an administrator is told to add an application while only those of the gateway are there", async () => {
  const page = await signedIn("applications");
  await page.getByText("Only the applications that the gateway makes for itself").waitFor();
  await page.getByText("Nobody has called this gateway since it started who is no application.").waitFor();
  await ends(page);
});

test("an application is added by keyboard alone, and its token is shown once and kept nowhere", async () => {
  const page = await signedIn("applications");
  await tabTo(page, "link", "Add one");
  await page.keyboard.press("Enter");
  await page.getByRole("heading", { level: 1, name: "Add an application" }).waitFor();
  await tabTo(page, "textbox", "Name");
  await page.keyboard.type("shop");
  await tabTo(page, "textbox", "Note");
  await page.keyboard.type("ask the web team");
  await tabTo(page, "textbox", "Events a second");
  await page.keyboard.type("500");
  await tabTo(page, "textbox", "Events at once");
  await page.keyboard.type("2000");
  await tabTo(page, "textbox", "Event types that it may send");
  await page.keyboard.type("page interaction/*\nshop/sale");
  await tabTo(page, "button", "Add it");
  await page.keyboard.press("Enter");
  await page.getByRole("heading", { name: "The token of shop" }).waitFor();
  await page.getByText("It is shown this once.").waitFor();
  assert.equal(await page.evaluate(() => document.activeElement.id), "token", "the token has the focus");
  const token = (await page.getByRole("region", { name: "The token", exact: true }).innerText()).trim();
  assert.match(token, /^eye_[0-9a-f]{64}$/);
  assert.equal((await gateway.ask("POST", "/v1/events", event(), token)).status, 201, "the application sends with it");

  await tabTo(page, "link", "Go to shop");
  await page.keyboard.press("Enter");
  await page.getByRole("heading", { level: 2, name: "shop" }).waitFor();
  assert.ok(!(await everywhere(page)).includes(token), "the token is gone with the page that showed it");
  await page.goBack();
  await page.getByRole("heading", { level: 1, name: "Add an application" }).waitFor();
  assert.equal(await page.getByLabel("Name", { exact: true }).inputValue(), "", "the form is empty again");
  assert.ok(!(await everywhere(page)).includes(token), "nor does the back button bring it back");

  const made = await shown("shop");
  assert.deepEqual([made.note, made.scopes, made.events_per_second, made.burst_events], ["ask the web team", ["ingest"], 500, 2000]);
  assert.deepEqual(made.event_types, ["page interaction/*", "shop/sale"]);
  await ends(page);
});

test("the copy button copies the token", async () => {
  const page = await signedIn("add-application");
  await page.context().grantPermissions(["clipboard-read", "clipboard-write"]);
  await page.getByLabel("Name", { exact: true }).fill("copied");
  await page.getByRole("button", { name: "Add it" }).click();
  const token = (await page.getByRole("region", { name: "The token", exact: true }).innerText()).trim();
  await page.getByRole("button", { name: "Copy" }).click();
  await page.getByRole("button", { name: "Copied" }).waitFor();
  assert.equal(await page.evaluate(() => navigator.clipboard.readText()), token);
  await ends(page);
});

test("what the gateway refuses is told at the field that it names, and else above the form", async () => {
  await gateway.add("taken", ["ingest"]);
  const page = await signedIn("add-application");
  const name = page.getByLabel("Name", { exact: true });
  const refusedAt = async (field, words) => {
    await page.getByRole("button", { name: "Add it" }).click();
    await page.getByText(words).waitFor();
    await eventually("the field has the focus", () => field.evaluate((element) => element === document.activeElement));
    assert.equal(await field.getAttribute("aria-invalid"), "true");
  };
  await refusedAt(name, "give 1 to 200 characters");
  await name.fill(`evil${OVERRIDE}`);
  await refusedAt(name, "none of which is hidden");
  await name.fill("taken");
  await refusedAt(name, /Choose another name/);
  await name.fill("narrow");
  await page.getByLabel("Event types that it may send").fill("shop");
  await refusedAt(page.getByLabel("Event types that it may send"), "`shop` is no event type: write category/name");
  await page.getByLabel("Event types that it may send").fill("");
  await page.getByLabel("Events a second").fill("many");
  await refusedAt(page.getByLabel("Events a second"), "Give a whole number");
  await page.getByLabel("Events a second").fill("0");
  await refusedAt(page.getByLabel("Events a second"), "give 1 to 1000000");
  await page.getByLabel("Events a second").fill("");
  await page.getByLabel("The token ends").fill("soon");
  await refusedAt(page.getByLabel("The token ends"), "`soon` is no time");
  await page.getByLabel("The token ends").fill("");
  await page.getByLabel("Networks").fill("everywhere");
  await refusedAt(page.getByLabel("Networks"), "`everywhere` is no network");
  await page.getByLabel("Networks").fill("0.0.0.0/0");
  await page.getByRole("checkbox", { name: /^raw/ }).check();
  await refusedAt(page.getByLabel("Networks"), "is a large part of the internet");
  await page.getByLabel("I mean it: this large a network may have these scopes").check();
  await page.getByRole("button", { name: "Add it" }).click();
  await page.getByRole("heading", { name: "The token of narrow" }).waitFor();
  assert.deepEqual((await shown("narrow")).networks, ["0.0.0.0/0"]);
  await ends(page);
});

test("an application that a network alone proves has no token", async () => {
  const page = await signedIn("add-application");
  await page.getByLabel("Name", { exact: true }).fill("till");
  await page.getByRole("checkbox", { name: /^a token/ }).uncheck();
  await page.getByLabel("Networks").fill("10.1.2.0/24\n\n fd00::/8 ");
  await page.getByRole("button", { name: "Add it" }).click();
  await page.getByText("till was added").waitFor();
  assert.equal(await page.getByRole("region", { name: "The token", exact: true }).count(), 0);
  const made = await shown("till");
  assert.deepEqual([made.known_by, made.networks], ["network", ["10.1.2.0/24", "fd00::/8"]]);
  await page.getByRole("link", { name: "Go to till" }).click();
  await page.getByText("It is known by its networks, without a token.").waitFor();
  assert.equal(await page.getByRole("link", { name: "Rotate" }).count(), 0, "there is no token to rotate");
  await ends(page);
});

test("a change says what it will mean, and sends what was changed alone", async () => {
  const types = ["shop/a\nb", " edge/x", `${HOSTILE}/${OVERRIDE}`];
  await gateway.add("changed", ["ingest", "read"], { event_types: types, note: HOSTILE });
  const page = await signedIn("application?name=changed");
  await page.getByRole("link", { name: "Change" }).click();
  await eventually("the form has the focus", () => page.evaluate(() => document.activeElement.id === "change"));
  await page.getByRole("button", { name: "Change it" }).click();
  await page.getByText("Nothing differs from what is in force.").waitFor();
  await page.getByRole("checkbox", { name: /^ingest/ }).uncheck();
  await page.getByText("It can no longer send").waitFor();
  await page.getByLabel("Events a second").fill("1,000");
  await page.getByText("At each gateway, more than 1,000 events a second").waitFor();
  await page.getByLabel("Applications whose events it may read").fill("shop");
  await page.getByText("All else that is stored does not exist for it.").waitFor();
  await page.getByRole("button", { name: "Change it" }).click();
  await page.getByText("It was changed.").waitFor();
  const now = await shown("changed");
  assert.deepEqual([now.scopes, now.events_per_second, now.read_applications], [["read"], 1000, ["shop"]]);
  assert.deepEqual([now.event_types, now.note], [types, HOSTILE], "what nobody touched is as it was");
  assert.equal(await page.title(), "Application · The Eye");

  await page.getByRole("link", { name: "Change" }).click();
  await page.getByRole("checkbox", { name: /^admin/ }).check();
  await page.getByRole("button", { name: "Change it" }).click();
  await page.getByText("sees everything, so limits of what it reads").waitFor();
  await page.keyboard.press("Escape");
  await page.getByRole("heading", { name: "Change changed" }).waitFor({ state: "detached" });
  assert.deepEqual((await shown("changed")).scopes, ["read"]);
  await ends(page);
});

test("an application is suspended, and works again when it is resumed", async () => {
  const token = await gateway.add("paused", ["ingest"]);
  const page = await signedIn("application?name=paused");
  await page.getByRole("link", { name: "Suspend" }).click();
  await page.getByText("refused on all gateways within a second: 1 token").waitFor();
  await page.getByRole("button", { name: "Suspend it" }).click();
  await page.getByText("It is suspended.").waitFor();
  assert.equal((await gateway.ask("POST", "/v1/events", [event()], token)).status, 401);
  await page.getByRole("link", { name: "Resume" }).click();
  await page.getByRole("button", { name: "Resume it" }).click();
  await page.getByText("It is active again.").waitFor();
  assert.ok((await gateway.ask("POST", "/v1/events", [event()], token)).status < 300);
  await ends(page);
});

test("a token is rotated by keyboard alone: both live with their last use, until the older one is ended", async () => {
  const old = await gateway.add("turned", ["ingest"]);
  await gateway.send([event()], old);
  const page = await signedIn("application?name=turned");
  await tabTo(page, "link", "Rotate");
  await page.keyboard.press("Enter");
  await page.getByText("The one that it has stays live until you end it").waitFor();
  await tabTo(page, "textbox", "The new token ends");
  await page.keyboard.type("90d");
  await page.keyboard.press("Enter");
  await page.getByRole("heading", { name: "The token of turned" }).waitFor();
  const fresh = (await page.getByRole("region", { name: "The token", exact: true }).innerText()).trim();
  assert.notEqual(fresh, old);
  await page.getByText("Nobody has used the new one yet").waitFor();
  for (const token of [old, fresh]) assert.ok((await gateway.ask("POST", "/v1/events", [event()], token)).status < 300);
  const tokens = page.getByRole("table", { name: "Tokens" });
  await eventually("the last use of both is shown", async () => (await tokens.locator("td[data-title='Last use'] time").count()) === 2);
  assert.equal(await tokens.locator("td[data-title='Ends'] time").count(), 1);

  await page.goto(`${gateway.url}/#/applications`);
  await page.getByRole("heading", { level: 1, name: "Applications" }).waitFor();
  assert.ok(!(await everywhere(page)).includes(fresh), "the new token is forgotten");
  await page.goBack();
  await page.getByText("somebody still has it").waitFor();
  assert.ok(!(await everywhere(page)).includes(fresh));

  await page.getByRole("link", { name: "Rotate" }).click();
  await page.getByRole("button", { name: "Make the token" }).click();
  await page.getByText("Two tokens are in use.").waitFor();
  await page.keyboard.press("Escape");

  await tabTo(page, "link", "End the older one");
  await page.keyboard.press("Enter");
  await page.getByText("Whoever still sends it is refused").waitFor();
  await tabTo(page, "button", "End the older token");
  await page.keyboard.press("Enter");
  await page.getByText("Its older token has ended.").waitFor();
  assert.equal((await gateway.ask("POST", "/v1/events", [event()], old)).status, 401);
  assert.ok((await gateway.ask("POST", "/v1/events", [event()], fresh)).status < 300);
  await ends(page);
});

test("an application is revoked by keyboard alone, after the page has asked", async () => {
  const token = await gateway.add("ended", ["ingest", "read"]);
  const page = await signedIn("application?name=ended");
  await tabTo(page, "link", "Revoke");
  await page.keyboard.press("Enter");
  await page.getByText("This cannot be taken back").waitFor();
  await page.goBack();
  await page.getByText("This cannot be taken back").waitFor({ state: "detached" });
  assert.equal((await shown("ended")).state, "active", "the back button leaves the question");
  await tabTo(page, "link", "Revoke");
  await page.keyboard.press("Enter");
  await tabTo(page, "button", "Leave it");
  await page.keyboard.press("Enter");
  await eventually("the focus is back", () => page.evaluate(() => document.activeElement.id === "act-revoke"));
  await page.keyboard.press("Enter");
  await tabTo(page, "button", "Revoke it for ever");
  await page.keyboard.press("Enter");
  await page.getByText("It is revoked, and stays so.").waitFor();
  assert.equal((await gateway.ask("POST", "/v1/events", [event()], token)).status, 401);
  await page.getByText("Its tokens have ended.").waitFor();
  assert.equal(await page.getByRole("link", { name: "Change", exact: true }).count(), 0, "nothing more can be done with it");
  await ends(page);
});

test("refusals are shown by application, and strangers by network", async () => {
  const token = await gateway.add("eager", ["ingest"], { events_per_second: 1, burst_events: 1 });
  const answers = [await gateway.ask("POST", "/v1/events", [event()], token), await gateway.ask("POST", "/v1/events", [event()], token)];
  assert.equal(answers[1].status, 429);
  await gateway.ask("GET", "/v1/gateways", undefined, `eye_${"0".repeat(64)}`);
  const page = await signedIn("applications?text=EAGER");
  await row(page, "eager").getByText("rate_limited").waitFor();
  const strangers = page.getByRole("table", { name: "Strangers" });
  await strangers.getByText("127.0.0.0/24").first().waitFor();
  await strangers.getByText("a token or certificate of no application").waitFor();
  await page.getByRole("link", { name: "eager" }).click();
  await page.getByRole("table", { name: "Refusals" }).getByText("more events than its rate allows").waitFor();
  for (const [name, view] of [["Live", "live"], ["Events", "explore"], ["Refused events", "refused"]]) {
    assert.equal(await page.locator("main").getByRole("link", { name, exact: true }).first().getAttribute("href"), `#/${view}?application=eager`);
  }
  await ends(page);
});

test("the filters stand in the address, and the back button undoes them", async () => {
  await gateway.add("filtered one", ["ingest"], { note: "needle" });
  await gateway.add("filtered two", ["read"]);
  await gateway.ask("DELETE", "/v1/applications/filtered%20two");
  const page = await signedIn("applications?text=filtered");
  await row(page, "filtered one").waitFor();
  await page.getByLabel("revoked", { exact: true }).check();
  await row(page, "filtered one").waitFor({ state: "detached" });
  await row(page, "filtered two").waitFor();
  assert.match(page.url(), /state=revoked/);
  await page.goBack();
  await row(page, "filtered one").waitFor();
  await page.getByLabel("scope").selectOption("read");
  await row(page, "filtered one").waitFor({ state: "detached" });
  await page.getByLabel("name or note").fill("nobody has this");
  await page.getByText("No application fits these filters.").waitFor();
  await page.getByRole("button", { name: "Show all" }).click();
  await page.getByLabel("name or note").fill("needle");
  await row(page, "filtered one").waitFor();
  assert.equal(await page.getByRole("table", { name: "Applications" }).getByRole("row").count(), 2);
  await page.reload();
  await row(page, "filtered one").waitFor();
  await ends(page);
});

test("names and notes that look like code are text, and an application that is not there is told", async () => {
  for (const name of [HOSTILE, "Ω≈ç√∫ 🛒🌍 متجر", LONG]) await gateway.add(name, ["ingest"], { note: HOSTILE, event_types: [`${HOSTILE}/*`, `a/${OVERRIDE}`] });
  const page = await signedIn("applications");
  await row(page, HOSTILE).waitFor();
  await page.getByRole("link", { name: HOSTILE, exact: true }).click();
  await page.getByRole("heading", { level: 2, name: HOSTILE }).waitFor();
  await page.getByText("a/\\u202egnp.evil").waitFor();
  await page.getByRole("link", { name: "Revoke" }).click();
  await page.getByRole("heading", { name: `Revoke ${HOSTILE}?` }).waitFor();
  await page.goto(`${gateway.url}/#/application?name=${encodeURIComponent(LONG)}`);
  await page.getByRole("heading", { level: 2, name: LONG }).waitFor();
  assert.equal(await page.locator("main img").count(), 0);
  assert.equal(await page.title(), "Application · The Eye");
  await page.goto(`${gateway.url}/#/application?name=nobody`);
  await page.getByText("There is no such application.").waitFor();
  await ends(page);
});

test("who may only read is not offered the applications", async () => {
  const token = await gateway.add("reader", ["read"]);
  const page = await signedIn("overview", { token });
  assert.equal(await page.getByRole("link", { name: "Applications" }).count(), 0);
  for (const view of ["applications", "application?name=shop", "add-application"]) {
    await page.goto(`${gateway.url}/#/${view}`);
    await page.getByText("Your application has not the scope").waitFor();
  }
  await ends(page);
});

test("who suspends the application of the session is warned, and signed out", async () => {
  const token = await gateway.add("second admin", ["admin"]);
  const page = await signedIn("application?name=second+admin&act=suspend", { token });
  await page.getByText("You are signed in as it").waitFor();
  await page.getByRole("button", { name: "Suspend it" }).click();
  await page.getByText("Your session is over").waitFor();
  await ends(page);
});

for (const colorScheme of ["light", "dark"]) {
  for (const width of [360, 1920]) {
    test(`the applications are accessible at ${width} px, ${colorScheme}`, async () => {
      const page = await openPage(browser, { colorScheme, viewport: { width, height: 900 }, bypassCSP: true });
      await page.goto(await gateway.signInAddress());
      await page.getByRole("navigation", { name: "Views" }).waitFor();
      const long = encodeURIComponent(LONG);
      for (const view of ["applications", "applications?text=zzz", "add-application", `application?name=${long}`, `application?name=${long}&act=change`, "application?name=turned&act=rotate", `application?name=${long}&act=revoke`]) {
        await page.goto(`${gateway.url}/#/${view}`);
        await page.locator("main section.card").first().waitFor();
        await eventually("the view is loaded", async () => (await page.locator("main p.quiet", { hasText: /^…$/ }).count()) === 0);
        await holdsForEveryone(page, view);
      }
      await ends(page);
    });
  }
}
