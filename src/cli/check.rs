//! `portero check`: everything that is wrong with the config and the rules, at once.

use super::{At, BadConfig, drawn};
use crate::config::Config;
use crate::reload;
use crate::rules::RuleSet;

/// `portero check`. The rules are checked with what can be understood of a bad config.
pub fn check(at: &At) -> anyhow::Result<u8> {
    let (config, mut problems) = Config::examine(&at.config);
    let mut count = 0;
    if let Some(config) = &config {
        let files = reload::read(&config.rules);
        match files.and_then(|files| RuleSet::load(files, &config.house)) {
            Ok(rules) => {
                problems.extend(rules.warnings().clone());
                count = rules.len();
            }
            Err(found) => problems.extend(found),
        }
    }
    let Some(config) = config.filter(|_| !problems.has_errors()) else {
        return Err(BadConfig::from(&problems).into());
    };
    if !problems.is_empty() {
        eprint!("{}", drawn(&problems));
    }
    println!(
        "{} and {} are fine: {count} rules, {} people, {} sources",
        at.config.display(),
        config.rules.display(),
        config.house.people.len(),
        config.house.sources.len(),
    );
    Ok(0)
}
