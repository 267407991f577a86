//! `portero state [PATH]`: state variables as rules see them, as JSON.

use clap::Args;
use serde_json::{Map, Value};

use super::At;
use super::offline::look;

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
    for (path, entry) in ledger.memory.states() {
        if below(path) {
            found.insert(path.clone(), serde_json::to_value(entry)?);
        }
    }
    let nothing = found.is_empty() && args.path.is_some();
    println!("{}", serde_json::to_string_pretty(&Value::Object(found))?);
    Ok(if nothing { super::FAILED } else { 0 })
}
