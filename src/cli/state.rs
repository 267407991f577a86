//! `portero state [PATH]`: what rules read with `state("…")`, as JSON: variables that rules set, and
//! what systems told about themselves, each with its age and trust.

use clap::Args;
use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::At;
use super::offline::look;
use crate::clock::Clock;
use crate::rules::StateEntry;

#[derive(Debug, Args)]
pub struct StateArgs {
    /// Only this variable, or all below this path
    path: Option<String>,
    #[command(flatten)]
    at: At,
}

/// `portero state`.
pub fn state(args: &StateArgs) -> anyhow::Result<u8> {
    let config = super::config(&args.at.config)?;
    let ledger = look(&config)?;
    let below = |name: &str| match args.path.as_deref().map(|path| path.trim_end_matches('/')) {
        None | Some("") => true,
        Some(path) => {
            name.strip_prefix(path).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        }
    };
    let mut found = Map::new();
    let now = Clock::system().now();
    let set = ledger.memory.states().iter().map(|(path, entry)| (path.as_str(), entry));
    for (path, entry) in ledger.memory.known().iter().chain(set).filter(|(path, _)| below(path)) {
        found.insert(path.to_string(), shown(entry, now));
    }
    // A name leads to what it names.
    if let (true, Some(path)) = (found.is_empty(), args.path.as_deref())
        && let Some(entry) = ledger.memory.state(path)
    {
        found.insert(path.to_string(), shown(entry, now));
    }
    let nothing = found.is_empty() && args.path.is_some();
    println!("{}", serde_json::to_string_pretty(&Value::Object(found))?);
    Ok(if nothing { super::FAILED } else { 0 })
}

fn shown(entry: &StateEntry, now: Timestamp) -> Value {
    json!({
        "value": entry.value,
        "trust": entry.trust,
        "at": entry.at,
        "age_s": now.duration_since(entry.at).as_secs().max(0),
    })
}
