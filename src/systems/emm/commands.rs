//! The table of everything an EMM can be told: every call of the vendor's document. No behaviour.

use crate::command::{Arg, Kind, Repeat, Spec};

/// The command that the driver does itself: take the EMM's new certificate.
pub(super) const TRUST_CERTIFICATE: &str = "trust_certificate";

/// The largest number of the vendor's `int`.
const ID_MAX: i64 = i32::MAX as i64;

/// Entries of one list in one answer; the server's own limit is not known.
const LIMIT_MAX: i64 = 1000;

const TONES: &[&str] = &[
    "A", "B", "C", "D", "E", "F", "G", "H", "I", "J", "K", "L", "M", "N", "O", "P", "Q", "R", "S",
    "T", "U", "V", "W", "X", "Y", "Z",
];

/// The vendor's columns, which are pieces of SQL: nothing else may be sent.
const INBOX_ORDERS: &[&str] = &[
    "MQ.Priority",
    "MQ.Priority DESC",
    "MQ.QueueTM",
    "MQ.QueueTM DESC",
    "I.Status",
    "I.Status DESC",
    "MQ.ThreadID",
    "MQ.ThreadID DESC",
    "MQ.FromUserID",
    "MQ.FromUserID DESC",
    "MQ.Msg",
    "MQ.Msg DESC",
];

const fn arg(name: &'static str, kind: Kind, about: &'static str) -> Arg {
    Arg { name, kind, required: false, about }
}

const fn needed(name: &'static str, kind: Kind, about: &'static str) -> Arg {
    Arg { name, kind, required: true, about }
}

const fn id(about: &'static str) -> Arg {
    needed("id", Kind::Int(0, ID_MAX), about)
}

const OFFSET: Arg = arg("offset", Kind::Int(0, ID_MAX), "how many to skip; 0 if not given");
const LIMIT: Arg = arg("limit", Kind::Int(1, LIMIT_MAX), "how many at most; 100 if not given");
const VALUE: Arg = arg("value", Kind::Text, "what the field must be; `*` stands for anything");
const FIELD: Arg = arg(
    "field",
    Kind::Word(&["name", "gateway"]),
    "what `value` is compared with; the name if not given",
);
const EVENT: Arg = id("the event's number in the inbox: `data.id` of `emm.user_event`");
const ALARM: Arg = id("the active alarm's number: `data.id` of `emm.active_alarm`");
const CONTACT: Arg = id("the contact's number");

const fn spec(
    name: &'static str,
    about: &'static str,
    args: &'static [Arg],
    repeat: Repeat,
) -> Spec {
    Spec { name, about, args, repeat, opens: false }
}

/// What an EMM can be told.
pub static COMMANDS: &[Spec] = &[
    spec(
        "send",
        "Sends a message to people or groups",
        &[
            needed("text", Kind::Text, "the message"),
            arg("to", Kind::Texts, "recipients by name or number; needed unless it is a reply"),
            arg("priority", Kind::Flag, "whether it is urgent; not if not given"),
            arg("tone", Kind::Word(TONES), "the pager's tone, A to Z"),
            arg("reply_to", Kind::Int(1, ID_MAX), "the message answered: `data.message_id`"),
        ],
        Repeat::Better,
    ),
    spec(
        "inbox",
        "Lists the messages of Portero's user",
        &[
            OFFSET,
            LIMIT,
            FIELD,
            VALUE,
            arg(
                "orderby",
                Kind::Word(INBOX_ORDERS),
                "the vendor's column; newest first if not given",
            ),
        ],
        Repeat::Harmless,
    ),
    spec("event", "One message of the inbox with its parts", &[EVENT], Repeat::Harmless),
    spec("read", "Marks a message as read", &[EVENT], Repeat::Harmless),
    spec("accept", "Accepts a message", &[EVENT], Repeat::Harmless),
    spec("cancel", "Cancels the alarm behind a message", &[EVENT], Repeat::Harmless),
    spec("escalate", "Escalates the alarm behind a message to the next", &[EVENT], Repeat::Never),
    spec("delete", "Deletes a message from the inbox", &[EVENT], Repeat::Harmless),
    spec(
        "active_alarms",
        "Lists the active alarms",
        &[OFFSET, LIMIT, FIELD, VALUE],
        Repeat::Harmless,
    ),
    spec("alarm", "One active alarm", &[ALARM], Repeat::Harmless),
    spec("cancel_alarm", "Cancels an active alarm", &[ALARM], Repeat::Harmless),
    spec(
        "recipients",
        "Lists whom messages can be sent to",
        &[
            OFFSET,
            LIMIT,
            arg(
                "field",
                Kind::Word(&["name", "type", "local_id"]),
                "what `value` is compared with; the name if not given",
            ),
            VALUE,
            arg("orderby", Kind::Word(&["name"]), "by name"),
        ],
        Repeat::Harmless,
    ),
    spec("recipient", "One recipient", &[id("the recipient's number")], Repeat::Harmless),
    spec("contacts", "Finds contacts", &[OFFSET, LIMIT, FIELD, VALUE], Repeat::Harmless),
    spec("contact", "One contact with all its fields", &[CONTACT], Repeat::Harmless),
    spec(
        "contact.edit",
        "Changes a contact",
        &[
            CONTACT,
            needed("fields", Kind::Json, "an object: the fields to change and their values"),
        ],
        Repeat::Harmless,
    ),
    spec("contact.delete", "Deletes a contact that is not in use", &[CONTACT], Repeat::Harmless),
    spec("users", "Lists the users", &[OFFSET, LIMIT], Repeat::Harmless),
    spec(
        "user",
        "A user's properties",
        &[arg("id", Kind::Int(0, ID_MAX), "the user's number; Portero's own user if not given")],
        Repeat::Harmless,
    ),
    spec(
        "user.set",
        "Sets a user's properties",
        &[
            arg("id", Kind::Int(0, ID_MAX), "the user's number; Portero's own user if not given"),
            needed("settings", Kind::Json, "an object: the properties and their values"),
        ],
        Repeat::Harmless,
    ),
    spec(
        "password",
        "Changes the password of Portero's user; the config must then be changed too",
        &[needed("password", Kind::Secret, "the new password")],
        Repeat::Never,
    ),
    spec("settings", "The server's settings: its Web Push key", &[], Repeat::Harmless),
    spec("webpush", "Whether Portero's user has a Web Push subscription", &[], Repeat::Harmless),
    spec(
        "webpush.subscribe",
        "Gives Portero's user a Web Push subscription; `/changes` is silent from then on",
        &[
            needed("endpoint", Kind::Text, "the push service's address of the subscription"),
            needed("p256dh", Kind::Text, "its public key"),
            needed("auth", Kind::Secret, "its secret"),
        ],
        Repeat::Harmless,
    ),
    spec(
        "webpush.unsubscribe",
        "Takes the Web Push subscription of Portero's user away",
        &[],
        Repeat::Harmless,
    ),
    // Who takes a stranger's certificate tells a stranger the password.
    Spec {
        name: TRUST_CERTIFICATE,
        about: "Takes the new certificate that the EMM shows since it was refused",
        args: &[needed(
            "fingerprint",
            Kind::Text,
            "its SHA-256, as `emm.certificate_changed` told it",
        )],
        repeat: Repeat::Never,
        opens: true,
    },
];
