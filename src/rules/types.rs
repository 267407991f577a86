//! Event types that exist, one list for each system, a line for each type. A rule that waits for a
//! type nobody makes is a mistake to be named at load. `docs/events.md` describes them.

/// What Netatmo's webhooks become; `tests/` holds it against the normaliser.
pub const NETATMO: &[&str] = &[
    "netatmo.ring",
    "netatmo.accepted_call",
    "netatmo.missed_call",
    "netatmo.call_ended",
    "netatmo.rtc",
    "netatmo.person",
    "netatmo.person_away",
    "netatmo.person_home",
    "netatmo.movement",
    "netatmo.human",
    "netatmo.animal",
    "netatmo.vehicle",
    "netatmo.outdoor",
    "netatmo.cluster",
    "netatmo.daily_summary",
    "netatmo.end_recording",
    "netatmo.smoke",
    "netatmo.co_detected",
    "netatmo.siren_sounding",
    "netatmo.siren_tampered",
    "netatmo.tampered",
    "netatmo.alarm_started",
    "netatmo.alert",
    "netatmo.tag_big_move",
    "netatmo.tag_small_move",
    "netatmo.tag_uninstalled",
    "netatmo.tag_open",
    "netatmo.hush",
    "netatmo.detection_chamber_status",
    "netatmo.sound_test",
    "netatmo.wifi_status",
    "netatmo.battery_status",
    "netatmo.connection",
    "netatmo.disconnection",
    "netatmo.on",
    "netatmo.off",
    "netatmo.boot",
    "netatmo.sd",
    "netatmo.alim",
    "netatmo.light_mode",
    "netatmo.ftp",
    "netatmo.new_module",
    "netatmo.module_connect",
    "netatmo.module_disconnect",
    "netatmo.module_low_battery",
    "netatmo.module_end_update",
    "netatmo.new_device",
    "netatmo.new_user",
    "netatmo.topology_changed",
    "netatmo.device_event",
    "netatmo.home_event_changed",
    "netatmo.display_change",
    "netatmo.set_point",
    "netatmo.cancel_set_point",
    "netatmo.schedule",
    "netatmo.webhook_activation",
    "netatmo.unknown",
    "netatmo.unparsable",
];

/// What Portero notices itself.
pub const PORTERO: &[&str] = &[
    // Netatmo is about to stop calling us: our answers were late or wrong.
    "portero.netatmo.ban_risk",
    // Signatures were bad many times in a row: a wrong secret, or a forger.
    "portero.netatmo.bad_signatures",
    // The journal cannot be written; events are routed from memory.
    "portero.journal.failed",
    // A source that should be heard from was not, and then was again.
    "portero.source.silent",
    "portero.source.heard",
    // A command from the API or the command line, and how it went.
    "portero.command",
    // A door, from the press or the rule to its own signal; see docs/doors.md.
    "portero.door.pressed",
    "portero.door.denied",
    "portero.door.commanded",
    "portero.door.confirmed",
    "portero.door.unconfirmed",
    "portero.door.refused",
    "portero.door.unknown",
    "portero.door.opened_elsewhere",
    // The page's test button was pressed.
    "portero.test",
    // A wait of a rule is over; the rule goes on by itself.
    "portero.timer.due",
    // A rule's time trigger: the rule begins by itself.
    "portero.schedule",
    // Time triggers of rules that came into force were set.
    "portero.schedule.set",
    // Rules that waited were removed or changed.
    "portero.timer.gone",
    // Somebody has an alert in hand.
    "portero.ack",
    // Somebody sends again what did not reach anybody.
    "portero.resend",
    // A marked test goes the way of an alarm to phones.
    "portero.drill",
    // Rule files were saved that cannot be used; the old rules stay in force.
    "portero.rules.rejected",
];

/// What Netatmo's cloud API tells beside the webhooks.
pub const NETATMO_API: &[&str] = &[
    // A person must let Portero in again; `data.url` leads there.
    "netatmo.consent_needed",
    // Netatmo does not call the webhook although it is registered.
    "netatmo.webhook_failed",
    "netatmo.module_unreachable",
    "netatmo.module_reachable",
    "netatmo.tag_status",
];

/// Of these, what Portero says of its own connection with Netatmo.
pub const NETATMO_OWN: &[&str] = &["netatmo.consent_needed", "netatmo.webhook_failed"];

/// What a FIBARO Intercom's signals become.
pub const FIBARO: &[&str] = &[
    "fibaro.relay",
    "fibaro.button",
    "fibaro.day_night",
    "fibaro.proximity",
    // Another certificate than the remembered one: the connection is refused until a person looks.
    "fibaro.certificate_changed",
];

/// What an Indigo server's feeds become.
pub const INDIGO: &[&str] = &[
    "indigo.device.added",
    "indigo.device.changed",
    "indigo.device.deleted",
    "indigo.variable.added",
    "indigo.variable.changed",
    "indigo.variable.deleted",
    "indigo.action.added",
    "indigo.action.changed",
    "indigo.action.deleted",
    "indigo.schedule.added",
    "indigo.schedule.changed",
    "indigo.schedule.deleted",
    "indigo.trigger.added",
    "indigo.trigger.changed",
    "indigo.trigger.deleted",
    "indigo.page.added",
    "indigo.page.changed",
    "indigo.page.deleted",
    "indigo.log",
];

/// What an EMM's changes become.
pub const EMM: &[&str] = &[
    "emm.message_read",
    "emm.user_event",
    "emm.active_alarm",
    "emm.alarm_cleared",
    "emm.unknown",
    // Kept as it came: somebody must read it.
    "emm.unparsed",
    // A subscription of the same user takes its changes away.
    "emm.changes_silenced",
    "emm.certificate_changed",
];

/// What a VMS tells of its intercoms and calls.
pub const VMS: &[&str] = &[
    "vms.intercom.online",
    "vms.intercom.offline",
    "vms.intercom.enabled",
    "vms.intercom.disabled",
    "vms.intercom.renamed",
    "vms.intercom.appeared",
    "vms.intercom.gone",
    "vms.ring",
    "vms.call.answered",
    "vms.call.missed",
    "vms.call.ended",
    "vms.certificate_changed",
];

/// Beginnings of types that others make; what follows is theirs.
pub const OPEN: &[&str] = &["hook."];

/// Beginnings that only their system makes, never a rule's `emit`.
pub const RESERVED: &[&str] =
    &["netatmo.", "portero.", "hook.", "fibaro.", "indigo.", "emm.", "vms."];

/// Every type that is known beforehand.
pub fn all() -> impl Iterator<Item = &'static str> {
    let lists = [NETATMO, NETATMO_API, FIBARO, INDIGO, EMM, VMS, PORTERO];
    lists.into_iter().flatten().copied()
}

/// Whether events of this type, or with this beginning if it is a prefix, can come from a system.
pub fn is_known(kind: &str, prefix: bool) -> bool {
    if prefix {
        return OPEN.iter().any(|open| open.starts_with(kind) || kind.starts_with(open))
            || all().any(|known| known.starts_with(kind));
    }
    OPEN.iter().any(|open| kind.len() > open.len() && kind.starts_with(open))
        || all().any(|known| known == kind)
}

/// The system whose own state a path names: nobody else sets it.
pub fn owner(path: &str) -> Option<&'static str> {
    let (first, _) = path.split_once('/')?;
    ["fibaro", "indigo", "emm", "vms", "netatmo", "webhook"]
        .into_iter()
        .find(|system| *system == first)
}
