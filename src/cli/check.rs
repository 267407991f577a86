//! `portero check`: everything that is wrong with the config and the rules, at once.

use super::{At, BadConfig, drawn};
use crate::config::Config;
use crate::node::Problems;
use crate::reload;
use crate::rules::RuleSet;

/// `portero check`.
pub fn check(at: &At) -> anyhow::Result<u8> {
    let (config, mut problems) = match Config::load(&at.config) {
        Ok((config, warnings)) => (config, warnings),
        Err(problems) => return Err(BadConfig::from(&problems).into()),
    };
    let rules = reload::read(&config.rules).and_then(|files| RuleSet::load(files, &config.house));
    let count = match rules {
        Ok(rules) => {
            problems.extend(rules.warnings().clone());
            rules.len()
        }
        Err(found) => {
            let mut all = Problems::default();
            all.extend(problems);
            all.extend(found);
            return Err(BadConfig::from(&all).into());
        }
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
