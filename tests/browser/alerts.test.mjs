// Alerts on the page and on a notification: who is told, how far it has come, and that one press
// ends it everywhere. Real binary only.

import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import { after, afterEach, before, test as nodeTest } from "node:test";

import { api, device, launch, leave, lowContrast, pairByLink, pusher, received, shot, shown, sticksOut, turnOn, until, webhook, base } from "./kit.mjs";

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

function smoke(home) {
  return {
    event_type: "smoke", push_type: "NSD-smoke", sub_type: 1, event_id: randomUUID(), home_name: home,
    device_id: "70:ee:50:00:00:09", home_id: "h1",
  };
}

const card = ({ page }, home) => page.locator("#alerts li.alert", { hasText: home });
const alerts = async (phone) => (await api(phone, "/api/alerts")).body.alerts;

test("an alert is told, shown how far it has come, and ended by one press for everybody", async () => {
  const ana = await paired("ana");
  const ben = await paired("ben", { viewport: { width: 320, height: 700 } });
  await turnOn(ana);
  const home = `Home ${randomUUID().slice(0, 8)}`;
  assert.equal(await webhook(smoke(home)), 200);
  await card(ana, home).getByText("nobody has answered").waitFor();
  await card(ana, home).getByText("on its way").waitFor();
  await card(ben, home).getByText("nobody has answered").waitFor();
  assert.deepEqual(await sticksOut(ben), []);
  assert.deepEqual(await lowContrast(ana), []);
  await shot(ben, "alert-320");
  await card(ben, home).getByRole("button", { name: "I have it" }).click();
  await card(ben, home).getByText("ben has it").waitFor();
  await card(ana, home).getByText("ben has it").waitFor();
  const alert = (await alerts(ana)).find((one) => one.title.includes(home));
  assert.equal(alert.acked.by, "ben");
  assert.equal(alert.acked.via, "page");
  // Ana's phone is told who has it.
  await until(async () => (await received(ana)).messages.find((one) => one.includes("ben has it in hand")), "the note");
  assert.deepEqual(ana.faults, []);
});

test("it is acknowledged from the notification, without opening the page", async () => {
  const ana = await paired("ana");
  await turnOn(ana);
  const deliver = await pusher(ana);
  const home = `Home ${randomUUID().slice(0, 8)}`;
  assert.equal(await webhook(smoke(home)), 200);
  const text = await until(async () => (await received(ana)).messages.find((one) => one.includes(home)), "the push");
  await deliver(text);
  const [one] = await until(async () => {
    const now = await shown(ana);
    return now.length > 0 && now;
  }, "the notification");
  assert.match(one.title, new RegExp(home));
  await card(ana, home).locator(".chip", { hasText: "shown" }).waitFor();
  const worker = ana.context.serviceWorkers().find((each) => each.url().startsWith(base));
  await worker.evaluate(async () => {
    const [notification] = await self.registration.getNotifications();
    if (notification.actions?.[0]?.action !== "acknowledge") throw new Error("no such button");
    self.dispatchEvent(new NotificationEvent("notificationclick", { notification, action: "acknowledge" }));
  });
  await card(ana, home).getByText("ana has it").waitFor();
  const alert = (await alerts(ana)).find((each) => each.title.includes(home));
  assert.equal(alert.acked.via, "phone");
});

test("the note that somebody has it takes the place of all that was told, without a sound", async () => {
  const ana = await paired("ana");
  const deliver = await pusher(ana);
  const [alert, other] = [randomUUID(), randomUUID()];
  const push = (title, tag, portero, more = {}) =>
    deliver(JSON.stringify({ web_push: 8030, notification: { title, tag, navigate: "/", ...more }, portero: { action: randomUUID(), ...portero } }));
  const titles = async () => (await loud(ana)).map((one) => one.title).sort();
  await push("Smoke", "one", { alert });
  await push("Smoke, nobody answers", "two", { alert });
  await push("Water", "three", { alert: other });
  await until(async () => (await titles()).length === 3, "three notifications");
  assert.deepEqual((await loud(ana)).map(({ renotify, silent }) => [renotify, silent === true]), Array(3).fill([true, false]));
  await push("Ben has it in hand", "one", { clears: alert }, { silent: true });
  await until(async () => (await titles()).join() === "Ben has it in hand,Water", "one note and the other alert");
  // The second note finds nothing left; it takes the first one's place.
  await push("Ben has it in hand", "two", { clears: alert }, { silent: true });
  await until(async () => (await loud(ana)).some((one) => one.tag === "two"), "the second note");
  await until(async () => (await titles()).join() === "Ben has it in hand,Water", "still one note");
  const note = (await loud(ana)).find((one) => one.tag === "two");
  assert.deepEqual([note.silent, note.renotify], [true, false]);
});

/** What is shown, and whether it makes a sound. */
function loud({ page }) {
  return page.evaluate(async () => {
    const registration = await navigator.serviceWorker.ready;
    return (await registration.getNotifications()).map(({ title, tag, silent, renotify }) => ({ title, tag, silent, renotify }));
  });
}
