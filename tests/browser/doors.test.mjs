// Doors on the page: what asks before one opens, who is refused, and what is kept of it. The demo
// has a door that opens; the test house has one whose intercom cannot be reached. Real binary only.

import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import { after, afterEach, before, test as nodeTest } from "node:test";

import {
  api, base, device, launch, leave, lowContrast, pairByLink, pusher, received, ring, shot, shown, sticksOut, turnOn, until, view, webhook,
} from "./kit.mjs";

const TEST_MS_MAX = 90_000;
const test = (name, run) => nodeTest(name, { timeout: TEST_MS_MAX }, run);
const DEMO = process.env.DEMO_URL;

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

async function paired(person = "ana", options) {
  const one = await device(browser, options);
  open.push(one);
  await pairByLink(one, person);
  return one;
}

/** Posts JSON with this device's session. */
function send({ page }, path, body) {
  return page.evaluate(async ([where, what]) => {
    const response = await fetch(where, { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(what) });
    return { status: response.status, body: await response.json().catch(() => null) };
  }, [path, body]);
}

const audit = async (phone) => (await api(phone, "/api/doors")).body.audit;
const status = (phone) => phone.page.locator("#door-status");

test("one press on the page that asks opens the door, and the list says who", async () => {
  const context = await browser.newContext({ viewport: { width: 390, height: 844 }, reducedMotion: "reduce" });
  const page = await context.newPage();
  const phone = { context, page };
  await page.goto(`${DEMO}/#doors`);
  await page.getByRole("link", { name: "Open Front gate…" }).click();
  await page.getByRole("heading", { name: "Open Front gate?" }).waitFor();
  // The page itself opens nothing.
  const before = (await audit(phone)).filter((one) => one.by === "person").length;
  assert.equal(before, 0);
  const asked = page.waitForRequest((request) => request.url().endsWith("/api/doors/front/open"));
  await page.getByRole("button", { name: "Open Front gate" }).click();
  await page.locator("#door-status[data-tone=good]").waitFor();
  assert.match(await status(phone).textContent(), /own signal/);
  assert.equal(await page.locator("#door-open").isDisabled(), true);
  await page.screenshot({ path: `${process.env.SHOTS}/door-opened.png` });

  // The same press once more, as a script would send it.
  const token = (await asked).postDataJSON().token;
  const again = await send(phone, "/api/doors/front/open", { token, event: null });
  assert.equal(again.status, 409);
  assert.match(again.body.error, /pressed already/);

  await page.getByRole("button", { name: "Back to the house" }).click();
  const list = page.locator("#door-audit");
  await list.getByText("ana on This browser").first().waitFor();
  await list.getByText("denied").first().waitFor();
  const lines = (await audit(phone)).filter((one) => one.person === "ana");
  const what = lines.map((one) => one.what);
  assert.deepEqual(what.toReversed(), ["pressed", "commanded", "confirmed", "denied"]);
  await page.screenshot({ path: `${process.env.SHOTS}/doors.png` });
  await context.close();
});

test("a notification's button leads to the page that asks, with the event, and opens nothing", async () => {
  const phone = await paired();
  await turnOn(phone);
  const deliver = await pusher(phone);
  const home = `M${randomUUID().slice(0, 8)}`;
  await webhook(ring({ home_name: home }));
  const text = await until(async () => (await received(phone)).messages.find((one) => one.includes(home)), "the push");
  const [button] = JSON.parse(text).notification.actions;
  assert.deepEqual([button.action, button.title], ["open:front", "Open the gate"]);
  await deliver(text);
  const notification = await until(async () => (await shown(phone)).find((one) => one.title.includes(home)), "the notification");
  const page = notification.data.buttons["open:front"];
  assert.match(page, /^\/#door=front&event=[0-9a-f]{32}$/);

  await phone.page.goto(base + page);
  await phone.page.getByRole("heading", { name: "Open Front gate?" }).waitFor();
  await phone.page.locator("#door .about", { hasText: home }).getByText("Doorbell rang").waitFor();
  assert.deepEqual(await audit(phone), []);
  await shot(phone, "door-asks");
  // Nobody listens at the intercom's address: it is said at once, and it is over.
  await phone.page.getByRole("button", { name: "Open Front gate" }).click();
  await phone.page.locator("#door-status[data-tone=bad]").waitFor();
  assert.match(await status(phone).textContent(), /not opened.*not sent/i);
  const lines = await audit(phone);
  assert.deepEqual(lines.map((one) => one.what).toReversed(), ["pressed", "refused"]);
  assert.equal(lines[0].event, page.slice(-32));
  // Asked anew, the page gives another press.
  await phone.page.getByRole("button", { name: "Ask anew" }).click();
  await phone.page.locator("#door-open:enabled").waitFor();
  assert.deepEqual(phone.faults, []);
});

test("whoever has no right to a door sees none and opens none", async () => {
  const ana = await paired("ana");
  const ben = await paired("ben");
  assert.equal(await ben.page.locator("#doors-tab").isVisible(), false);
  assert.deepEqual((await api(ben, "/api/doors")).body, { doors: [], audit: [] });
  await ben.page.goto(`${base}/#door=front`);
  await ben.page.getByText("ben may not open Front gate").waitFor();
  assert.equal(await ben.page.locator("#door-open").count(), 0);
  // With somebody else's page it is no better.
  const { body: { token } } = await send(ana, "/api/doors/front/ask", {});
  const stolen = await send(ben, "/api/doors/front/open", { token });
  assert.equal(stolen.status, 403);
  const denied = (await audit(ana)).filter((one) => one.what === "denied" && one.person === "ben");
  assert.equal(denied.length, 2);
  assert.match(denied[0].why, /ben may not open/);
  await ben.page.getByRole("button", { name: "Back to the house" }).click();
  await ben.page.locator("#house").waitFor();
  assert.deepEqual(ben.faults, []);
});

test("a page is good on its own device, for its own event, and an unknown door is called one", async () => {
  const first = await paired();
  const second = await paired();
  await webhook(ring({ home_name: `M${randomUUID().slice(0, 8)}` }));
  const rang = ({ event }) => event.type === "netatmo.ring";
  const items = async () => (await api(first, "/api/timeline")).body.items;
  const { event: { id: event } } = await until(async () => (await items()).find(rang), "the ring");
  const { body: { token } } = await send(first, "/api/doors/front/ask", { event });
  const press = (phone, body) => send(phone, "/api/doors/front/open", body);
  const elsewhere = await press(second, { token, event });
  assert.deepEqual([elsewhere.status, elsewhere.body.error], [403, "this page was shown on another device"]);
  const other = await press(first, { token, event: "1".repeat(32) });
  assert.deepEqual([other.status, other.body.error], [403, "this page showed another event"]);
  assert.equal((await press(first, { token: "made up" })).status, 410);
  assert.equal((await send(first, "/api/doors/frnt/ask", {})).status, 404);
  assert.equal((await send(first, "/api/doors/front/ask", { event: "1".repeat(32) })).status, 404);
  // Not as a form of another site could send it.
  const form = await first.page.evaluate(async () => (await fetch("/api/doors/front/open", { method: "POST", body: "token=x" })).status);
  assert.equal(form, 400);
  await first.page.goto(`${base}/#door=frnt`);
  await first.page.getByText("did you mean `front`?").waitFor();
});

test("the page is usable at 320 px, in both schemes, by keyboard", async () => {
  for (const colorScheme of ["light", "dark"]) {
    const phone = await paired("ana", { viewport: { width: 320, height: 640 }, colorScheme });
    await view(phone, "doors");
    await phone.page.locator("#door-audit li").first().waitFor();
    assert.deepEqual(await sticksOut(phone), []);
    assert.deepEqual(await lowContrast(phone), []);
    await phone.page.goto(`${base}/#door=front`);
    await phone.page.locator("#door-open:enabled").waitFor();
    assert.equal(await phone.page.evaluate(() => document.activeElement.id), "door-title");
    assert.deepEqual(await sticksOut(phone), []);
    assert.deepEqual(await lowContrast(phone), []);
    const { height } = await phone.page.locator("#door-open").boundingBox();
    assert.ok(height >= 80, `${height} px`);
    await phone.page.keyboard.press("Tab");
    assert.equal(await phone.page.evaluate(() => document.activeElement.id), "door-open");
    await phone.page.keyboard.press("Enter");
    await phone.page.locator("#door-status[data-tone]").waitFor();
    assert.deepEqual(await lowContrast(phone), []);
    await shot(phone, `door-320-${colorScheme}`);
    assert.deepEqual(phone.faults, []);
    await leave(phone);
    open = open.filter((one) => one !== phone);
  }
});
