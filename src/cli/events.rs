//! `portero events`: the journal as CloudEvents, a JSON line each. Reads the files themselves, so
//! it works with and without a running server.

use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use clap::Args;
use serde_json::{Value, json};

use super::At;
use crate::disk::{Disk, OsDisk};
use crate::journal::{Entry, read_dir, segments_in};
use crate::record::{Position, Quarantined, Record};

/// How often `--follow` looks for more.
const LOOK_EVERY: Duration = Duration::from_millis(100);

#[derive(Debug, Args)]
pub struct EventsArgs {
    /// Go on with new events as they come, until interrupted
    #[arg(long, short)]
    follow: bool,
    /// Only the newest N
    #[arg(long, short = 'n', value_name = "N")]
    last: Option<usize>,
    /// Only this type, or all that begin with it: netatmo.ring, netatmo.*
    #[arg(long = "type", value_name = "TYPE")]
    kind: Option<String>,
    /// What was quarantined instead: messages nobody vouches for
    #[arg(long)]
    quarantined: bool,
    #[command(flatten)]
    at: At,
}

/// `portero events`.
pub fn events(args: &EventsArgs) -> anyhow::Result<u8> {
    let config = super::config(&args.at.config)?;
    let folder = config.store.path.join("journal");
    let disk: Arc<dyn Disk> = Arc::new(OsDisk::existing(&folder));
    if !folder.is_dir() && !args.follow {
        eprintln!("nothing was journaled yet in {}", folder.display());
        return Ok(0);
    }
    let from = match args.last {
        Some(count) => nth_last(args, &disk, count)?,
        None => Position::default(),
    };
    let mut reader = read_dir(disk, from);
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    let mut damaged = 0;
    loop {
        for entry in reader.by_ref() {
            match entry {
                Ok(entry) => {
                    if let Some(line) = line(args, &entry) {
                        writeln!(out, "{line}")?;
                    }
                }
                Err(damage) => {
                    damaged += 1;
                    eprintln!("portero: damaged: {damage}");
                }
            }
        }
        out.flush()?;
        if !args.follow {
            return Ok(if damaged > 0 { super::FAILED } else { 0 });
        }
        std::thread::park_timeout(LOOK_EVERY);
    }
}

/// Where the `count` newest lines begin, looked for from the newest segment back.
fn nth_last(args: &EventsArgs, disk: &Arc<dyn Disk>, count: usize) -> anyhow::Result<Position> {
    let segments = segments_in(&**disk)?;
    let mut end = Position(u64::MAX);
    let mut found = 0;
    for from in segments.into_iter().rev() {
        let entries = read_dir(disk.clone(), from).until(end).flatten();
        let at: Vec<Position> =
            entries.filter(|e| line(args, e).is_some()).map(|e| e.position).collect();
        if found + at.len() >= count {
            let index = found + at.len() - count;
            return Ok(at.get(index).copied().unwrap_or(end));
        }
        found += at.len();
        end = from;
    }
    Ok(Position::default())
}

fn line(args: &EventsArgs, entry: &Entry) -> Option<Value> {
    match &entry.record {
        Record::Seen(event) if !args.quarantined => {
            wanted(args.kind.as_deref(), &event.kind).then(|| event.to_cloud_event())
        }
        Record::Quarantined(kept) if args.quarantined => Some(quarantined(entry.position, kept)),
        _ => None,
    }
}

fn wanted(pattern: Option<&str>, kind: &str) -> bool {
    match pattern {
        None => true,
        Some(pattern) => match pattern.strip_suffix('*') {
            Some(prefix) => kind.starts_with(prefix),
            None => kind == pattern,
        },
    }
}

/// A quarantined message as a CloudEvent of its own type; its content is bytes nobody vouches for.
fn quarantined(position: Position, kept: &Quarantined) -> Value {
    json!({
        "specversion": "1.0",
        "id": format!("quarantined-{position}"),
        "type": "portero.quarantined",
        "source": kept.source,
        "time": kept.received,
        "reason": kept.reason,
        "data_base64": base64::engine::general_purpose::STANDARD.encode(&kept.raw),
    })
}
