// What things are called on the page: event types, trust, states, reasons, moments. Pure: no DOM.

/** Groups that the filter offers, in its order. */
export const GROUPS = [
  ["bell", "Doorbell"],
  ["people", "People"],
  ["motion", "Movement"],
  ["alarm", "Alarms"],
  ["door", "Doors and windows"],
  ["health", "Device health"],
  ["portero", "Portero itself"],
  ["other", "Everything else"],
];

// type → [words, icon, group]. Sub types refine some of them below.
const KINDS = {
  "netatmo.ring": ["Doorbell rang", "bell", "bell"],
  "netatmo.accepted_call": ["Call answered", "bell", "bell"],
  "netatmo.missed_call": ["Call missed", "bell", "bell"],
  "netatmo.rtc": ["Doorbell call", "bell", "bell"],
  "netatmo.call_ended": ["Call ended", "bell", "bell"],
  "netatmo.person": ["Person seen", "person", "people"],
  "netatmo.person_home": ["Person came home", "home", "people"],
  "netatmo.person_away": ["Person left", "away", "people"],
  "netatmo.movement": ["Movement", "eye", "motion"],
  "netatmo.human": ["Someone outside", "person", "motion"],
  "netatmo.animal": ["Animal outside", "paw", "motion"],
  "netatmo.vehicle": ["Vehicle outside", "car", "motion"],
  "netatmo.outdoor": ["Movement outside", "eye", "motion"],
  "netatmo.cluster": ["Several movements", "eye", "motion"],
  "netatmo.end_recording": ["Recording ended", "camera", "motion"],
  "netatmo.smoke": ["Smoke alarm", "flame", "alarm"],
  "netatmo.co_detected": ["Carbon monoxide alarm", "flame", "alarm"],
  "netatmo.hush": ["Smoke alarm by hand", "flame", "alarm"],
  "netatmo.tampered": ["Detector tampered with", "siren", "alarm"],
  "netatmo.sound_test": ["Detector sound test", "siren", "alarm"],
  "netatmo.detection_chamber_status": ["Detection chamber checked", "flame", "health"],
  "netatmo.siren_sounding": ["Siren", "siren", "alarm"],
  "netatmo.siren_tampered": ["Siren tampered with", "siren", "alarm"],
  "netatmo.alarm_started": ["Alarm started", "siren", "alarm"],
  "netatmo.tag_open": ["Left open", "door", "door"],
  "netatmo.tag_big_move": ["Opened or moved", "door", "door"],
  "netatmo.tag_small_move": ["Small movement at a door", "door", "door"],
  "netatmo.tag_uninstalled": ["Door sensor taken off", "door", "door"],
  "netatmo.connection": ["Camera connected", "plug", "health"],
  "netatmo.disconnection": ["Camera disconnected", "cut", "health"],
  "netatmo.on": ["Monitoring on", "camera", "health"],
  "netatmo.off": ["Monitoring off", "camera", "health"],
  "netatmo.boot": ["Camera started", "camera", "health"],
  "netatmo.sd": ["Memory card", "card", "health"],
  "netatmo.alim": ["Power supply", "plug", "health"],
  "netatmo.ftp": ["Video upload", "camera", "health"],
  "netatmo.light_mode": ["Light mode changed", "bulb", "health"],
  "netatmo.new_module": ["New device", "plug", "health"],
  "netatmo.module_connect": ["Device connected", "plug", "health"],
  "netatmo.module_disconnect": ["Device disconnected", "cut", "health"],
  "netatmo.module_low_battery": ["Battery low", "battery", "health"],
  "netatmo.module_end_update": ["Device updated", "gear", "health"],
  "netatmo.battery_status": ["Battery", "battery", "health"],
  "netatmo.wifi_status": ["Wi-Fi", "wifi", "health"],
  "netatmo.webhook_activation": ["Netatmo webhook active", "check", "health"],
  "netatmo.home_event_changed": ["Home mode changed", "home", "other"],
  "netatmo.topology_changed": ["Home changed", "home", "other"],
  "netatmo.display_change": ["Display changed", "home", "other"],
  "netatmo.set_point": ["Temperature set", "home", "other"],
  "netatmo.cancel_set_point": ["Temperature back to plan", "home", "other"],
  "netatmo.schedule": ["Heating plan chosen", "home", "other"],
  "netatmo.device_event": ["Devices changed", "gear", "other"],
  "netatmo.new_user": ["New user", "person", "other"],
  "netatmo.daily_summary": ["Video summary of the day", "camera", "other"],
  "netatmo.alert": ["Alert", "warn", "alarm"],
  "netatmo.new_device": ["New device", "plug", "health"],
  "netatmo.unparsable": ["Unreadable message", "question", "other"],
  "netatmo.unknown": ["Unknown message", "question", "other"],
  "netatmo.consent_needed": ["Netatmo needs your consent again", "warn", "portero"],
  "netatmo.webhook_failed": ["Netatmo cannot reach this house", "warn", "portero"],
  "netatmo.module_unreachable": ["Device out of reach", "cut", "health"],
  "netatmo.module_reachable": ["Device in reach again", "plug", "health"],
  "netatmo.tag_status": ["Door or window", "door", "door"],
  "fibaro.button": ["Gate bell rang", "bell", "bell"],
  "fibaro.relay": ["Gate", "door", "door"],
  "fibaro.day_night": ["Day or night view", "bulb", "health"],
  "fibaro.proximity": ["Somebody at the gate", "person", "motion"],
  "fibaro.certificate_changed": ["The intercom shows another certificate", "warn", "portero"],
  "indigo.device.added": ["New device", "plug", "other"],
  "indigo.device.changed": ["Device changed", "gear", "other"],
  "indigo.device.deleted": ["Device removed", "cut", "other"],
  "indigo.variable.changed": ["Variable changed", "gear", "other"],
  "indigo.log": ["Indigo's log", "dot", "other"],
  "emm.active_alarm": ["Alarm", "siren", "alarm"],
  "emm.alarm_cleared": ["Alarm is over", "check", "alarm"],
  "emm.user_event": ["Page", "bell", "other"],
  "emm.message_read": ["Page was read", "check", "other"],
  "emm.unknown": ["Unknown message", "question", "other"],
  "emm.unparsed": ["Unreadable message", "question", "alarm"],
  "emm.changes_silenced": ["The paging system tells us nothing", "warn", "portero"],
  "vms.ring": ["The block's door rang", "bell", "bell"],
  "vms.call.answered": ["Call answered", "bell", "bell"],
  "vms.call.ended": ["Call ended", "bell", "bell"],
  "vms.call.missed": ["Call missed", "bell", "bell"],
  "vms.intercom.online": ["Intercom is back", "plug", "health"],
  "vms.intercom.offline": ["Intercom is offline", "cut", "health"],
  "vms.intercom.enabled": ["Intercom turned on", "plug", "health"],
  "vms.intercom.disabled": ["Intercom turned off", "cut", "health"],
  "vms.intercom.renamed": ["Intercom renamed", "gear", "health"],
  "vms.intercom.appeared": ["New intercom", "plug", "health"],
  "vms.intercom.gone": ["Intercom removed", "cut", "health"],
  "vms.certificate_changed": ["The VMS shows another certificate", "warn", "portero"],
  "portero.source.silent": ["A system is silent", "warn", "portero"],
  "portero.source.heard": ["A system is heard again", "check", "portero"],
  "portero.command": ["Command by hand", "person", "portero"],
  "portero.journal.failed": ["The journal cannot be written", "warn", "portero"],
  "portero.netatmo.bad_signatures": ["Many bad signatures", "warn", "portero"],
  "portero.rules.rejected": ["Rules rejected", "warn", "portero"],
  "portero.netatmo.ban_risk": ["Netatmo may ban us", "warn", "portero"],
  "portero.door.pressed": ["Somebody pressed to open", "person", "door"],
  "portero.door.denied": ["A press was denied", "warn", "door"],
  "portero.door.commanded": ["Door told to open", "door", "door"],
  "portero.door.confirmed": ["Door opened", "check", "door"],
  "portero.door.unconfirmed": ["Door did not confirm", "warn", "door"],
  "portero.door.refused": ["Door not opened", "warn", "door"],
  "portero.door.unknown": ["Nobody knows whether the door opened", "warn", "door"],
  "portero.door.opened_elsewhere": ["Door opened by others", "door", "door"],
  "portero.ack": ["Somebody has it in hand", "check", "portero"],
  "portero.schedule": ["A rule's time has come", "dot", "portero"],
  "portero.schedule.set": ["Rules wait for their times", "dot", "portero"],
  "portero.timer.due": ["A wait is over", "dot", "portero"],
  "portero.timer.gone": ["Waits ended with their rules", "warn", "portero"],
  "portero.resend": ["Sent again by hand", "person", "portero"],
  "portero.drill": ["Drill", "siren", "portero"],
  "portero.test": ["Test", "bell", "portero"],
};

// A name's field and its id's.
const NAMES = [
  ["person", "person_id"], ["module_name", "module_id"], ["device_name", "device_id"], ["camera_name", "camera_id"],
  ["room_name", "room_id"], ["home_name", "home_id"],
];

/** { words, icon, group } for an event: by its type, else by its last name made readable. */
export function kindOf(event) {
  const known = KINDS[event.type];
  if (known) return { words: known[0], icon: known[1], group: known[2] };
  const group = event.type.startsWith("portero.") ? "portero" : "other";
  const last = event.type.split(".").slice(1).join(" ") || event.type;
  const words = last.replaceAll("_", " ");
  const name = words.charAt(0).toUpperCase() + words.slice(1);
  return { words: name, icon: group === "portero" ? "gear" : "dot", group };
}

/** Whether an alarm says that all is well again; their number for that is 0. */
export const isCalm = (event) => kindOf(event).group === "alarm" && event.data?.sub_type === 0;

/** Where or whom it is about: the most telling names the event carries, in one line. */
export function placeOf(event) {
  const data = event.data ?? {};
  const told = [];
  for (const [name, id] of NAMES) {
    // Where nobody gave a name, the name is the id, and tells a person nothing.
    if (typeof data[name] === "string" && data[name] !== "" && data[name] !== data[id] && !told.includes(data[name])) told.push(data[name]);
  }
  const sub = subTypeOf(data);
  if (sub) told.unshift(sub);
  if (told.length === 0 && event.subject) told.push(event.subject);
  return told.slice(0, 3).join(" · ");
}

/** The sub type in words, where the event has them. */
function subTypeOf(data) {
  const name = data.sub_type_name;
  return typeof name === "string" && name !== "unknown" ? name.replaceAll("_", " ") : "";
}

/** trust → [label, tone, explanation]. */
export const TRUST = {
  unverified: ["not verified", "warn", "Nobody vouches for this message: it came without a checked signature."],
  authentic: ["signed", "plain", "The sender is proven by its signature; the moment is not."],
  fresh: ["live", "plain", "Heard live on our own authenticated connection."],
  human: ["by a person", "plain", "A signed-in person pressed a button."],
};

/** What sets an event apart from a live one. */
export function marksOf(event) {
  const marks = [];
  if (event.test) marks.push(["test", "Made by a test or the demo."]);
  if (event.replayed) marks.push(["replayed", "Run again from the journal."]);
  if (event.caughtup) marks.push(["caught up", "Fetched after a gap, not heard as it happened."]);
  return marks;
}

/** A rule's verdict → [words, tone]. */
export const VERDICTS = {
  fired: ["fired", "good"],
  condition: ["did not apply", "plain"],
  condition_error: ["could not be checked", "bad"],
  cooldown: ["is resting", "plain"],
  stopped: ["was stopped by an earlier rule", "plain"],
  waiting: ["waits", "plain"],
  busy: ["is busy with an earlier event", "plain"],
  queued: ["waits for its turn", "plain"],
  ended: ["its wait has ended", "plain"],
};

/** Why a step of a rule that fired led to nothing. */
export const NOT_SENT = {
  no_phone: "no phone has notifications on",
  template_error: "the text could not be made",
  bad_argument: "the system does not take that",
  not_trusted: "it opens something, and this event must not",
  too_many_hops: "too many events made from events",
  too_many_timers: "too many waits are under way",
};

/** How far a push came: { words, tone, step } with step 0 to 3, or null where it ended early. */
export function pushState(action) {
  if (action.clicked_at) return { words: "opened", tone: "good", step: 3 };
  if (action.shown_at) return { words: "shown", tone: "good", step: 2 };
  switch (action.state) {
    case "held": return { words: heldWords(action.held_until), tone: "plain", step: 0 };
    case "waiting": return { words: "waiting", tone: "plain", step: 0 };
    case "delivered": return { words: "delivered", tone: "good", step: 1 };
    case "expired": return { words: "too late, not sent", tone: "warn", step: null };
    case "refused": return { words: "refused", tone: "bad", step: null };
    case "gone": return { words: "phone no longer subscribed", tone: "bad", step: null };
    case "stopped": return { words: "somebody had it in hand", tone: "plain", step: null };
    case "unknown": return { words: "result unknown", tone: "warn", step: null };
    default: return { words: String(action.state), tone: "plain", step: null };
  }
}

/** Quiet hours hold a push; after them it is under way like any other. */
function heldWords(until) {
  return Date.parse(until) > Date.now() ? `held until ${clock(until).slice(0, 5)}` : "waiting";
}

/** What became of a command to a system: { words, tone }. */
export function commandState(action) {
  if (action.state === "done") return { words: "done", tone: "good" };
  if (action.state === "waiting") return { words: "under way", tone: "plain" };
  return { words: pushState(action).words, tone: pushState(action).tone };
}

/** What became of a door: { words, tone }. */
export function openState(action) {
  if (action.state === "done") return { words: "told to open", tone: "good" };
  return commandState(action);
}

/** The stations of a push, by `step`. */
export const PUSH_STEPS = ["Waiting", "Delivered", "Shown", "Opened"];

// The page is English, so its dates are too; the user's own kind of English if there is one.
const LOCALE = (globalThis.navigator?.languages ?? []).find((one) => one.startsWith("en")) ?? "en-GB";
let zone; // undefined: this device's own
let formats = makeFormats();

function makeFormats() {
  const make = (options) => new Intl.DateTimeFormat(LOCALE, { timeZone: zone, ...options });
  return {
    clock: make({ hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" }),
    day: make({ weekday: "long", day: "numeric", month: "long" }),
    key: make({ year: "numeric", month: "2-digit", day: "2-digit" }),
    full: make({ dateStyle: "medium", timeStyle: "long" }),
  };
}

/** Shows times in the house's zone (an IANA name) instead of this device's. */
export function useZone(name) {
  try {
    new Intl.DateTimeFormat(LOCALE, { timeZone: name });
    zone = name;
  } catch {
    zone = undefined;
  }
  formats = makeFormats();
}

function date(text) {
  const moment = new Date(text);
  return Number.isNaN(moment.getTime()) ? null : moment;
}

/** "14:03:09" */
export const clock = (text) => (date(text) ? formats.clock.format(date(text)) : "");

/** Date and time in full. */
export const moment = (text) => (date(text) ? formats.full.format(date(text)) : "");

/** Equal for two moments of one day. */
export const dayKey = (text) => (date(text) ? formats.key.format(date(text)) : "");

/** "Today", "Yesterday" or "Friday, 20 November". */
export function dayName(text, now = Date.now()) {
  const key = dayKey(text);
  if (key === dayKey(now)) return "Today";
  if (key === dayKey(now - 24 * 3600 * 1000)) return "Yesterday";
  return date(text) ? formats.day.format(date(text)) : "";
}

/** "just now", "5 minutes ago", "3 days ago". */
export function ago(text, now = Date.now()) {
  const then = date(text);
  if (!then) return "never";
  const seconds = Math.max(0, Math.round((now - then.getTime()) / 1000));
  if (seconds < 45) return "just now";
  for (const [size, name] of [[60, "minute"], [3600, "hour"], [86400, "day"]]) {
    const next = { minute: 3600, hour: 86400, day: Infinity }[name];
    const count = Math.round(seconds / size);
    if (seconds < next) return `${count} ${name}${count === 1 ? "" : "s"} ago`;
  }
  return "";
}

/** "1 rule", "2 rules". */
export const count = (number, one, many = `${one}s`) => `${number} ${number === 1 ? one : many}`;

/** A best guess of what to call this device. */
export function deviceName(agent = navigator.userAgent, touch = navigator.maxTouchPoints) {
  const browser = /Edg/.test(agent) ? "Edge" : /Firefox|FxiOS/.test(agent) ? "Firefox"
    : /Chrome|CriOS/.test(agent) ? "Chrome" : /Safari/.test(agent) ? "Safari" : "browser";
  if (/iPhone/.test(agent)) return "iPhone";
  if (/iPad/.test(agent) || (/Macintosh/.test(agent) && touch > 1)) return "iPad";
  if (/Android/.test(agent)) return `Android phone (${browser})`;
  if (/Macintosh/.test(agent)) return `Mac (${browser})`;
  if (/Windows/.test(agent)) return `Windows PC (${browser})`;
  if (/CrOS/.test(agent)) return `Chromebook (${browser})`;
  return `Computer (${browser})`;
}
