// The page in a real browser, from pairing to the notification. Started by run.mjs, which says
// where everything is; each test makes the devices it needs and leaves the house as it found it.

import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import { after, afterEach, before, test } from "node:test";

import {
  api, base, closeAll, control, device, launch, leave, lowContrast, movement, pairByLink, pusher, received, ring, shot, shown, sticksOut,
  turnOn, until, view, webhook,
} from "./kit.mjs";

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

async function made(options) {
  const one = await device(browser, options);
  open.push(one);
  return one;
}

async function paired(options) {
  const one = await made(options);
  await pairByLink(one);
  return one;
}

/** A word that occurs nowhere else, to find one event by. */
const mark = () => `M${randomUUID().slice(0, 8)}`;
const rowOf = (phone, text) => phone.page.locator("#rows > li", { hasText: text });

// ---- who may see anything ------------------------------------------------------------------------

test("without a session nobody sees anything", async () => {
  const home = mark();
  await webhook(ring({ home_name: home }));
  const stranger = await made();
  await stranger.page.goto(base);
  await stranger.page.locator("#pair").waitFor();
  assert.equal(await stranger.page.locator("#house").isVisible(), false);
  assert.equal(await stranger.page.locator("#tabs").isVisible(), false);
  for (const path of ["/api/me", "/api/timeline", "/api/status", "/api/phones", "/api/stream"]) {
    assert.equal((await api(stranger, path)).status, 401, path);
  }
  for (const path of ["/api/test", "/api/alive", "/api/subscription", "/api/logout"]) {
    assert.equal((await api(stranger, path, "POST")).status, 401, path);
  }
  assert.doesNotMatch(await stranger.page.content(), new RegExp(home));
  assert.deepEqual(stranger.faults, []);
});

test("a device is paired by its link, once, and the code leaves the address", async () => {
  const phone = await made();
  const code = await pairByLink(phone);
  assert.doesNotMatch(phone.page.url(), /pair/);
  const { body: me } = await api(phone, "/api/me");
  assert.equal(me.person, "ana");
  assert.equal(me.subscribed, false);
  assert.match(me.vapid, /^[A-Za-z0-9_-]{87}$/);
  assert.equal(await phone.page.locator("#who").textContent(), "ana");
  const cookies = await phone.context.cookies();
  const session = cookies.find((one) => one.name === "portero");
  assert.equal(session.httpOnly, true);
  assert.notEqual(session.sameSite, "None");

  const second = await made();
  await second.page.goto(`${base}/#pair=${encodeURIComponent(code)}`);
  await second.page.locator("#pair button", { hasText: "Pair" }).click();
  await second.page.locator("#pair-problem", { hasText: "already used" }).waitFor();
  assert.equal((await api(second, "/api/me")).status, 401);
  assert.deepEqual(phone.faults, []);
});

test("a code can be typed, with a name for the device", async () => {
  const phone = await made();
  const { code } = await control("/pair", { person: "ben" });
  await phone.page.goto(base);
  await phone.page.getByLabel("Code", { exact: true }).fill(` ${code} `);
  await phone.page.getByLabel("Name of this device").fill("Ben's <b>tablet</b>");
  await phone.page.keyboard.press("Enter");
  await phone.page.locator("#house").waitFor();
  assert.equal((await api(phone, "/api/me")).body.name, "Ben's <b>tablet</b>");
  await view(phone, "phones");
  await phone.page.locator(".phone", { hasText: "Ben's <b>tablet</b>" }).first().waitFor();
});

test("on an iPhone outside the Home Screen, installing comes first and the code is shown to type", async () => {
  const phone = await made({ userAgent: "Mozilla/5.0 (iPhone; CPU iPhone OS 18_4 like Mac OS X) AppleWebKit/605.1.15 Version/18.4 Mobile/15E148 Safari/604.1" });
  await phone.page.goto(`${base}/#pair=ABC-123`);
  await phone.page.getByText("Add to Home Screen").waitFor();
  assert.equal(await phone.page.locator(".code-big").textContent(), "ABC-123");
  assert.equal(await phone.page.locator("#pair-code").isVisible(), false);
  await shot(phone, "iphone-install");
});

test("unpairing takes everything off the screen", async () => {
  const phone = await paired();
  const home = mark();
  await webhook(ring({ home_name: home }));
  await rowOf(phone, home).waitFor();
  await phone.page.locator("#account summary").click();
  await phone.page.getByRole("button", { name: "Unpair this device" }).click();
  await phone.page.locator("#ask-yes").click();
  await phone.page.locator("#pair").waitFor();
  assert.doesNotMatch(await phone.page.content(), new RegExp(home));
  assert.equal((await api(phone, "/api/timeline")).status, 401);
});

// ---- from the doorbell to the phone --------------------------------------------------------------

test("a ring becomes a notification, is reported shown and opened, and the timeline tells it live", async () => {
  const phone = await paired();
  await turnOn(phone);
  assert.equal((await api(phone, "/api/me")).body.subscribed, true);
  const deliver = await pusher(phone);
  await view(phone, "timeline");

  const home = mark();
  const sent = Date.now();
  assert.equal(await webhook(ring({ home_name: home, message: "Ding <dong> & co" })), 200);
  const row = rowOf(phone, home);
  await row.getByText("Doorbell rang").waitFor();
  await row.getByText("delivered").waitFor();

  const text = await until(async () => (await received(phone)).messages.find((one) => one.includes(home)), "the push");
  const payload = JSON.parse(text);
  assert.equal(payload.web_push, 8030);
  assert.equal(payload.mutable, true);
  assert.equal(payload.notification.title, `Someone is at ${home}`);
  assert.equal(payload.notification.body, "Ding <dong> & co");
  assert.equal(new URL(payload.notification.navigate).origin, base);
  await checkHeaders(phone, sent);

  await deliver(text);
  const [one, ...more] = await until(async () => {
    const now = await shown(phone);
    return now.length > 0 && now;
  }, "the notification");
  assert.deepEqual(more, []);
  assert.equal(one.title, `Someone is at ${home}`);
  assert.equal(one.body, "Ding <dong> & co");
  await row.getByText("shown").waitFor();

  await click(phone);
  await row.locator(".chip", { hasText: "opened" }).waitFor();
  assert.deepEqual(await shown(phone), []);

  // The tap leads to the event and opens its explanation.
  await row.locator("details[open].event").waitFor();
  await row.getByText("What was done").waitFor();
  await row.locator(".looked li", { hasText: "doorbell of the other house" }).getByText("did not apply").waitFor();
  assert.equal(await row.locator(".steps li.done").count(), 4);
  await row.getByText("Message as it came").click();
  await row.locator("pre", { hasText: home }).waitFor();
  await shot(phone, "explained-phone-light");
  assert.deepEqual(phone.faults, []);
});

/** What the mock push service does not look at: claims, headers, size (RFC 8030, 8291, 8292). */
async function checkHeaders(phone, sent) {
  const { requests } = await received(phone);
  const { headers, bytes } = requests.at(-1);
  assert.match(headers.ttl, /^\d+$/);
  assert.ok(Number(headers.ttl) > 0 && Number(headers.ttl) <= 60, `TTL ${headers.ttl}`);
  assert.equal(headers.urgency, "high");
  assert.equal(headers["x-content-encoding"], "aes128gcm");
  if (headers.topic) assert.match(headers.topic, /^[A-Za-z0-9_-]{1,32}$/);
  assert.ok(bytes <= 4096, `${bytes} bytes`);
  const [, token] = /^vapid t=([^,]+), ?k=/.exec(headers.authorization);
  const claims = JSON.parse(Buffer.from(token.split(".")[1], "base64url").toString());
  assert.equal(claims.aud, `http://${headers.host}`);
  assert.ok(claims.exp * 1000 > sent && claims.exp * 1000 <= sent + 24 * 3600 * 1000, `exp ${claims.exp}`);
  assert.match(claims.sub, /^mailto:/);
}

/** A tap on the one notification: not trusted, so windows stay as they are, but the worker's code runs. */
async function click({ context }) {
  const worker = context.serviceWorkers().find((one) => one.url().startsWith(base));
  await worker.evaluate(async () => {
    const [notification] = await self.registration.getNotifications();
    self.dispatchEvent(new NotificationEvent("notificationclick", { notification }));
  });
}

test("whatever a push contains, exactly one notification is shown", async () => {
  const phone = await paired();
  const deliver = await pusher(phone);
  for (const [data, title] of [
    ["", "Portero: something happened"],
    ["no JSON", "Portero: something happened"],
    ["null", "Portero: something happened"],
    ["[1,2]", "Portero: something happened"],
    ["{\"notification\":{\"title\":7,\"navigate\":\"javascript:alert(1)\",\"image\":\"http://x/\"}}", "Portero: something happened"],
    ["{\"notification\":{\"title\":\"Only a title\",\"navigate\":\"https://evil.example/\"}}", "Only a title"],
  ]) {
    await closeAll(phone);
    await deliver(data);
    const now = await until(async () => {
      const all = await shown(phone);
      return all.length > 0 && all;
    }, `a notification for ${data}`);
    assert.deepEqual(now.map((one) => one.title), [title], data);
    assert.match(now[0].data.navigate, /^\/(#|$)/, "only our own addresses");
  }
});

test("a receipt that could not be sent is sent with the next push", async () => {
  const phone = await paired();
  await turnOn(phone);
  const deliver = await pusher(phone);
  await view(phone, "timeline");
  const [first, second] = [mark(), mark()];
  await webhook(ring({ home_name: first }));
  await webhook(ring({ home_name: second }));
  const texts = await until(async () => {
    const { messages } = await received(phone);
    return messages.length >= 2 && messages;
  }, "two pushes");
  await breakReceipts(phone, true);
  await deliver(texts.find((one) => one.includes(first)));
  await until(async () => (await waitingReceipts(phone)) === 1, "the receipt to be kept");
  await breakReceipts(phone, false);
  await deliver(texts.find((one) => one.includes(second)));
  await rowOf(phone, second).getByText("shown").waitFor();
  await rowOf(phone, first).getByText("shown").waitFor();
  assert.equal(await waitingReceipts(phone), 0);
});

async function breakReceipts({ context }, broken) {
  const worker = context.serviceWorkers().find((one) => one.url().startsWith(base));
  await worker.evaluate((on) => {
    self.realFetch ??= self.fetch;
    self.fetch = on ? (where, ...rest) => (String(where).includes("receipt") ? Promise.reject(new TypeError("no network")) : self.realFetch(where, ...rest)) : self.realFetch;
  }, broken);
}

// Through the worker's own `store`: opening its database from here first would create it empty.
function waitingReceipts({ context }) {
  const worker = context.serviceWorkers().find((one) => one.url().startsWith(base));
  return worker.evaluate(() => self.store("receipts", "readonly", (one) => one.count()));
}

test("a test notification arrives; turned off, nothing is sent any more", async () => {
  const phone = await paired();
  await turnOn(phone);
  await phone.page.getByRole("button", { name: "Send a test" }).click();
  const [text] = await until(async () => {
    const { messages } = await received(phone);
    return messages.length > 0 && messages;
  }, "the test push");
  assert.ok(JSON.parse(text).notification.title);
  const { messages, requests } = await received(phone);
  const saved = await phone.page.evaluate(() => JSON.parse(localStorage.getItem("test.subscription")));
  await phone.page.getByRole("button", { name: "Turn off" }).click();
  await phone.page.locator("#this-phone[data-push=off]").waitFor();
  assert.equal((await api(phone, "/api/me")).body.subscribed, false);
  await view(phone, "timeline");
  const home = mark();
  await webhook(ring({ home_name: home }));
  await rowOf(phone, home).waitFor();
  const later = await control("/messages", { clientHash: saved.clientHash });
  assert.deepEqual([later.messages.length, later.requests.length], [messages.length, requests.length]);
  assert.deepEqual(phone.faults, []);
});

// ---- when subscribing fails ----------------------------------------------------------------------

test("a subscribe() that never settles ends in plain words, and can be tried again", async () => {
  const phone = await paired({ push: "hang" });
  await view(phone, "phones");
  await phone.page.getByRole("button", { name: "Turn on notifications" }).click();
  await phone.page.getByText("push service did not answer").waitFor();
  assert.equal(await phone.page.locator("#this-phone").getAttribute("data-push"), "off");
  assert.equal(await phone.page.getByRole("button", { name: "Turn on notifications" }).isEnabled(), true);
  assert.equal((await api(phone, "/api/me")).body.subscribed, false);
  await shot(phone, "subscribe-timeout");
});

test("blocked notifications are explained", async () => {
  const phone = await paired({ push: "blocked" });
  await view(phone, "phones");
  await phone.page.getByText(/Notifications are blocked|They are off/).waitFor();
  if (await phone.page.evaluate(() => Notification.permission === "denied")) {
    await phone.page.getByText("only you can unblock them").waitFor();
  }
});

test("a subscription made with another key is renewed in one tap", async () => {
  const phone = await paired();
  await turnOn(phone);
  await phone.page.evaluate(() => {
    const saved = JSON.parse(localStorage.getItem("test.subscription"));
    saved.key = `${saved.key.slice(0, -4)}AAAA`;
    localStorage.setItem("test.subscription", JSON.stringify(saved));
  });
  await phone.page.reload();
  await phone.page.locator("#this-phone[data-push=changed]").waitFor();
  await phone.page.getByRole("button", { name: "Renew notifications" }).click();
  await phone.page.locator("#this-phone[data-push=on]").waitFor();
});

// ---- what the page tells -------------------------------------------------------------------------

test("what is not signed stands in quarantine, with its reason, and runs nothing", async () => {
  const phone = await paired();
  const trap = `<img src=x onerror="document.title='trapped'"><script>document.title='trapped'</script>${mark()}`;
  assert.equal(await webhook(ring({ home_name: trap }), { signature: "00".repeat(32) }), 200);
  assert.equal(await webhook(ring({ home_name: trap })), 200);
  await rowOf(phone, trap).waitFor();
  assert.equal(await rowOf(phone, trap).count(), 1, "only the signed one is an event");
  await view(phone, "status");
  const entry = phone.page.locator("#status-quarantine details").first();
  await entry.locator("summary").click();
  await entry.locator("pre", { hasText: "onerror" }).waitFor();
  assert.match(await entry.locator("summary").textContent(), /sign/i);
  assert.notEqual(await phone.page.title(), "trapped");
  assert.equal(await phone.page.locator("#house script, #house img[src=x]").count(), 0);
  assert.deepEqual(phone.faults, []);
});

test("bad rules are told with the problem's text, and forgotten when mended", async () => {
  const phone = await paired();
  await control("/rules", { bad: true });
  try {
    await phone.page.locator(".banner[data-key=rules]").waitFor();
    await view(phone, "status");
    await phone.page.locator("pre.problems", { hasText: "psuh" }).waitFor();
    assert.deepEqual(await sticksOut(phone), []);
    await shot(phone, "bad-rules");
  } finally {
    await control("/rules", { bad: false });
  }
  await phone.page.locator(".banner[data-key=rules]").waitFor({ state: "detached" });
});

test("a broken connection is told and mends itself; nothing is missed", async () => {
  const phone = await paired();
  const [during, later] = [mark(), mark()];
  const dropping = control("/drop");
  await dropping;
  await webhook(ring({ home_name: during }));
  await rowOf(phone, during).waitFor();
  await phone.page.locator("#live[data-tone=good]").waitFor();
  await webhook(ring({ home_name: later }));
  await rowOf(phone, later).waitFor();
  assert.equal(await phone.page.locator(".banner[data-key=lost]").count(), 0);
});

test("the page opens without a network and says so", async () => {
  const phone = await paired();
  await phone.page.evaluate(() => navigator.serviceWorker.ready.then(() => true));
  await phone.page.reload();
  await phone.page.locator("#house").waitFor();
  await until(() => phone.page.evaluate(() => Boolean(navigator.serviceWorker.controller)), "the service worker's control");
  await phone.context.setOffline(true);
  await phone.page.reload();
  await phone.page.getByText("Portero does not answer").waitFor();
  await phone.context.setOffline(false);
  await phone.page.locator("#house").waitFor();
});

test("paused, new events wait behind a button", async () => {
  const phone = await paired();
  const home = mark();
  await phone.page.getByRole("button", { name: "Pause" }).click();
  await webhook(ring({ home_name: home }));
  await phone.page.locator("#held", { hasText: "1 new event" }).waitFor();
  assert.equal(await rowOf(phone, home).count(), 0);
  await phone.page.locator("#held").click();
  await rowOf(phone, home).waitFor();
});

test("the filter finds one event by a word", async () => {
  const phone = await paired();
  const [home, other] = [mark(), mark()];
  await webhook(ring({ home_name: home }));
  await webhook(ring({ home_name: other }));
  await rowOf(phone, other).waitFor();
  await phone.page.getByRole("button", { name: "Filter" }).click();
  await phone.page.getByLabel("Find").fill(home.toLowerCase());
  await rowOf(phone, other).waitFor({ state: "detached" });
  assert.equal(await phone.page.locator("#rows > li").count(), 1);
  await phone.page.getByLabel("Find").fill("there is no such thing");
  await phone.page.getByRole("button", { name: "Show everything" }).click();
  await rowOf(phone, other).waitFor();
});

test("a flood does not freeze the page nor fill it", async () => {
  const phone = await paired();
  await phone.page.evaluate(() => {
    globalThis.longestGap = 0;
    let last = performance.now();
    const tick = (now) => {
      globalThis.longestGap = Math.max(globalThis.longestGap, now - last);
      last = now;
      requestAnimationFrame(tick);
    };
    requestAnimationFrame(tick);
  });
  const last = mark();
  for (let round = 0; round < 40; round++) await Promise.all(Array.from({ length: 30 }, () => webhook(movement())));
  await webhook(ring({ home_name: last }));
  await rowOf(phone, last).waitFor();
  assert.ok((await phone.page.locator("#rows > li").count()) <= 200);
  const gap = await phone.page.evaluate(() => globalThis.longestGap);
  assert.ok(gap < 2000, `the page stood still for ${gap} ms`);
});

// ---- for everybody -------------------------------------------------------------------------------

test("at 320 px nothing sticks out, not with large text either", async () => {
  const phone = await made({ viewport: { width: 320, height: 568 } });
  await phone.page.goto(base);
  await phone.page.locator("#pair").waitFor();
  assert.deepEqual(await sticksOut(phone), [], "pairing");
  await pairByLink(phone);
  await turnOn(phone);
  await view(phone, "timeline");
  const home = `Averylongnamewithoutanyspaces${mark()}`.repeat(2);
  await webhook(ring({ home_name: home }));
  const row = rowOf(phone, home);
  await row.locator("summary").first().click();
  await row.getByText("Details").click();
  for (const size of ["100%", "200%"]) {
    await phone.page.evaluate((text) => document.documentElement.style.setProperty("font-size", text), size);
    for (const name of ["timeline", "phones", "status"]) {
      await view(phone, name);
      assert.deepEqual(await sticksOut(phone), [], `${name} at ${size}`);
    }
    await view(phone, "timeline");
    await shot(phone, `narrow-${parseInt(size, 10)}`);
  }
});

test("everything can be reached and used by keyboard, with the focus visible", async () => {
  const phone = await paired();
  const home = mark();
  await webhook(ring({ home_name: home }));
  await rowOf(phone, home).waitFor();
  await phone.page.reload();
  await rowOf(phone, home).waitFor();
  const seen = [];
  let opened = false;
  for (let i = 0; i < 30; i++) {
    await phone.page.keyboard.press("Tab");
    const now = await phone.page.evaluate(() => {
      const one = document.activeElement;
      const style = getComputedStyle(one);
      const box = one.getBoundingClientRect();
      return {
        name: one.id || one.dataset.view || one.textContent.trim().slice(0, 60), row: Boolean(one.closest("#rows")), body: one === document.body,
        visible: style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 2 && box.width > 0 && box.bottom > 0,
      };
    });
    if (now.body) break;
    assert.ok(now.visible, `focus on “${now.name}” cannot be seen`);
    seen.push(now.name);
    if (opened) break;
    if (now.row) {
      opened = true;
      await phone.page.keyboard.press("Enter");
      await phone.page.locator("#rows details[open].event").waitFor();
    }
  }
  assert.equal(seen[0], "Skip to the content");
  assert.ok(opened, "a row was opened by Enter");
  for (const name of ["filter-toggle", "pause", "timeline", "phones", "status"]) assert.ok(seen.includes(name), `${name} among ${seen}`);
  await phone.page.locator("#tabs a[data-view=status]").focus();
  await phone.page.keyboard.press("Enter");
  await phone.page.locator("#status").waitFor();
});

for (const colorScheme of ["light", "dark"]) {
  for (const [name, viewport] of [["phone", { width: 390, height: 844 }], ["desktop", { width: 1280, height: 900 }]]) {
    test(`contrast and looks: ${name}, ${colorScheme}`, async () => {
      const phone = await made({ viewport, colorScheme });
      await phone.page.goto(base);
      await phone.page.locator("#pair").waitFor();
      assert.deepEqual(await lowContrast(phone), [], "pairing");
      await shot(phone, `pair-${name}-${colorScheme}`);
      await pairByLink(phone);
      const home = mark();
      await webhook(ring({ home_name: home }), { signature: "" });
      await webhook(ring({ home_name: home }));
      const row = rowOf(phone, home);
      await row.waitFor();
      await shot(phone, `timeline-${name}-${colorScheme}`);
      await row.locator("summary").first().click();
      await row.getByText("Details").click();
      assert.deepEqual(await lowContrast(phone), [], "timeline");
      await shot(phone, `explained-${name}-${colorScheme}`);
      if (name === "desktop") return;
      for (const one of ["phones", "status"]) {
        await view(phone, one);
        assert.deepEqual(await lowContrast(phone), [], one);
        await shot(phone, `${one}-${name}-${colorScheme}`);
      }
    });
  }
}

test("it can be installed: manifest, icons, worker at the root", async () => {
  const manifest = await (await fetch(`${base}/manifest.webmanifest`)).json();
  assert.equal(manifest.display, "standalone");
  assert.equal(manifest.start_url, "/");
  for (const one of [...manifest.icons.map((icon) => icon.src), "/apple-touch-icon.png", "/badge-96.png"]) {
    const response = await fetch(base + one);
    assert.equal(response.status, 200, one);
    assert.match(response.headers.get("content-type"), /^image\//, one);
  }
  const worker = await fetch(`${base}/sw.js`);
  assert.match(worker.headers.get("content-type"), /javascript/);
  const page = await fetch(base);
  assert.match(page.headers.get("content-security-policy"), /default-src 'self'/);
});

if (process.env.DEMO_URL) {
  test("the demo shows what it sends to this device, as a card and as a notification", async () => {
    const context = await browser.newContext({ viewport: { width: 390, height: 844 } });
    open.push({ context });
    await context.grantPermissions(["notifications"], { origin: process.env.DEMO_URL });
    const page = await context.newPage();
    await page.goto(process.env.DEMO_URL);
    await page.locator(".banner[data-key=demo]").waitFor();
    await page.locator(".toast").first().waitFor();
    await until(async () => (await shown({ page })).length > 0, "a notification in the demo");
    await page.screenshot({ path: `${process.env.SHOTS}/demo-phone.png` });
  });
}
