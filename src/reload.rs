//! Rule files from disk into force: read at start, and again within a second of being saved. A
//! bad folder never replaces a good one; the last good files are kept beside the journal, so that
//! not even a restart puts a bad folder in force or leaves the house without rules.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use notify::{RecursiveMode, Watcher};
use serde::{Deserialize, Serialize};
use serde_json::Map;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, timeout_at};
use tokio_util::sync::CancellationToken;

use crate::event::Heard;
use crate::intake::Intake;
use crate::node::{FILE_BYTES_MAX, Problem, Problems, SourceFile};
use crate::router::Message;
use crate::rules::{House, RuleSet};

/// After a change the folder is read when it was quiet for this long: an editor writes in steps.
const QUIET_FOR: Duration = Duration::from_millis(150);

/// The folder is looked at this often even if the system reports no change: network file systems
/// and replaced folders report none.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// Rule files in one folder.
const FILES_MAX: usize = 10_000;

/// What is in force, for the page.
#[derive(Debug, Clone, Serialize, PartialEq)]
pub struct RulesStatus {
    /// Whether what is in force is what the folder holds.
    pub ok: bool,
    /// The version in force.
    pub version: String,
    /// What is wrong with the folder.
    pub problems: String,
    /// When this came to be so.
    pub since: Timestamp,
}

/// Reads the rule files of a folder, sorted by name, and nothing else.
pub fn read(folder: &Path) -> Result<Vec<SourceFile>, Problems> {
    let problem = |path: &Path, message: String| {
        let file = SourceFile::new(path.display().to_string(), "");
        Problems::from_iter([Problem::error(&file, 0..0, message)])
    };
    let entries = std::fs::read_dir(folder)
        .map_err(|error| problem(folder, format!("the folder cannot be read: {error}")))?;
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    paths.retain(|path| is_rule_file(path));
    paths.sort();
    if paths.len() > FILES_MAX {
        return Err(problem(folder, format!("there are more than {FILES_MAX} rule files")));
    }
    let mut problems = Problems::default();
    let mut files = Vec::new();
    for path in paths {
        match read_file(&path) {
            Ok(file) => files.push(file),
            Err(found) => problems.push(*found),
        }
    }
    if problems.has_errors() { Err(problems) } else { Ok(files) }
}

fn read_file(path: &Path) -> Result<SourceFile, Box<Problem>> {
    let shown = path.display().to_string();
    let wrong =
        |message: String| Box::new(Problem::error(&SourceFile::new(&*shown, ""), 0..0, message));
    let size = std::fs::metadata(path).map(|file| file.len()).unwrap_or(0);
    if size > FILE_BYTES_MAX as u64 {
        return Err(wrong(format!("the file is larger than {FILE_BYTES_MAX} bytes")));
    }
    match std::fs::read(path) {
        Ok(bytes) => SourceFile::from_bytes(&*shown, &bytes),
        Err(error) => Err(wrong(format!("the file cannot be read: {error}"))),
    }
}

/// `*.yaml` and `*.yml`, but not what editors leave about.
fn is_rule_file(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or(".");
    let yaml = path.extension().is_some_and(|end| end == "yaml" || end == "yml");
    yaml && !name.starts_with('.') && path.is_file()
}

/// The files in force, as kept beside the journal.
#[derive(Serialize, Deserialize)]
struct Kept {
    files: Vec<(String, String)>,
}

/// What changes whenever a file is saved: names, sizes and times.
#[derive(Debug, PartialEq)]
pub struct Stamp(Vec<(PathBuf, u64, Option<std::time::SystemTime>)>);

/// The rules to start with.
pub struct Started {
    /// In force.
    pub rules: Arc<RuleSet>,
    /// How they came to be so.
    pub status: RulesStatus,
    /// The folder as it was when they were read.
    pub stamp: Stamp,
}

/// Keeps a folder's rules in force.
pub struct Reloader {
    /// The folder.
    pub folder: PathBuf,
    /// Where the last good files are kept.
    pub kept: PathBuf,
    /// The names that rules may use.
    pub house: House,
}

// === impl Reloader ===

impl Reloader {
    /// The rules to start with: the folder's, or, if those are bad, the last good ones.
    pub fn start(&self, now: Timestamp) -> Result<Started, Problems> {
        // Before the files are read: what is saved from now on counts as a change.
        let stamp = stamp(&self.folder);
        let (rules, problems) = match self.load() {
            Ok(rules) => {
                self.keep(rules.files());
                (rules, String::new())
            }
            Err(problems) => match self.last_good() {
                Some(rules) => (rules, problems.render()),
                None => return Err(problems),
            },
        };
        let status = status(&rules, problems, now);
        Ok(Started { rules: Arc::new(rules), status, stamp })
    }

    /// Watches the folder until stopped, from what [`Reloader::start`] read on. New rules go to the router; a bad folder is announced
    /// once, as `portero.rules.rejected`.
    pub async fn run(
        self,
        mut before: Stamp,
        router: mpsc::Sender<Message>,
        intake: Intake,
        shown: watch::Sender<RulesStatus>,
        stopping: CancellationToken,
    ) {
        let (wake, mut woken) = mpsc::channel(1);
        let mut watcher = watch_folder(&self.folder, wake.clone());
        if !shown.borrow().ok {
            let problems = shown.borrow().problems.clone();
            announce(&intake, &self.folder, &problems).await;
        }
        while !stopping.is_cancelled() {
            tokio::select! {
                () = stopping.cancelled() => return,
                _ = timeout_at(Instant::now() + LOOK_EVERY, woken.recv()) => {}
            }
            sleep(QUIET_FOR).await;
            let now = stamp(&self.folder);
            if now == before {
                continue;
            }
            before = now;
            // The folder itself may have been replaced; watch what is there now.
            watcher = watch_folder(&self.folder, wake.clone()).or(watcher);
            self.look(&router, &intake, &shown).await;
        }
    }

    async fn look(
        &self,
        router: &mpsc::Sender<Message>,
        intake: &Intake,
        shown: &watch::Sender<RulesStatus>,
    ) {
        let now = intake.clock().now();
        match self.load() {
            Ok(rules) => {
                let (status, rules) = (status(&rules, String::new(), now), Arc::new(rules));
                if status.version != shown.borrow().version {
                    tracing::info!(version = status.version, "new rules are in force");
                    self.keep(rules.files());
                    // A router that is gone is stopping; its rules matter no more.
                    let _ = router.send(Message::Rules(rules)).await;
                }
                shown.send_replace(status);
            }
            Err(problems) => {
                let text = problems.render();
                let changed = shown.borrow().problems != text;
                shown.send_modify(|shown| {
                    (shown.ok, shown.since) = (false, now);
                    shown.problems.clone_from(&text);
                });
                if changed {
                    announce(intake, &self.folder, &text).await;
                }
            }
        }
    }

    fn load(&self) -> Result<RuleSet, Problems> {
        let rules = RuleSet::load(read(&self.folder)?, &self.house)?;
        for warning in rules.warnings().iter() {
            tracing::warn!("{warning}");
        }
        Ok(rules)
    }

    fn last_good(&self) -> Option<RuleSet> {
        let text = std::fs::read(&self.kept).ok()?;
        let kept: Kept = serde_json::from_slice(&text).ok()?;
        let files = kept.files.into_iter().map(|(path, text)| SourceFile::new(path, text));
        RuleSet::load(files.collect(), &self.house).ok()
    }

    /// Failing to keep a copy loses nothing now; it is said, so that it can be mended in time.
    fn keep(&self, files: &[SourceFile]) {
        let files = files.iter().map(|f| (f.path.to_string(), f.text.to_string())).collect();
        let written = serde_json::to_vec(&Kept { files })
            .map_err(std::io::Error::from)
            .and_then(|text| crate::files::replace(&self.kept, &text));
        if let Err(error) = written {
            tracing::warn!(%error, "the rules in force could not be copied beside the journal");
        }
    }
}

fn status(rules: &RuleSet, problems: String, since: Timestamp) -> RulesStatus {
    RulesStatus { ok: problems.is_empty(), version: rules.version().into(), problems, since }
}

async fn announce(intake: &Intake, folder: &Path, problems: &str) {
    tracing::error!("the rules are bad; the earlier ones stay in force\n{problems}");
    let mut data = Map::new();
    data.insert("folder".into(), folder.display().to_string().into());
    data.insert("problems".into(), problems.into());
    let unique = intake.clock().now().to_string();
    let event = intake.own_event("portero.rules.rejected", &unique, data);
    intake.take(vec![Heard::from(event)]).await;
}

fn stamp(folder: &Path) -> Stamp {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let paths = entries.map(|entry| entry.path()).filter(|path| is_rule_file(path));
    let mut stamps: Vec<_> = paths
        .filter_map(|path| {
            let file = std::fs::metadata(&path).ok()?;
            Some((path, file.len(), file.modified().ok()))
        })
        .collect();
    stamps.sort();
    Stamp(stamps)
}

/// Wakes the reloader on any change below the folder; without it, [`LOOK_EVERY`] has to do.
fn watch_folder(folder: &Path, wake: mpsc::Sender<()>) -> Option<notify::RecommendedWatcher> {
    let handler = move |event: notify::Result<notify::Event>| {
        // Reading is reported too, our own included; only changes matter.
        if !event.is_ok_and(|event| event.kind.is_access()) {
            // A full channel has a wake in it already.
            let _ = wake.try_send(());
        }
    };
    let mut watcher = notify::recommended_watcher(handler).ok()?;
    watcher.watch(folder, RecursiveMode::NonRecursive).ok()?;
    Some(watcher)
}
