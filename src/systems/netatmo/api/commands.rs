//! What Netatmo's cloud can be told. The table only; `session/orders.rs` says what each becomes.

use crate::command::{Arg, Kind, Repeat, Spec};

/// The most events of one list: what Netatmo gives.
const EVENTS_MAX: i64 = super::gap::PAGE_SIZE as i64;

const MODULE: Arg =
    Arg { name: "module", kind: Kind::Text, required: true, about: "its id or its name" };
const BRIDGE: Arg = Arg {
    name: "bridge",
    kind: Kind::Text,
    required: false,
    about: "the id of its bridge, found by itself if not given",
};
const HOME: Arg = Arg {
    name: "home",
    kind: Kind::Text,
    required: false,
    about: "its id or its name; needed where there are several",
};

const fn set(name: &'static str, about: &'static str, args: &'static [Arg]) -> Spec {
    Spec { name, about, args, repeat: Repeat::Harmless, opens: false }
}

/// Every command of Netatmo's cloud.
pub static COMMANDS: &[Spec] = &[
    set(
        "floodlight",
        "Sets the floodlight of an outdoor camera",
        &[
            MODULE,
            Arg {
                name: "mode",
                kind: Kind::Word(&["on", "off", "auto"]),
                required: true,
                about: "on, off, or auto: when it sees something",
            },
        ],
    ),
    set("staircase_light", "Switches on a staircase light for its time", &[MODULE, BRIDGE]),
    set(
        "persons_home",
        "Says that persons are at home",
        &[
            Arg {
                name: "persons",
                kind: Kind::Texts,
                required: true,
                about: "their ids or names, one or a list",
            },
            HOME,
        ],
    ),
    set(
        "persons_away",
        "Says that a person has left, or everybody",
        &[
            Arg {
                name: "person",
                kind: Kind::Text,
                required: false,
                about: "their id or name; everybody if not given",
            },
            HOME,
        ],
    ),
    set(
        "monitoring",
        "Switches a camera on or off",
        &[
            MODULE,
            Arg { name: "on", kind: Kind::Flag, required: true, about: "true to let it watch" },
        ],
    ),
    Spec {
        name: "unlock",
        about: "Opens the lock of a door station",
        args: &[MODULE, BRIDGE],
        repeat: Repeat::Never,
        opens: true,
    },
    set("homes", "Lists homes, rooms, modules and persons as Netatmo has them now", &[]),
    set("status", "Tells the state of a home's modules and persons now", &[HOME]),
    set(
        "events",
        "Lists a home's events, the newest first",
        &[
            HOME,
            Arg {
                name: "size",
                kind: Kind::Int(1, EVENTS_MAX),
                required: false,
                about: "how many, 30 if not given",
            },
        ],
    ),
];
