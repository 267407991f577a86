//! Event types that exist. A rule that waits for a type nobody makes is a mistake to be named at
//! load. `netatmo.*` is the vendor's list as normalised; systems that come later bring their own.

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
    // The page's test button was pressed.
    "portero.test",
    // Rule files were saved that cannot be used; the old rules stay in force.
    "portero.rules.rejected",
];

/// Beginnings of types that other systems and hooks make; what follows is theirs.
pub const OPEN: &[&str] = &["hook.", "fibaro.", "indigo.", "emm.", "vms."];

/// Beginnings that only their system makes, never a rule's `emit`.
pub const RESERVED: &[&str] =
    &["netatmo.", "portero.", "hook.", "fibaro.", "indigo.", "emm.", "vms."];

/// Whether events of this type, or with this beginning if it is a prefix, can come from a system.
pub fn is_known(kind: &str, prefix: bool) -> bool {
    let listed = || NETATMO.iter().chain(PORTERO);
    if prefix {
        return OPEN.iter().any(|open| open.starts_with(kind) || kind.starts_with(open))
            || listed().any(|known| known.starts_with(kind));
    }
    OPEN.iter().any(|open| kind.len() > open.len() && kind.starts_with(open))
        || listed().any(|known| *known == kind)
}
