// Runs the browser tests. Starts everything they need, runs them, stops everything.
//
//   PORTERO_BIN=target/debug/portero node tests/browser/run.mjs     against the real binary
//   STUB=1 node tests/browser/run.mjs                               against stub.mjs, without Rust
//
// Further settings by environment:
//   CHROMIUM     the browser (/usr/bin/chromium)
//   SHOTS        a folder for screenshots (a temporary one, removed, unless set)
//   DEMO_URL     address of a running `portero demo` (otherwise one is started)
//   KEEP=1       keeps the temporary folder with config, rules, data and the binary's log
//
// The tests get from here, by environment: BASE_URL (the page), HOOK_URL and HOOK_SECRET (where and
// how to post a webhook), CONTROL_URL (what only a runner can do: see `control` below), SHOTS.
// Exit code: 0 when all passed.

import { spawn } from "node:child_process";
import { createServer } from "node:http";
import { createServer as createSocket } from "node:net";
import { mkdir, mkdtemp, open, readFile, rm, writeFile } from "node:fs/promises";
import os from "node:os";
import path from "node:path";
import { fileURLToPath } from "node:url";

import { startPushService } from "./push-service.mjs";

const HERE = path.dirname(fileURLToPath(import.meta.url));
/** A debug build on a busy machine may take a while to start. */
const START_MS_MAX = 30_000;
/** Longer than this, SIGTERM did not help. */
const STOP_MS_MAX = 15_000;
/** All tests of one file; on a quiet machine they take a sixth of it. */
const FILE_MS_MAX = 600_000;
const SECRET = "browser-test-secret";

const RULES = `rules:
  - name: doorbell
    when: { type: netatmo.ring }
    do:
      - push:
          to: [ana]
          title: "Someone is at {{ event.data.home_name }}"
          body: "{{ event.data.message | default('The doorbell rang') }}"
          urgency: high
          ttl: 60s
          buttons: [ { title: "Open the gate", open: front } ]
  - name: doorbell of the other house
    when: { type: netatmo.ring }
    if: event.data.home_name == "Elsewhere"
    do:
      - push: { to: [ana], title: "Elsewhere" }
  - name: smoke
    when: { type: netatmo.smoke, data: { sub_type: 1 } }
    lane: alarm
    do:
      - escalate:
          - { after: 0s, push: { to: [ana], title: "SMOKE at {{ event.data.home_name }}", urgency: high } }
          - { after: 1h, push: { to: [ben], title: "SMOKE, Ana has not answered" } }
`;
const BAD_RULES = `rules:
  - name: broken
    when: { type: netatmo.ring }
    do:
      - psuh: { to: [ana], title: "This step is misspelt" }
`;

/** Two ports nobody listens on; they may be taken in between, which then shows as a failed start. */
async function freePorts(count) {
  const sockets = [];
  for (let i = 0; i < count; i++) {
    const socket = createSocket();
    await new Promise((resolve) => socket.listen(0, "127.0.0.1", resolve));
    sockets.push(socket);
  }
  const ports = sockets.map((one) => one.address().port);
  await Promise.all(sockets.map((one) => new Promise((resolve) => one.close(resolve))));
  return ports;
}

// ---- the real binary -----------------------------------------------------------------------------

async function startPortero(folder) {
  const binary = path.resolve(process.env.PORTERO_BIN);
  const [listen, admin] = await freePorts(2);
  const base = `http://127.0.0.1:${listen}`;
  const config = path.join(folder, "portero.toml");
  const rules = path.join(folder, "rules");
  await mkdir(rules);
  await writeFile(path.join(rules, "house.yaml"), RULES);
  await writeFile(config, `[server]
listen = "127.0.0.1:${listen}"
admin = "127.0.0.1:${admin}"
public_url = "${base}"

[store]
path = "${path.join(folder, "data")}"

[push]
contact = "mailto:browser-test@example.org"
allow_insecure_endpoints = true

[netatmo.home]
client_secret = "${SECRET}"
signature = "require"

[fibaro.gate]
url = "wss://127.0.0.1:9/wsock"
user = "nobody"
pass = "listens there"

[doors.front]
title = "Front gate"
fibaro = { relay = 0 }

[people.ana]
doors = ["front"]
[people.ben]

[groups]
family = ["ana", "ben"]
`);
  const log = await open(path.join(folder, "portero.log"), "a");
  let child = null;

  async function start() {
    child = spawn(binary, ["run", "--config", config], { cwd: folder, stdio: ["ignore", log.fd, log.fd] });
    const ended = new Promise((resolve) => child.once("exit", resolve));
    child.ended = ended;
    const until = Date.now() + START_MS_MAX;
    for (;;) {
      if (child.exitCode !== null) throw new Error(`portero ended with ${child.exitCode}:\n${await tail()}`);
      if (await answers(`http://127.0.0.1:${admin}/readyz`)) return;
      if (Date.now() > until) throw new Error(`portero is not ready after ${START_MS_MAX} ms:\n${await tail()}`);
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
  }

  async function stop() {
    if (!child || child.exitCode !== null || child.signalCode !== null) return;
    child.kill("SIGTERM");
    const timer = setTimeout(() => child.kill("SIGKILL"), STOP_MS_MAX);
    await child.ended;
    clearTimeout(timer);
  }

  const tail = async () => (await readFile(path.join(folder, "portero.log"), "utf8")).split("\n").slice(-30).join("\n");

  async function pair(person) {
    const output = await run(binary, ["pair", person, "--config", config], folder);
    const code = /#pair=([A-Za-z0-9_%.~-]+)/.exec(output);
    if (!code) throw new Error(`portero pair printed no link:\n${output}`);
    return decodeURIComponent(code[1]);
  }

  await start();
  const demo = process.env.DEMO_URL ? null : await startDemo(binary, folder);
  return {
    base, pair, tail,
    // It fails if any of the person's phones shows nothing; what it says is for the test.
    drill: (person) => run(binary, ["drill", "--person", person, "--wait", "15", "--config", config], folder).catch((error) => error.message),
    hook: `${base}/hooks/netatmo/home`,
    drop: async () => {
      await stop();
      await start();
    },
    badRules: (bad) => (bad ? writeFile(path.join(rules, "broken.yaml"), BAD_RULES) : rm(path.join(rules, "broken.yaml"), { force: true })),
    stop: async () => {
      await Promise.all([stop(), demo?.()]);
      await log.close();
    },
  };
}

/** Starts `portero demo` in a folder without rules, so with its own; answers what stops it. */
async function startDemo(binary, folder) {
  const [listen, admin] = await freePorts(2);
  const cwd = path.join(folder, "demo");
  await mkdir(cwd);
  const args = ["demo", "--listen", `127.0.0.1:${listen}`, "--admin", `127.0.0.1:${admin}`, "--pace-ms", "300", "--seed", "1"];
  const child = spawn(binary, args, { cwd, stdio: "ignore" });
  const ended = new Promise((resolve) => child.once("exit", resolve));
  process.env.DEMO_URL = `http://127.0.0.1:${listen}`;
  return async () => {
    child.kill("SIGTERM");
    const timer = setTimeout(() => child.kill("SIGKILL"), STOP_MS_MAX);
    await ended;
    clearTimeout(timer);
  };
}

async function answers(url) {
  try {
    return (await fetch(url, { signal: AbortSignal.timeout(1_000) })).ok;
  } catch {
    return false;
  }
}

function run(command, args, cwd) {
  return new Promise((resolve, reject) => {
    const child = spawn(command, args, { cwd, stdio: ["ignore", "pipe", "pipe"] });
    let output = "";
    child.stdout.on("data", (part) => (output += part));
    child.stderr.on("data", (part) => (output += part));
    child.once("error", reject);
    child.once("exit", (code) => (code === 0 ? resolve(output) : reject(new Error(`${command} ${args.join(" ")} ended with ${code}:\n${output}`))));
  });
}

// ---- the stub ------------------------------------------------------------------------------------

async function startStandIn() {
  const [{ startStub }, { makeSender }] = await Promise.all([import("./stub.mjs"), import("./sender.mjs")]);
  const sender = makeSender();
  const stub = await startStub({ secret: SECRET, vapid: sender.vapid, push: sender.push });
  const demo = await startStub({ demo: true });
  demo.addPhone("ana", "Demo phone");
  const beat = setInterval(() => demo.happen({ type: "netatmo.ring", subject: "bell", test: true, data: { home_name: "Demo house" } }, "{}"), 700);
  process.env.DEMO_URL ??= demo.base;
  return {
    base: stub.base,
    hook: `${stub.base}/hooks/netatmo/home`,
    pair: async (person) => stub.pairCode(person),
    drop: async () => stub.dropStreams(),
    badRules: async (bad) => stub.setRules({ ok: !bad, problems: bad ? "error: unknown step `psuh`, did you mean `push`?\n --> rules/broken.yaml:5:9" : "" }),
    tail: async () => "",
    stop: async () => {
      clearInterval(beat);
      await Promise.all([stub.stop(), demo.stop()]);
    },
  };
}

// ---- what the tests may ask for ------------------------------------------------------------------

/**
 * POST /pair {person} → {code}; POST /subscribe {key} → {endpoint, keys, clientHash} at the mock push
 * service; POST /messages {clientHash} → {messages, requests} it received; POST /drop breaks every
 * connection (a restart); POST /rules {bad} breaks or mends the rule files; POST /expire {clientHash}
 * ends a subscription at the push service; POST /drill {person} → {output} of a drill.
 */
function control(portero, push) {
  const actions = {
    "/pair": async ({ person }) => ({ code: await portero.pair(person ?? "ana") }),
    "/subscribe": async ({ key }) => push.subscribe(key),
    "/messages": async ({ clientHash }) => ({
      messages: push.messages(clientHash), requests: push.requests.filter((one) => one.client === clientHash),
    }),
    "/expire": async ({ clientHash }) => void push.expire(clientHash),
    "/drill": async ({ person }) => ({ output: await portero.drill(person) }),
    "/drop": async () => portero.drop(),
    "/rules": async ({ bad }) => portero.badRules(bad),
  };
  return createServer(async (request, response) => {
    try {
      const parts = [];
      for await (const part of request) parts.push(part);
      const result = await actions[request.url](JSON.parse(Buffer.concat(parts).toString() || "{}"));
      response.end(JSON.stringify(result ?? {}));
    } catch (error) {
      response.statusCode = 500;
      response.end(JSON.stringify({ error: error.message }));
    }
  });
}

async function main() {
  if (!process.env.PORTERO_BIN && process.env.STUB !== "1") {
    console.error("Say what to test: PORTERO_BIN=path/to/portero, or STUB=1.");
    return 2;
  }
  const folder = await mkdtemp(path.join(os.tmpdir(), "portero-browser-"));
  const closers = [];
  try {
    const [pushPort] = await freePorts(1);
    const push = await startPushService(pushPort);
    closers.push(push.stop);
    const portero = process.env.STUB === "1" ? await startStandIn() : await startPortero(folder);
    closers.push(portero.stop);
    const server = control(portero, push);
    await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
    closers.push(() => new Promise((resolve) => {
      server.close(resolve);
      server.closeAllConnections();
    }));
    const shots = process.env.SHOTS ? path.resolve(process.env.SHOTS) : path.join(folder, "shots");
    await mkdir(shots, { recursive: true });
    const code = await runTests({
      BASE_URL: portero.base, HOOK_URL: portero.hook, HOOK_SECRET: SECRET, SHOTS: shots,
      CONTROL_URL: `http://127.0.0.1:${server.address().port}`,
    });
    if (code !== 0) console.error(await portero.tail());
    return code;
  } finally {
    for (const close of closers.reverse()) await close();
    if (process.env.KEEP === "1") console.error(`kept ${folder}`);
    else await rm(folder, { recursive: true, force: true });
  }
}

function runTests(environment) {
  const files = ["feed.test.mjs", "page.test.mjs", ...(process.env.STUB === "1" ? [] : ["doors.test.mjs", "alerts.test.mjs", "undelivered.test.mjs"])].map((one) => path.join(HERE, one));
  const child = spawn(process.execPath, ["--test", "--test-reporter=spec", "--test-concurrency=1", `--test-timeout=${FILE_MS_MAX}`, ...process.argv.slice(2), ...files], {
    stdio: "inherit", env: { ...process.env, ...environment },
  });
  return new Promise((resolve) => child.once("exit", (code) => resolve(code ?? 1)));
}

process.exitCode = await main().catch((error) => {
  console.error(error.message);
  return 1;
});
