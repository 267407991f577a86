//! `portero explain EVENT`: why rules did or did not fire for one event, from the journal alone.

use std::collections::HashMap;
use std::sync::Arc;

use anyhow::{Context, bail};
use clap::Args;
use jiff::tz::TimeZone;

use super::At;
use crate::action::{Action, ActionId, Outcome, Task};
use crate::alert::{Acked, AlertId};
use crate::disk::{Disk, OsDisk};
use crate::event::Event;
use crate::journal::{read_dir, segments_in};
use crate::record::{Decided, Position, Receipt, Record, Settled, Shown};
use crate::reload;
use crate::rules::{self, RuleSet};

/// The fewest digits of an id that may stand for the whole.
const DIGITS_MIN: usize = 6;

#[derive(Debug, Args)]
pub struct ExplainArgs {
    /// The event's id, or its first digits; "last" is the newest event
    event: String,
    #[command(flatten)]
    at: At,
}

/// All that the journal says about one event.
#[derive(Default)]
struct Story {
    event: Option<Arc<Event>>,
    decided: Option<Arc<Decided>>,
    settled: HashMap<ActionId, Settled>,
    receipts: Vec<Receipt>,
    /// Alerts that it began.
    alerts: Vec<AlertId>,
    /// Who took them in hand.
    acked: Vec<Acked>,
}

/// `portero explain`.
pub fn explain(args: &ExplainArgs) -> anyhow::Result<u8> {
    let config = super::config(&args.at.config)?;
    let wanted = args.event.to_lowercase();
    if wanted != "last" && wanted.len() < DIGITS_MIN {
        bail!("give at least {DIGITS_MIN} digits of the event's id; `portero events` shows ids");
    }
    let folder = config.store.path.join("journal");
    let disk: Arc<dyn Disk> = Arc::new(OsDisk::existing(&folder));
    let story =
        find(&disk, &wanted).with_context(|| format!("cannot read {}", folder.display()))?;
    let Some(event) = &story.event else {
        bail!("no event with this id is in the journal; `portero events` shows what is")
    };
    let rules = reload::read(&config.rules).and_then(|files| RuleSet::load(files, &config.house));
    print(event, &story, rules.as_ref().ok(), &config.house.time_zone);
    Ok(0)
}

/// Looks from the newest segment back; what follows the event stands in the same or later ones.
fn find(disk: &Arc<dyn Disk>, wanted: &str) -> std::io::Result<Story> {
    let segments = segments_in(&**disk)?;
    let mut end = Position(u64::MAX);
    for from in segments.into_iter().rev() {
        let entries = read_dir(disk.clone(), from).until(end).flatten();
        let found = entries
            .filter_map(|entry| match entry.record {
                Record::Seen(event) => Some((entry.position, event)),
                _ => None,
            })
            .filter(|(_, event)| wanted == "last" || event.id.to_string().starts_with(wanted))
            .last();
        if let Some((position, event)) = found {
            return Ok(follow(disk, position, event));
        }
        end = from;
    }
    Ok(Story::default())
}

fn follow(disk: &Arc<dyn Disk>, position: Position, event: Arc<Event>) -> Story {
    let mut story = Story::default();
    for entry in read_dir(disk.clone(), position).flatten() {
        match entry.record {
            Record::Decided(decided) => {
                let begun = decided.alerts.iter().filter(|alert| alert.event == event.id);
                story.alerts.extend(begun.map(|alert| alert.id));
                let acked = decided.acked.iter();
                let ours = acked.filter(|acked| story.alerts.contains(&acked.alert)).cloned();
                story.acked.extend(ours.collect::<Vec<_>>());
                if decided.event == event.id {
                    story.decided = Some(decided);
                }
            }
            Record::Settled(settled) if story.has(&settled.action) => {
                story.settled.insert(settled.action, settled);
            }
            Record::Receipt(receipt) if story.has(&receipt.action) => story.receipts.push(receipt),
            _ => {}
        }
    }
    Story { event: Some(event), ..story }
}

impl Story {
    fn has(&self, action: &ActionId) -> bool {
        let actions = self.decided.iter().flat_map(|decided| &decided.actions);
        actions.into_iter().any(|known| known.id == *action)
    }

    /// What became of one action.
    fn fate(&self, action: &Action, zone: &TimeZone) -> String {
        let id = &action.id;
        let Some(settled) = self.settled.get(id) else {
            return match action.not_before {
                Some(end) => format!("held until {}", end.to_zoned(zone.clone()).strftime("%H:%M")),
                None => "not delivered yet".into(),
            };
        };
        let mut fate = match &settled.outcome {
            Outcome::Delivered => format!("taken by the push service at {}", settled.at),
            Outcome::Done => format!("done at {}", settled.at),
            Outcome::Expired { last } => format!("expired at {} ({last})", settled.at),
            other => format!("{} at {}: {}", other.label(), settled.at, other.why()),
        };
        for receipt in self.receipts.iter().filter(|receipt| receipt.action == *id) {
            let what = match receipt.what {
                Shown::Shown => "shown",
                Shown::Clicked => "tapped",
            };
            fate.push_str(&format!(", {what} at {}", receipt.at));
        }
        fate
    }
}

/// What came from outside may hold characters that command a terminal; those are spelt out.
pub(super) fn printable(text: &str) -> String {
    let spelt = |c: char| match c {
        c if c.is_control() && c != '\n' => c.escape_unicode().collect(),
        c => String::from(c),
    };
    text.chars().map(spelt).collect()
}

fn print(event: &Event, story: &Story, rules: Option<&RuleSet>, zone: &TimeZone) {
    println!("{} from {} at {}", event.kind, event.source, event.received);
    println!("id {}, trust {}", event.id, event.trust);
    if let Some(subject) = &event.subject {
        println!("about {}", printable(subject));
    }
    println!();
    match &story.decided {
        None => println!("The rules have not been asked about it yet."),
        Some(decided) => {
            println!("Decided at {} by rules {}:", decided.at, decided.rules);
            print!("{}", printable(&rules::explain(decided, zone)));
            for action in &decided.actions {
                let to = match &action.task {
                    Task::Push { phone, .. } => phone.to_string(),
                    Task::Command(command) => command.to.clone(),
                    Task::Open(wish) => format!("door {}", wish.door),
                    Task::Emit(_) => continue,
                };
                let fate = printable(&story.fate(action, zone));
                println!("{} of {} to {to}: {fate}", action.step, action.rule);
            }
        }
    }
    for acked in &story.acked {
        let said = format!("{} has it in hand since {} ({})", acked.by, acked.at, acked.via);
        println!("{}", printable(&said));
    }
    if story.alerts.len() > story.acked.len() {
        println!("nobody has it in hand");
    }
    let Some(rules) = rules else {
        println!("\nThe rule files are bad now; `portero check` lists why.");
        return;
    };
    let near = rules.near_misses(event);
    if !near.is_empty() {
        println!("\nRules for this type that did not look at it, by the files as they are now:");
        near.iter().for_each(|(rule, why)| println!("  - {rule}: {why}"));
    }
    if story.decided.as_ref().is_some_and(|decided| decided.rules != rules.version()) {
        println!("\nThe rule files have changed since.");
    }
}
