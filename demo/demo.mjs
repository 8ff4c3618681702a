// Shows The Eye with real input, on a gateway of its own: what is stored and what is refused and why, a session read
// back, and a stricter validator that takes over while events keep coming. Exits with 1 if anything is not as expected.
//
//   node demo/demo.mjs [PATH OF eye]      target/release/eye if not given

import { spawn } from "node:child_process";
import { createHash, randomUUID } from "node:crypto";
import { chmod, copyFile, mkdir, mkdtemp, readFile, rename, rm } from "node:fs/promises";
import http from "node:http";
import { createRequire } from "node:module";
import os from "node:os";
import path from "node:path";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import { isDeepStrictEqual } from "node:util";

const ROOT = path.dirname(path.dirname(fileURLToPath(import.meta.url)));
const EYE = path.resolve(process.argv[2] ?? path.join(ROOT, "target/release/eye"));

// Names that are made from content (UUIDv5) need a namespace; this one is the demo's own. The same payload gets the same
// id in every run, so that sending it again is a retry.
const NAMESPACE = "5f0c8a52-6b0e-4b0a-9d2c-7f4f1f7f3c11";

// For payloads that bear no time: one for the run, because a retry is the same event with the same timestamp.
const RUN_AT = new Date().toISOString();

const START_MS_MAX = 60_000;
const REQUEST_MS_MAX = 10_000;
const STOP_MS_MAX = 45_000;
const CONNECTIONS = 8;
const SWAP_REQUESTS_MAX = 200_000;
const BEFORE_SWAP_MS = 1_000;
const AFTER_SWAP_MS = 1_000;
const SWAP_MS_MAX = 20_000;

const PAGEVIEW = path.join("page interaction", "pageview.wasm");

class Unexpected extends Error {}

function expect(holds, what) {
  if (!holds) throw new Unexpected(what);
}

function uuidV5(text) {
  const hash = createHash("sha1").update(Buffer.from(NAMESPACE.replaceAll("-", ""), "hex")).update(text).digest();
  hash[6] = (hash[6] & 0x0f) | 0x50;
  hash[8] = (hash[8] & 0x3f) | 0x80;
  return hash.toString("hex", 0, 16).replace(/^(.{8})(.{4})(.{4})(.{4})/, "$1-$2-$3-$4-");
}

function heading(text) {
  console.log(`\n${text}\n${"-".repeat(text.length)}`);
}

function printTable(columns, rows) {
  const cells = [columns, ...rows].map((row) => row.map(String));
  const widths = columns.map((_, at) => Math.max(...cells.map((row) => row[at].length)));
  const isNumber = columns.map((_, at) => rows.every((row) => typeof row[at] === "number"));
  for (const row of cells) {
    const padded = row.map((cell, at) => (isNumber[at] ? cell.padStart(widths[at]) : cell.padEnd(widths[at])));
    console.log(`  ${padded.join("  ").trimEnd()}`);
  }
}

// Runs a program to its end; what it prints is shown only if it fails.
async function run(program, args) {
  const child = spawn(program, args, { stdio: ["ignore", "pipe", "pipe"] });
  const lines = [];
  for (const stream of [child.stdout, child.stderr]) {
    createInterface({ input: stream }).on("line", (line) => {
      lines.push(line);
      if (lines.length > 40) lines.shift();
    });
  }
  const code = await new Promise((resolve, reject) => child.once("error", reject).once("close", resolve));
  expect(code === 0, `${program} ${args.join(" ")} ended with ${code}:\n${lines.join("\n")}`);
}

// A gateway on a free port with data and modules of its own.
class Gateway {
  static async start(folder) {
    const gateway = new Gateway();
    gateway.log = [];
    gateway.agent = new http.Agent({ keepAlive: true, maxSockets: CONNECTIONS });
    // The demo shows the defaults: settings of the caller's shell must not change what it finds.
    const environment = Object.entries(process.env).filter(([name]) => !/^EYE_(?!POSTGRES_BIN$)/.test(name));
    const args = ["serve", "--listen", "127.0.0.1:0", "--data-dir", path.join(folder, "data")];
    args.push("--modules", path.join(folder, "modules"));
    gateway.child = spawn(EYE, args, {
      cwd: folder,
      env: Object.fromEntries(environment),
      stdio: ["ignore", "ignore", "pipe"],
      // Ctrl-C reaches the demo alone, which then stops the gateway in its orderly way.
      detached: true,
    });
    gateway.ended = new Promise((resolve) => {
      gateway.child.once("error", (error) => resolve(`it could not be run: ${error.message}`));
      gateway.child.once("exit", (code, signal) => resolve(code ?? signal));
    });
    try {
      await gateway.untilReady();
    } catch (error) {
      await gateway.stop();
      throw error;
    }
    return gateway;
  }

  async untilReady() {
    const port = new Promise((resolve) => {
      createInterface({ input: this.child.stderr }).on("line", (line) => {
        this.log.push(line);
        if (this.log.length > 100) this.log.shift();
        const found = /listens.*127\.0\.0\.1:(\d+)/.exec(line.replace(/\x1b\[[0-9;]*m/g, ""));
        if (found) resolve(Number(found[1]));
      });
    });
    const late = timer(START_MS_MAX);
    const first = await Promise.race([port.then((value) => ({ port: value })), this.ended, late.promise]);
    late.cancel();
    expect(first?.port, `the gateway did not start (${first ?? "its time was up"}):\n${this.log.join("\n")}`);
    this.port = first.port;
    const deadline = performance.now() + START_MS_MAX;
    for (;;) {
      const answer = await this.request("GET", "/readyz");
      if (answer.status === 200) return;
      expect(performance.now() < deadline, `the gateway was not ready in time: ${answer.text}`);
      await sleep(20);
    }
  }

  request(method, target, body) {
    return new Promise((resolve, reject) => {
      const headers = body === undefined ? {} : { "content-type": "application/json", "content-length": Buffer.byteLength(body) };
      const sentAt = performance.now();
      const request = http.request(
        { host: "127.0.0.1", port: this.port, method, path: target, headers, agent: this.agent, timeout: REQUEST_MS_MAX },
        (response) => {
          const chunks = [];
          response.on("data", (chunk) => chunks.push(chunk));
          response.on("error", reject);
          response.on("end", () => {
            const text = Buffer.concat(chunks).toString();
            resolve({ status: response.statusCode, text, ms: performance.now() - sentAt, isNewConnection: !request.reusedSocket });
          });
        },
      );
      request.on("timeout", () => request.destroy(new Error(`no answer to ${method} ${target} in ${REQUEST_MS_MAX} ms`)));
      request.on("error", reject);
      request.end(body);
    });
  }

  async send(event) {
    const answer = await this.request("POST", "/v1/events", JSON.stringify(event));
    const outcomes = { 201: "stored", 200: "duplicate", 202: "quarantined", 422: "rejected" };
    const outcome = outcomes[answer.status];
    expect(outcome, `${event.category}/${event.name} was answered with ${answer.status}: ${answer.text}`);
    const body = JSON.parse(answer.text);
    expect(outcome === "rejected" || body.outcome === outcome, `status ${answer.status} says ${body.outcome}`);
    return { event, outcome, body };
  }

  // All events of a session, page by page.
  async session(id) {
    const events = [];
    let cursor = "";
    for (;;) {
      const answer = await this.request("GET", `/v1/sessions/${id}?limit=50${cursor}`);
      expect(answer.status === 200, `the session was answered with ${answer.status}: ${answer.text}`);
      const page = JSON.parse(answer.text);
      expect(page.session_id === id, `another session than asked for: ${page.session_id}`);
      events.push(...page.events);
      if (page.next === null) return events;
      expect(page.events.length > 0, "a page without events has no next");
      cursor = `&cursor=${encodeURIComponent(page.next)}`;
    }
  }

  async stop() {
    this.agent.destroy();
    if (this.child.exitCode === null && this.child.signalCode === null) this.child.kill("SIGTERM");
    const late = timer(STOP_MS_MAX);
    const ending = await Promise.race([this.ended, late.promise]);
    late.cancel();
    if (ending === undefined) {
      this.child.kill("SIGKILL");
      await this.ended;
    }
    return ending;
  }
}

function timer(ms) {
  let handle;
  const promise = new Promise((resolve) => (handle = setTimeout(resolve, ms)));
  return { promise, cancel: () => clearTimeout(handle) };
}

function sleep(ms) {
  return timer(ms).promise;
}

const SESSION = "e2085be5-9137-4e4e-80b5-f1ffddc25423";
const SWAP_SESSION = "0d2ee7ba-6a3c-4b36-9a46-0a2f6a1f4c09";

function example(category, name, timestamp, data) {
  return { id: randomUUID(), session_id: SESSION, category, name, timestamp, data };
}

const PAGE = { host: "www.consumeraffairs.com", path: "/" };

const EXAMPLES = [
  example("page interaction", "pageview", "2021-01-01 09:15:27.243860", PAGE),
  example("page interaction", "cta click", "2021-01-01 09:15:27.243860", { ...PAGE, element: "chat bubble" }),
  example("form interaction", "submit", "2021-01-01 09:15:27.243860", {
    ...PAGE,
    form: { first_name: "John", last_name: "Doe", password: "correct horse battery staple" },
  }),
];

// Events that must be refused, each with the place and the code of every violation.
const REFUSED = [
  [example("page interaction", "pageview", "2021-01-01 09:16:00", { host: "https://shop.example/", path: "shoes" }),
    ["/host bad_host", "/path bad_path"]],
  [example("page interaction", "cta click", "2021-01-01T09:16:01Z", { ...PAGE }), ["/element required"]],
  [example("form interaction", "submit", "2021-01-01T10:16:02+01:00", { ...PAGE, form: {} }), ["/form empty"]],
];

// Which webhook came with which payloads, as GitHub sent them.
function webhooks() {
  const examples = createRequire(import.meta.url)("@octokit/webhooks-examples");
  return examples.flatMap(({ name, examples: payloads }) => payloads.map((payload) => gitHubEvent(name, payload)));
}

function gitHubEvent(name, payload) {
  // A few webhooks are about no repository, but about an organization, an installation or an account.
  const [kind, owner] = ["repository", "organization", "installation", "sender"]
    .map((key) => [key, payload[key]])
    .find(([, value]) => value?.id !== undefined) ?? ["webhook", { id: name }];
  return {
    id: uuidV5(`event ${name} ${JSON.stringify(payload)}`),
    session_id: uuidV5(`${kind} ${owner.id}`),
    category: "github",
    name,
    timestamp: occurredAt(payload) ?? RUN_AT,
    data: payload,
  };
}

// GitHub puts no time on a webhook. The latest time that its parts bear is when it was sent, or shortly before.
function occurredAt(payload) {
  const parts = [payload, ...Object.values(payload).filter((part) => part !== null && typeof part === "object")];
  const times = parts
    .flatMap((part) => ["timestamp", "submitted_at", "starred_at", "created_at", "updated_at"].map((key) => part[key]))
    .filter((time) => typeof time === "string" && /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)$/.test(time))
    .filter((time) => Date.parse(time) <= Date.now());
  return times.sort((a, b) => Date.parse(a) - Date.parse(b)).at(-1);
}

function violationsOf(sent) {
  return (sent.body.violations ?? []).map(({ pointer, code }) => `${pointer} ${code}`);
}

function showRefusals(refused) {
  const rows = refused.flatMap(({ event, body }) =>
    body.violations.map(({ pointer, code, message }) => [`${event.category}/${event.name}`, pointer || "(all)", code, message]),
  );
  printTable(["event type", "where", "code", "how to mend it"], rows);
}

async function showExamples(gateway) {
  heading("Example events");
  for (const event of EXAMPLES) {
    const { outcome, body } = await gateway.send(event);
    expect(outcome === "stored", `${event.name} was ${outcome}: ${JSON.stringify(body)}`);
    expect(body.id === event.id, "an event keeps the id that it was sent with");
    console.log(`  ${outcome}  ${event.category}/${event.name}  ${body.id}`);
  }

  heading("Events that break a rule");
  const refused = [];
  for (const [event, reasons] of REFUSED) {
    const sent = await gateway.send(event);
    expect(sent.outcome === "rejected" && sent.body.code === "rule", `${event.name} was ${sent.outcome}`);
    expect(isDeepStrictEqual(violationsOf(sent).sort(), reasons), `other violations: ${violationsOf(sent)}`);
    refused.push(sent);
  }
  showRefusals(refused);
}

async function showSession(gateway) {
  heading("The session, read back");
  const events = await gateway.session(SESSION);
  expect(events.length === EXAMPLES.length, `${events.length} events, not ${EXAMPLES.length}`);
  for (const { timestamp, category, name, data } of events) {
    console.log(`  ${timestamp}  ${category}/${name}  ${JSON.stringify(data)}`);
  }
  const submit = events.find(({ name }) => name === "submit");
  const form = { first_name: "John", last_name: "Doe", password: "[redacted]" };
  expect(isDeepStrictEqual(submit?.data, { ...PAGE, form }), "the password is redacted, and only that");
  expect(!JSON.stringify(events).includes("battery"), "the password is nowhere");
}

async function showWebhooks(gateway) {
  heading("GitHub's webhooks");
  const events = webhooks();
  const seen = new Set();
  const sent = [];
  const types = new Map();
  for (const event of events) {
    const result = await gateway.send(event);
    // The collection has a few payloads twice.
    const expected = seen.has(event.id) ? "duplicate" : "stored";
    expect(
      result.outcome === expected,
      `github/${event.name} was ${result.outcome}, not ${expected}: ${JSON.stringify(result.body)}`,
    );
    seen.add(event.id);
    sent.push(result);
    const counts = types.get(event.name) ?? { stored: 0, duplicate: 0, rejected: 0, quarantined: 0 };
    counts[result.outcome] += 1;
    types.set(event.name, counts);
  }
  const outcomes = ["stored", "duplicate", "rejected", "quarantined"];
  const rows = [...types].map(([name, counts]) => [`github/${name}`, ...outcomes.map((outcome) => counts[outcome])]);
  const sums = outcomes.map((_, at) => rows.reduce((sum, row) => sum + row[at + 1], 0));
  printTable(["event type", ...outcomes], [...rows, ["all", ...sums]]);

  await sendMislabeled(gateway, events);
  const stored = sent.filter(({ outcome }) => outcome === "stored").map(({ event }) => event);
  await sendAgain(gateway, stored);
  await readBusiestSession(gateway, stored);
}

// What GitHub sent is as GitHub sends it; under another webhook's name, it is not.
async function sendMislabeled(gateway, events) {
  const comment = events.find(({ name }) => name === "issue_comment");
  const sent = await gateway.send({ ...comment, id: randomUUID(), name: "issues" });
  expect(sent.outcome === "rejected", `an issue_comment sent as issues was ${sent.outcome}`);
  expect(violationsOf(sent).includes("/comment wrong_webhook"), `other violations: ${violationsOf(sent)}`);
  console.log("\n  an issue_comment sent under the name issues:");
  showRefusals([sent]);
}

async function sendAgain(gateway, stored) {
  for (const event of stored) {
    const { outcome } = await gateway.send(event);
    expect(outcome === "duplicate", `github/${event.name} was ${outcome} when sent again`);
  }
  console.log(`\n  all ${stored.length} sent again: each a duplicate, none stored twice`);
}

async function readBusiestSession(gateway, stored) {
  const sessions = groupBySession(stored);
  const [id, expected] = [...sessions].sort(([, a], [, b]) => b.length - a.length)[0];
  const found = await gateway.session(id);
  const byId = new Map(expected.map((event) => [event.id, event]));
  expect(found.length === expected.length, `session ${id} has ${found.length} events, not ${expected.length}`);
  for (const event of found) {
    expect(isDeepStrictEqual(event.data, byId.get(event.id)?.data), `${event.id} is read back as it was sent`);
  }
  const times = found.map(({ timestamp }) => Date.parse(timestamp));
  expect(times.every((time, at) => at === 0 || times[at - 1] <= time), "a session is in the order in which it occurred");
  const name = expected[0].data.repository?.full_name ?? id;
  console.log(`  the longest of ${sessions.size} sessions, ${name}: ${found.length} events read back in order and as sent`);
}

function groupBySession(events) {
  const sessions = new Map();
  for (const event of events) sessions.set(event.session_id, [...(sessions.get(event.session_id) ?? []), event]);
  return sessions;
}

async function showSwap(gateway, folder) {
  heading("A stricter validator takes over while events keep coming");
  const swap = { answers: [], requests: 0, connections: 0, droppedAt: undefined, firstNewAt: undefined, stop: false };
  const senders = Array.from({ length: CONNECTIONS }, () => keepSending(gateway, swap));
  // A sender that fails ends the wait for the others.
  const all = Promise.all(senders).finally(() => (swap.stop = true));
  all.catch(() => {});
  await Promise.race([sleep(BEFORE_SWAP_MS), all]);

  // As a careful author does it: beside the old module first, then in its place in one step.
  const installed = path.join(folder, "modules", PAGEVIEW);
  await copyFile(path.join(folder, "strict", PAGEVIEW), `${installed}.new`);
  await rename(`${installed}.new`, installed);
  swap.droppedAt = performance.now();

  const deadline = swap.droppedAt + SWAP_MS_MAX;
  const done = () => swap.firstNewAt !== undefined && performance.now() > swap.firstNewAt + AFTER_SWAP_MS;
  while (!swap.stop && !done() && performance.now() < deadline) await sleep(10);
  swap.stop = true;
  await all;
  reportSwap(swap);
}

// Sends, over one kept-alive connection at a time, a pageview that only the stricter validator rejects.
async function keepSending(gateway, swap) {
  let sawNew = false;
  while (!swap.stop && swap.requests < SWAP_REQUESTS_MAX) {
    swap.requests += 1;
    const data = { ...PAGE, path: "/search?q=shoes" };
    const event = { ...example("page interaction", "pageview", "2021-01-01 09:17:00", data), session_id: SWAP_SESSION };
    const wasDropped = swap.droppedAt !== undefined;
    const answer = await gateway.request("POST", "/v1/events", JSON.stringify(event));
    swap.connections += answer.isNewConnection ? 1 : 0;
    expect(answer.status === 201 || answer.status === 422, `a request failed with ${answer.status}: ${answer.text}`);
    if (answer.status === 422) {
      const codes = JSON.parse(answer.text).violations.map(({ code }) => code);
      expect(isDeepStrictEqual(codes, ["query_string"]), `other violations than the stricter rule's: ${codes}`);
      // The file may be seen before the rename's own answer is.
      swap.firstNewAt ??= performance.now();
    }
    expect(!sawNew || answer.status === 422, "the older validator judged again after the stricter one");
    sawNew ||= answer.status === 422;
    swap.answers.push({ status: answer.status, ms: answer.ms, wasDropped });
  }
}

function reportSwap(swap) {
  const count = (status) => swap.answers.filter((answer) => answer.status === status).length;
  expect(count(201) > 0, "events were stored before the swap");
  expect(swap.firstNewAt !== undefined, `no new verdict in ${SWAP_MS_MAX} ms`);
  // The connections of the pool are used over and over: a few more may be opened, not one for each request.
  expect(swap.connections <= 2 * CONNECTIONS, `${swap.connections} connections were opened: they are not kept alive`);
  const times = (isAfter) => swap.answers.filter(({ wasDropped }) => wasDropped === isAfter).map(({ ms }) => ms).sort((a, b) => a - b);
  const rows = [["before", times(false)], ["after", times(true)]].map(([when, ms]) => [
    when, ms.length, at(ms, 0.5), at(ms, 0.99), at(ms, 1),
  ]);
  printTable(["file drop", "requests", "median ms", "99 % ms", "longest ms"], rows);
  const wait = Math.max(0, swap.firstNewAt - swap.droppedAt);
  console.log(`\n  ${swap.answers.length} requests over ${CONNECTIONS} kept-alive connections: ${count(201)} stored, then ${count(422)} rejected, 0 failed`);
  console.log(`  first new verdict ${wait.toFixed(0)} ms after the file was there`);
}

function at(sorted, share) {
  return sorted.length === 0 ? "-" : sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))].toFixed(1);
}

async function main() {
  const folder = await mkdtemp(path.join(os.tmpdir(), "eye-demo-"));
  let gateway;
  let interrupted = false;
  process.on("SIGINT", () => {
    // The gateway is stopped on the way out; a second Ctrl-C would leave it behind, so there is none.
    if (!interrupted) console.error("\nstopping");
    interrupted = true;
    gateway?.child.kill("SIGTERM");
  });
  try {
    // Started by root, the gateway's Postgres runs as another user, who must get through to its data.
    await chmod(folder, 0o711);
    await mkdir(path.join(folder, "modules"));
    console.log("building the validators ...");
    const install = path.join(ROOT, "validators/install");
    await run(install, ["--modules", path.join(folder, "strict"), "--features", "strict", "pageview"]);
    await run(install, ["--modules", path.join(folder, "modules")]);
    const [plain, strict] = await Promise.all(
      ["modules", "strict"].map((place) => readFile(path.join(folder, place, PAGEVIEW))),
    );
    expect(!plain.equals(strict), "the stricter build is another module");
    expect(!interrupted, "interrupted");

    const startedAt = performance.now();
    gateway = await Gateway.start(folder);
    console.log(`the gateway is ready on 127.0.0.1:${gateway.port} after ${(performance.now() - startedAt).toFixed(0)} ms, with a new database`);
    await showExamples(gateway);
    await showSession(gateway);
    await showWebhooks(gateway);
    await showSwap(gateway, folder);

    const ending = await gateway.stop();
    expect(ending === 0, `the gateway ended with ${ending ?? "SIGKILL, as it did not stop in time"}`);
    console.log("\nAll as expected.");
  } catch (error) {
    process.exitCode = 1;
    console.error(`\nNot as expected: ${error instanceof Unexpected ? error.message : error.stack}`);
    if (gateway) {
      await gateway.stop();
      console.error(`\nthe end of the gateway's log:\n${gateway.log.slice(-20).join("\n")}`);
    }
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}

await main();
