//! `portero replay`: what other rules would have made of the journal's events. It reads the files
//! themselves, beside a running server or without one, and has nothing by which it could act.

use std::sync::Arc;

use anyhow::{Context, anyhow};
use clap::Args;
use jiff::civil::{Date, DateTime};
use jiff::tz::TimeZone;
use jiff::{Span, Timestamp};
use serde::Serialize;
use serde_json::json;

use super::explain::printable;
use super::{At, BadConfig, FAILED};
use crate::clock::Clock;
use crate::disk::{Disk, OsDisk};
use crate::journal::{read_dir, segments_in};
use crate::ledger::Ledger;
use crate::record::{Checkpoint, Position, Record};
use crate::reload;
use crate::replay::{Coverage, Difference, Differences, Replay};
use crate::rules::RuleSet;

/// What `portero replay` takes.
#[derive(Debug, Args)]
pub struct ReplayArgs {
    /// The folder of rule files to try
    #[arg(long)]
    rules: std::path::PathBuf,
    /// From when on: 7d, 12h, a day or a moment
    #[arg(long, default_value = "7d")]
    since: String,
    /// Up to when: as --since
    #[arg(long)]
    until: Option<String>,
    /// Everything as one JSON value
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    at: At,
}

/// Where the replay begins and what was true there.
struct Start {
    position: Position,
    ledger: Ledger,
    before: Vec<String>,
}

/// What could not be had.
#[derive(Debug, Default, Serialize)]
struct Missing {
    /// Damaged places that were passed over.
    damaged: u64,
    /// In words.
    notes: Vec<String>,
}

/// `portero replay`: 0 if nothing differs, 1 if something does.
pub fn replay(args: &ReplayArgs) -> anyhow::Result<u8> {
    let config = super::config(&args.at.config)?;
    let rules = reload::read(&args.rules).and_then(|files| RuleSet::load(files, &config.house));
    let rules = rules.map_err(|problems| BadConfig::from(&problems))?;
    let (now, zone) = (Clock::system().now(), &config.house.time_zone);
    let since = moment(&args.since, now, zone)?;
    let until = args.until.as_deref().map(|text| moment(text, now, zone)).transpose()?;
    let folder = config.store.path.join("journal");
    let disk: Arc<dyn Disk> = Arc::new(OsDisk::existing(&folder));
    let cannot = || format!("cannot read {}", folder.display());
    let segments = segments_in(&*disk).with_context(cannot)?;
    let start = find(&disk, &segments, since);
    let mut missing = Missing { damaged: 0, notes: start.before };
    let mut replay = Replay::new(&rules, start.ledger, start.position, until.unwrap_or(now));
    for entry in read_dir(disk, start.position) {
        match entry {
            Ok(entry) => replay.record(entry.position, entry.record),
            Err(_) => missing.damaged += 1,
        }
        if replay.is_over() {
            break;
        }
    }
    let (coverage, differences) = replay.finish();
    if args.json {
        let all = json!({
            "coverage": coverage, "missing": missing, "since": since, "until": until,
            "rules": differences.rules, "differences": differences.events,
            "count": differences.count,
        });
        println!("{all}");
    } else {
        print(since, &coverage, &missing, &differences);
    }
    Ok(if differences.is_empty() { 0 } else { FAILED })
}

/// `7d` before now, a day's beginning in the house's time zone, or a moment.
fn moment(text: &str, now: Timestamp, zone: &TimeZone) -> anyhow::Result<Timestamp> {
    if let Ok(moment) = text.parse::<Timestamp>() {
        return Ok(moment);
    }
    let local = text.parse::<DateTime>();
    let local =
        local.or_else(|_| text.parse::<Date>().map(|day| day.to_datetime(Default::default())));
    if let Ok(local) = local {
        return Ok(local.to_zoned(zone.clone())?.timestamp());
    }
    let wrong = || anyhow!("`{text}` is neither a span such as 7d nor a day or moment");
    let span: Span = text.parse().map_err(|_| wrong())?;
    let then = now.to_zoned(zone.clone()).checked_sub(span.abs()).map_err(|_| wrong())?;
    Ok(then.timestamp())
}

/// The first event since then, and the newest checkpoint that knows nothing later.
fn find(disk: &Arc<dyn Disk>, segments: &[Position], since: Timestamp) -> Start {
    let first = segments.first().copied().unwrap_or_default();
    let mut checkpoints: Vec<Checkpoint> = Vec::new();
    let (mut position, mut end) = (None, first);
    for entry in read_dir(disk.clone(), first).flatten() {
        end = entry.next;
        match entry.record {
            Record::Seen(event) if position.is_none() && event.received >= since => {
                position = Some(entry.position);
            }
            Record::Checkpoint(checkpoint) => {
                // One that covers the start is of use only if there is none before it.
                let start = position.unwrap_or(Position(u64::MAX));
                if checkpoint.as_of <= start {
                    checkpoints.clear();
                }
                if checkpoints.is_empty() {
                    checkpoints.push(checkpoint);
                }
            }
            _ => {}
        }
    }
    let position = position.unwrap_or(end);
    seeded(disk, checkpoints.pop(), first, position)
}

fn seeded(
    disk: &Arc<dyn Disk>,
    checkpoint: Option<Checkpoint>,
    first: Position,
    position: Position,
) -> Start {
    let mut before = Vec::new();
    if first.0 > 0 {
        before
            .push(format!("records before position {first} are forgotten and cannot be replayed"));
    }
    let known = checkpoint.as_ref().and_then(|c| Some((c.as_of, Ledger::from_checkpoint(c).ok()?)));
    let (from, mut ledger) = match known {
        Some((as_of, ledger)) if as_of <= position => (as_of, ledger),
        _ if first.0 == 0 => (first, Ledger::default()),
        // Phones change seldom: those of soon after are a better guess than none.
        Some((_, later)) => {
            before.push("what rules and systems knew before is forgotten: state, waits and cooldowns begin empty, phones are those of the first checkpoint".into());
            let mut ledger = Ledger::default();
            for (id, phone) in later.phones {
                if phone.subscription.is_some() {
                    ledger.memory.set_phone(&phone.person, id.clone());
                }
                ledger.phones.insert(id, phone);
            }
            (first, ledger)
        }
        None => {
            before.push("what was known before is forgotten: state, waits, cooldowns and phones begin empty".into());
            (first, Ledger::default())
        }
    };
    for entry in read_dir(disk.clone(), from).until(position).flatten() {
        ledger.apply(&entry.record);
    }
    Start { position, ledger, before }
}

fn print(since: Timestamp, coverage: &Coverage, missing: &Missing, differences: &Differences) {
    let span = match (coverage.first, coverage.last) {
        (Some(first), Some(last)) => format!("{first} to {last}"),
        _ => format!("none since {since}"),
    };
    println!(
        "Coverage: {} events ({span}), {} of them decided then",
        coverage.events, coverage.decided
    );
    println!("  {} events that rules or waits had made were made anew", coverage.made_by_rules);
    let undecided = coverage.events - coverage.decided;
    for (count, what) in [
        (undecided, "events had no decision to compare with"),
        (missing.damaged, "damaged places in the journal were passed over"),
        (
            coverage.assumed_delivered,
            "actions are new: taken to go through at once, shown by no phone",
        ),
        (coverage.cut_off, "events that followed from others without end were cut off"),
    ] {
        if count > 0 {
            println!("  {count} {what}");
        }
    }
    missing.notes.iter().for_each(|note| println!("  {note}"));
    println!();
    if differences.is_empty() {
        println!("No difference.");
        return;
    }
    for (rule, fired) in differences.rules.iter().filter(|(_, fired)| fired.before != fired.now) {
        println!(
            "rule {}: fired {} times before, {} times now",
            printable(rule),
            fired.before,
            fired.now
        );
    }
    println!("Events decided otherwise: {}", differences.count);
    differences.events.iter().for_each(print_event);
    let hidden = differences.count - differences.events.len() as u64;
    if hidden > 0 {
        println!("and {hidden} more");
    }
}

fn print_event(difference: &Difference) {
    let Difference { at, kind, id, rules, gained, lost } = difference;
    let head = format!("{at} {kind} {id}");
    if rules.is_empty() {
        println!("{}: the same rules do something else", printable(&head));
    }
    for change in rules {
        let why = if change.why.is_empty() { String::new() } else { format!(" ({})", change.why) };
        let line =
            format!("{head}: rule {}: {} -> {}{why}", change.rule, change.before, change.now);
        println!("{}", printable(&line));
    }
    lost.iter().for_each(|effect| println!("    - {}", printable(effect)));
    gained.iter().for_each(|effect| println!("    + {}", printable(effect)));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::action::PhoneId;
    use crate::event::{Event, EventId, Marks, Trust};
    use crate::journal::{self, Journal};
    use crate::record::{Decided, PhoneChange, StateSet, Subscription};

    fn at(minute: i64) -> Timestamp {
        let start: Timestamp = "2026-11-20T10:00:00Z".parse().unwrap();
        start + jiff::SignedDuration::from_mins(minute)
    }

    fn event(minute: i64) -> Event {
        Event {
            id: EventId::derive([minute.to_string().as_str()]),
            source: "netatmo/home".into(),
            kind: "netatmo.ring".into(),
            subject: None,
            time: None,
            received: at(minute),
            trust: Trust::Authentic,
            marks: Marks::default(),
            hops: 0,
            data: Default::default(),
            raw: Vec::new(),
        }
    }

    fn phone() -> Vec<Record> {
        let id = PhoneId("p1".into());
        let (endpoint, p256dh, auth, vapid) = Default::default();
        let subscription = Subscription { endpoint, p256dh, auth, vapid };
        let added = PhoneChange::Added {
            id: id.clone(),
            person: "ana".into(),
            name: String::new(),
            session: None,
            code: None,
            at: at(0),
        };
        let subscribed = PhoneChange::Subscribed { id, subscription, at: at(0) };
        vec![Record::Phone(added), Record::Phone(subscribed)]
    }

    /// A phone, events in the minutes 1, 2 and 3 that count themselves in the state, and after the
    /// second a checkpoint: each in a segment of its own.
    async fn write(disk: Arc<dyn Disk>) {
        let config = journal::Config { segment_bytes: 1, ..journal::Config::default() };
        let opened = Journal::open(disk, config, Clock::manual(at(0))).await.unwrap();
        let (journal, mut ledger) = (opened.0, Ledger::default());
        let mut records = phone();
        for minute in 1..=3 {
            records.iter().for_each(|record| ledger.apply(record));
            journal.append(records).await.unwrap();
            let seen = Record::Seen(event(minute).into());
            let seen = journal.append(vec![seen]).await.unwrap()[0];
            let (path, trust) = ("house/count".to_string(), Trust::Authentic);
            let sets = vec![StateSet { path, value: minute.into(), trust }];
            let event = event(minute).id;
            let decided = Decided { event, seen, at: at(minute), sets, ..Decided::default() };
            records = vec![Record::Decided(decided.into())];
            if minute == 2 {
                records.iter().for_each(|record| ledger.apply(record));
                journal.append(records).await.unwrap();
                let checkpoint = ledger.checkpoint(journal.end()).unwrap();
                records = vec![Record::Checkpoint(checkpoint)];
            }
        }
        journal.append(records).await.unwrap();
    }

    fn count(start: &Start) -> Option<i64> {
        start.ledger.memory.state("house/count")?.value.as_i64()
    }

    fn find_at(folder: &std::path::Path, minute: i64) -> Start {
        let disk: Arc<dyn Disk> = Arc::new(OsDisk::existing(folder));
        let segments = segments_in(&*disk).unwrap();
        find(&disk, &segments, at(minute))
    }

    #[tokio::test]
    async fn a_replay_begins_with_what_was_true_as_far_as_the_journal_knows() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal");
        write(Arc::new(OsDisk::create(&path).unwrap())).await;
        let phones = |start: &Start| start.ledger.memory.phones("ana").count();
        for (minute, counted) in [(1, None), (2, Some(1)), (3, Some(2)), (4, Some(3))] {
            let start = find_at(&path, minute);
            assert_eq!((count(&start), phones(&start)), (counted, 1), "since {minute}");
            assert_eq!(start.before, Vec::<String>::new());
        }
        // The oldest segment is forgotten, and with it how the phone came.
        let mut files: Vec<_> =
            std::fs::read_dir(&path).unwrap().map(|file| file.unwrap().path()).collect();
        files.sort();
        std::fs::remove_file(&files[0]).unwrap();
        let start = find_at(&path, 1);
        assert_eq!((count(&start), phones(&start), start.before.len()), (None, 1, 2));
        let start = find_at(&path, 3);
        assert_eq!((count(&start), phones(&start), start.before.len()), (Some(2), 1, 1));
    }

    #[test]
    fn moments_are_spans_days_and_timestamps() {
        let zone = TimeZone::get("Europe/Paris").unwrap();
        let check = |text: &str| moment(text, at(0), &zone).map(|moment| moment.to_string()).ok();
        assert_eq!(check("7d").as_deref(), Some("2026-11-13T10:00:00Z"));
        assert_eq!(check("90m").as_deref(), Some("2026-11-20T08:30:00Z"));
        assert_eq!(check("2026-11-19").as_deref(), Some("2026-11-18T23:00:00Z"));
        assert_eq!(check("2026-11-19T08:00").as_deref(), Some("2026-11-19T07:00:00Z"));
        assert_eq!(check("2026-11-19T08:00:00Z").as_deref(), Some("2026-11-19T08:00:00Z"));
        assert_eq!(check("yesterday"), None);
    }
}
