//! `portero test`: runs the tests that stand in rule files, on the engine that production runs.

use std::path::PathBuf;

use clap::Args;

use super::{At, BadConfig};
use crate::clock::Clock;
use crate::event::{Event, Trust};
use crate::reload;
use crate::rules::{House, RuleSet, selftest};
use crate::systems::netatmo;
use crate::systems::netatmo::session::Session;

#[derive(Debug, Args)]
pub struct TestArgs {
    /// The folder of rule files; the config's if not given
    rules: Option<PathBuf>,
    /// Where the tests' fixtures are
    #[arg(long, default_value = "fixtures")]
    fixtures: PathBuf,
    #[command(flatten)]
    at: At,
}

/// `portero test`.
pub fn test(args: &TestArgs) -> anyhow::Result<u8> {
    let config = super::config(&args.at.config)?;
    let folder = args.rules.clone().unwrap_or_else(|| config.rules.clone());
    let rules = load(&folder, &config.house).map_err(|problems| BadConfig::from(&problems))?;
    let report = selftest::run(&rules, &|name| fixture(&args.fixtures, name));
    println!("{report}");
    Ok(if report.is_ok() { 0 } else { super::FAILED })
}

fn load(folder: &std::path::Path, house: &House) -> Result<RuleSet, crate::node::Problems> {
    reload::read(folder).and_then(|files| RuleSet::load(files, house))
}

/// The events that a webhook with this body would bring.
fn fixture(folder: &std::path::Path, name: &str) -> Result<Vec<Event>, String> {
    let path = folder.join(name);
    let body = std::fs::read(&path).map_err(|error| format!("{}: {error}", path.display()))?;
    match name.split('/').next() {
        Some("netatmo") => {
            let session = Session::new("home", &netatmo::Config::default());
            let heard = session.webhook(&body, Trust::Authentic, Clock::system().now());
            Ok(heard.into_iter().map(|heard| heard.event).collect())
        }
        _ => Err(format!("{name}: fixtures are in netatmo/, the system that they come from")),
    }
}
