// The rules of validators in a page, as a form would ask them before it sends: `make test-panel`. The bundle of each language says
// what the gateway says, in a real browser and under a policy that lets nothing be evaluated.
import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { once } from "node:events";
import { mkdtemp, readdir, readFile, rm } from "node:fs/promises";
import { createServer } from "node:http";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { promisify } from "node:util";
import { event, Gateway, openPage, PROGRAM, ROOT, startBrowser } from "./support.mjs";

const run = promisify(execFile);

let gateway, browser, folder;

before(async () => {
  folder = await mkdtemp(join(tmpdir(), "eye-bundle-"));
  // A push writes no folder of a git checkout.
  gateway = await Gateway.start({ EYE_MODULES: join(folder, "modules") });
  browser = await startBrowser();
});
after(async () => {
  await browser?.close();
  await gateway?.end();
  if (folder) await rm(folder, { recursive: true, force: true });
});

/** `eye validator` in a folder. */
async function author(cwd, ...parts) {
  const env = { ...process.env, EYE_GATEWAY: gateway.url, EYE_TOKEN: gateway.admin, CARGO_TARGET_DIR: join(ROOT, "target/authors") };
  return (await run(PROGRAM, ["validator", ...parts], { cwd, env })).stdout;
}

/** The data of the fixtures, and what senders do to each of their fields. */
async function inputs(project) {
  const right = [];
  for (const kind of ["accept", "reject"]) {
    for (const file of await readdir(join(project, "fixtures", kind))) {
      right.push(JSON.parse(await readFile(join(project, "fixtures", kind, file), "utf8")).event.data);
    }
  }
  const odd = [null, true, -1, 0.5, 19.999, 1e21, "", " ", "x", "é".repeat(300), "2026-02-30", [], [{}], {}, { a: 1 }];
  const wrong = right.flatMap((data) =>
    Object.keys(data).flatMap((key) => [
      { ...data, [key]: undefined },
      ...odd.map((value) => ({ ...data, [key]: value })),
      ...odd.map((value) => ({ ...data, lines: [...(data.lines ?? []), { product: value, quantity: value }] })),
    ]),
  );
  return [...right, {}, ...wrong];
}

/** What the gateway says of each: a verdict, and codes with their places. */
async function judgedByGateway(all) {
  const answers = [];
  for (let from = 0; from < all.length; from += 500) {
    const events = all.slice(from, from + 500).map((data) => event({ category: "shop", name: "sale", data }));
    const { json } = await gateway.ask("POST", "/v1/events?dry_run=true", events);
    const batch = events.map(() => ({ verdict: "accept" }));
    for (const { index, violations } of json.results) batch[index] = { verdict: "reject", violations };
    answers.push(...batch);
  }
  return answers;
}

/** Serves a page with these scripts and this policy. */
async function serve(files, policy) {
  const server = createServer((request, response) => {
    const script = files[request.url];
    const page = '<!doctype html><title>A form</title><script type="module" src="/form.mjs"></script>';
    response.setHeader("content-security-policy", policy);
    response.setHeader("content-type", script === undefined ? "text/html" : "text/javascript");
    response.end(script ?? page);
  }).listen(0, "127.0.0.1");
  await once(server, "listening");
  return { url: `http://127.0.0.1:${server.address().port}`, close: () => server.close() };
}

const FORM = `import { summary, validate } from "./rule.mjs";
let evaluates = true;
try { new Function("return 1")(); } catch { evaluates = false; }
window.found = { summary, evaluates, answers: INPUTS.map((data) => validate({ data })) };`;

for (const [language, more] of [["typescript", ""], ["rust", " 'wasm-unsafe-eval'"], ["schema", " 'wasm-unsafe-eval'"]]) {
  test(`the bundle of a project in ${language} says in a page what the gateway says`, async () => {
    await author(folder, "new", `${language}-rule`, "--type", "shop/sale", "--lang", language);
    const project = join(folder, `${language}-rule`);
    await author(project, "push");
    await author(project, "bundle", "--js", "--out", "rule.mjs");
    const all = JSON.parse(JSON.stringify(await inputs(project)));
    const form = FORM.replace("INPUTS", JSON.stringify(all));
    const files = { "/form.mjs": form, "/rule.mjs": await readFile(join(project, "rule.mjs"), "utf8") };
    const server = await serve(files, `default-src 'none'; script-src 'self'${more}`);
    try {
      const page = await openPage(browser);
      await page.goto(server.url);
      await page.waitForFunction("window.found !== undefined");
      const { summary, evaluates, answers } = await page.evaluate("window.found");
      assert.equal(evaluates, false, "the policy is in force");
      assert.ok(summary.length > 0);
      const wanted = await judgedByGateway(all);
      assert.ok(wanted.some(({ verdict }) => verdict === "accept") && wanted.length > 100);
      // The gateway stores what is amended.
      const ended = answers.map((answer) => (answer.verdict === "amend" ? { verdict: "accept" } : answer));
      ended.forEach((answer, index) => assert.deepEqual(answer, wanted[index], JSON.stringify(all[index])));
      assert.deepEqual(page.faults, []);
      await page.context().close();
    } finally {
      server.close();
    }
  });
}
