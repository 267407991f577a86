//! What a VMS can be told. The table only; `session/order.rs` says what each becomes.

use crate::command::{Arg, Kind, Repeat, Spec};

/// The most items of one page: what Laravel's own lists take without complaint.
const PER_PAGE_MAX: i64 = 100;
/// No account has more pages.
const PAGE_MAX: i64 = 100_000;

const INTERCOM: Arg =
    Arg { name: "intercom", kind: Kind::Text, required: true, about: "its id or its title" };
const PAGE: Arg = Arg {
    name: "page",
    kind: Kind::Int(1, PAGE_MAX),
    required: false,
    about: "which page of the list, the first if not given",
};

/// The command that the driver does itself: take the VMS's new certificate.
pub const TRUST_CERTIFICATE: &str = "trust_certificate";

/// Every command of a VMS.
pub static COMMANDS: &[Spec] = &[
    Spec {
        name: "open_door",
        about: "Opens the door of an intercom, if apps may open it",
        args: &[INTERCOM],
        repeat: Repeat::Never,
        opens: true,
    },
    Spec {
        name: "rename",
        about: "Gives an intercom another title",
        args: &[
            INTERCOM,
            Arg { name: "title", kind: Kind::Text, required: true, about: "the new title" },
        ],
        repeat: Repeat::Harmless,
        opens: false,
    },
    Spec {
        name: "enable",
        about: "Lets an intercom ring, or not",
        args: &[
            INTERCOM,
            Arg {
                name: "enabled",
                kind: Kind::Flag,
                required: true,
                about: "true to let it ring, false to keep it quiet",
            },
        ],
        repeat: Repeat::Harmless,
        opens: false,
    },
    Spec {
        name: "timetable",
        about: "Says when an intercom may ring",
        args: &[
            INTERCOM,
            Arg {
                name: "timetable",
                kind: Kind::Json,
                required: true,
                about: "an object with `days` or `intervals`, as the VMS prints it",
            },
        ],
        repeat: Repeat::Harmless,
        opens: false,
    },
    Spec {
        name: "intercoms",
        about: "Lists the account's intercoms as the VMS has them now",
        args: &[PAGE],
        repeat: Repeat::Harmless,
        opens: false,
    },
    Spec {
        name: "calls",
        about: "Lists calls, the newest first",
        args: &[
            PAGE,
            Arg {
                name: "per_page",
                kind: Kind::Int(1, PER_PAGE_MAX),
                required: false,
                about: "how many on a page, 25 if not given",
            },
            Arg {
                name: "types",
                kind: Kind::Texts,
                required: false,
                about: "only these: missed_intercom_call, answered_intercom_call",
            },
            Arg { required: false, ..INTERCOM },
        ],
        repeat: Repeat::Harmless,
        opens: false,
    },
    Spec {
        name: "call",
        about: "Shows how far one call has come",
        args: &[Arg { name: "id", kind: Kind::Text, required: true, about: "its id" }],
        repeat: Repeat::Harmless,
        opens: false,
    },
    Spec {
        name: "events",
        about: "Lists what happened at doors, as the VMS tells it",
        args: &[PAGE],
        repeat: Repeat::Harmless,
        opens: false,
    },
    // Who takes a stranger's certificate asks a stranger to open doors ever after.
    Spec {
        name: TRUST_CERTIFICATE,
        about: "Takes the new certificate that the VMS shows since it was refused",
        args: &[Arg {
            name: "fingerprint",
            kind: Kind::Text,
            required: true,
            about: "its SHA-256, as `vms.certificate_changed` told it",
        }],
        repeat: Repeat::Never,
        opens: true,
    },
];
