// What reaches nobody: dead letters on the page and sending them again; and the last drill of a
// phone. Real binary only.

import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import { after, afterEach, before, test as nodeTest } from "node:test";

import { api, control, device, launch, leave, lowContrast, pairByLink, pusher, received, ring, shot, sticksOut, turnOn, until, view, webhook } from "./kit.mjs";

const TEST_MS_MAX = 90_000;
const test = (name, run) => nodeTest(name, { timeout: TEST_MS_MAX }, run);

let browser;
let open = [];

before(async () => {
  browser = await launch();
});
after(() => browser?.close());
afterEach(async () => {
  for (const one of open) await leave(one);
  open = [];
});

async function paired(person, options) {
  const one = await device(browser, options);
  open.push(one);
  await pairByLink(one, person);
  return one;
}

const hashOf = ({ page }) => page.evaluate(() => JSON.parse(localStorage.getItem("test.subscription")).clientHash);
const titles = async (phone) => (await received(phone)).messages.map((text) => JSON.parse(text).notification?.title ?? text);

test("what reached nobody is shown, and one press sends it again to the person's other phone", async () => {
  const old = await paired("ana");
  await turnOn(old);
  await control("/expire", { clientHash: await hashOf(old) });
  const fresh = await paired("ana");
  await turnOn(fresh);
  const home = `Home ${randomUUID().slice(0, 8)}`;
  assert.equal(await webhook(ring({ home_name: home })), 200);
  await until(async () => (await titles(fresh)).some((title) => title.includes(home)), "the first push");
  await view(fresh, "status");
  const letter = fresh.page.locator("#dead li", { hasText: home });
  await letter.getByText("phone no longer subscribed").waitFor();
  assert.deepEqual(await sticksOut(fresh), []);
  assert.deepEqual(await lowContrast(fresh), []);
  await shot(fresh, "dead-letter");
  await letter.getByRole("button", { name: /Send again/ }).click();
  await letter.waitFor({ state: "detached" });
  await until(async () => (await titles(fresh)).filter((title) => title.includes(home)).length === 2, "the second push");
  const { body } = await api(fresh, "/api/dead");
  assert.ok(!body.dead.some((one) => one.title.includes(home)));
  assert.deepEqual(fresh.faults, []);
});

test("a drill that was shown is remembered beside the phone", async () => {
  const ben = await paired("ben");
  await turnOn(ben);
  const deliver = await pusher(ben);
  const drill = control("/drill", { person: "ben" });
  const text = await until(async () => (await received(ben)).messages.find((one) => one.includes("This is a drill")), "the push");
  await deliver(text);
  const mine = ben.page.locator("#phone-list li", { hasText: "this device" });
  await mine.getByText(/last drill: shown after \d+\.\d s, just now/).waitFor();
  assert.match((await drill).output, /accepted after \d+\.\d s, shown after \d+\.\d s/);
  assert.deepEqual(ben.faults, []);
});
