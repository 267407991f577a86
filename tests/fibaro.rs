//! The FIBARO driver against the simulated intercom on a real socket, the session against
//! transcripts, and both against chance.

#[path = "support/link.rs"]
mod link;

#[path = "fibaro/driver.rs"]
mod driver;
#[path = "fibaro/model.rs"]
mod model;
#[path = "fibaro/transcripts.rs"]
mod transcripts;

#[test]
fn every_type_is_documented() {
    let page = std::fs::read_to_string("docs/events.md").unwrap();
    for kind in portero::systems::fibaro::TYPES {
        assert!(page.contains(&format!("| `{kind}` |")), "{kind} is not in docs/events.md");
    }
}

#[test]
fn every_command_and_every_name_is_documented() {
    let page = std::fs::read_to_string("docs/fibaro.md").unwrap();
    for command in portero::systems::fibaro::COMMANDS {
        assert!(page.contains(&format!("`{}`", command.name)), "{}", command.name);
        for arg in command.args {
            assert!(page.contains(&format!("`{}`", arg.name)), "{} {}", command.name, arg.name);
        }
    }
    for name in portero::systems::fibaro::names::NAMES {
        let wire = name.wire.trim_start_matches("com.fibaro.intercom.");
        let known = if name.guess { "guess" } else { "public" };
        let row = format!("| `{}` | `{wire}` | {known} |", name.key);
        assert!(page.contains(&row), "docs/fibaro.md lacks: {row}");
    }
}
