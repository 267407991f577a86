//! The command line. Each command is a function that returns its exit code: 0 fine, 1 failed,
//! 2 wrong use, 64 bad config or rules.

/// Like the standard one, which panics if the reader has gone (`portero events | head`): here the
/// process then ends as one that a closed pipe ends.
macro_rules! println {
    () => { $crate::cli::put(format_args!("\n")) };
    ($($what:tt)*) => { $crate::cli::put(format_args!("{}\n", format_args!($($what)*))) };
}
/// See `println`.
macro_rules! print {
    ($($what:tt)*) => { $crate::cli::put(format_args!($($what)*)) };
}

mod alerts;
mod check;
mod command;
mod control;
mod dead;
mod demo;
mod drill;
mod events;
mod explain;
mod health;
mod init;
mod offline;
mod open;
mod phone;
mod replay;
mod run;
mod state;
mod test;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use crate::config::Config;
use crate::node::Problems;

/// Something was asked that did not work out.
pub const FAILED: u8 = 1;
/// Whoever read the output has gone: the status that a shell gives to a process ended by SIGPIPE.
const READER_GONE: u8 = 141;
/// The config or the rules are bad (as `EX_USAGE` in sysexits.h).
pub const BAD_CONFIG: u8 = 64;

/// The doorkeeper of a home or building.
#[derive(Debug, Parser)]
#[command(version, about, max_term_width = 100)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

/// Where the config is.
#[derive(Debug, Clone, Args)]
pub struct At {
    /// The config file.
    #[arg(long, short, default_value = "portero.toml", global = true)]
    pub config: PathBuf,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the doorkeeper
    Run(At),
    /// Show Portero at work with simulated cameras, alarms and doorbells; nothing to set up
    Demo(demo::DemoArgs),
    /// Write a first config and first rules into a folder
    Init(init::InitArgs),
    /// List every problem of the config and the rules
    Check(At),
    /// Run the tests that stand in rule files
    Test(test::TestArgs),
    /// Say for every rule that looked at an event whether it fired, and why not
    Explain(explain::ExplainArgs),
    /// Say what other rules would have made of the journal's events; nothing is done
    Replay(replay::ReplayArgs),
    /// Print the journal as CloudEvents, a JSON line each
    Events(events::EventsArgs),
    /// Print state variables as JSON
    State(state::StateArgs),
    /// Make a link and QR code by which a phone becomes a person's
    Pair(phone::PairArgs),
    /// Print alerts that are being escalated, and how far each notification has come
    Alerts(alerts::AlertsArgs),
    /// Acknowledge an alert, or all that are open
    Ack(alerts::AckArgs),
    /// List what did not reach anybody, or send it again
    Dead(dead::DeadArgs),
    /// Send a marked test to every phone and say how long each took to show it
    Drill(drill::DrillArgs),
    /// Add, list or remove phones
    Phone(phone::PhoneArgs),
    /// Open a door, or list the doors
    Open(open::OpenArgs),
    /// Tell a FIBARO Intercom something, or list what it can be told
    Fibaro(command::CommandArgs),
    /// Tell an Indigo server something, or list what it can be told
    Indigo(command::CommandArgs),
    /// Tell an EMM paging system something, or list what it can be told
    Emm(command::CommandArgs),
    /// Tell a video system something, or list what it can be told
    Vms(command::CommandArgs),
    /// Tell a Netatmo home something, or list what it can be told
    Netatmo(command::CommandArgs),
    /// Ask the running server whether it can take events (a container's health check)
    Health(At),
}

/// Runs what the command line asks for.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    // Every TLS and HTTP client of the process uses it; an earlier choice would be a test's.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let result = match cli.command {
        Command::Run(at) => run::run(&at),
        Command::Demo(args) => demo::demo(&args),
        Command::Init(args) => init::init(&args),
        Command::Check(at) => check::check(&at),
        Command::Test(args) => test::test(&args),
        Command::Explain(args) => explain::explain(&args),
        Command::Replay(args) => replay::replay(&args),
        Command::Events(args) => events::events(&args),
        Command::State(args) => state::state(&args),
        Command::Pair(args) => phone::pair(&args),
        Command::Alerts(args) => alerts::alerts(&args),
        Command::Ack(args) => alerts::ack(&args),
        Command::Dead(args) => dead::dead(&args),
        Command::Drill(args) => drill::drill(&args),
        Command::Phone(args) => phone::phone(&args),
        Command::Open(args) => open::open(&args),
        Command::Fibaro(args) => command::command("fibaro", &args),
        Command::Indigo(args) => command::command("indigo", &args),
        Command::Emm(args) => command::command("emm", &args),
        Command::Vms(args) => command::command("vms", &args),
        Command::Netatmo(args) => command::command("netatmo", &args),
        Command::Health(at) => health::health(&at),
    };
    match result {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            // A reader that has gone (`| head`) is no fault of anybody's.
            let broken_pipe = error.chain().any(|cause| {
                let io = cause.downcast_ref::<std::io::Error>();
                io.is_some_and(|io| io.kind() == std::io::ErrorKind::BrokenPipe)
            });
            if broken_pipe {
                return ExitCode::from(READER_GONE);
            }
            eprintln!("portero: {error:#}");
            ExitCode::from(if error.is::<BadConfig>() { BAD_CONFIG } else { FAILED })
        }
    }
}

/// Prints; if nobody reads any more there is nothing left to do.
fn put(text: std::fmt::Arguments<'_>) {
    use std::io::{ErrorKind, Write};
    match std::io::stdout().lock().write_fmt(text) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => {
            std::process::exit(READER_GONE.into())
        }
        // A full disk behind a redirection: what can be said goes to the other stream.
        Err(error) => eprintln!("portero: cannot print: {error}"),
        Ok(()) => {}
    }
}

/// The config or the rules are bad; the text lists every problem.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct BadConfig(String);

impl BadConfig {
    /// From a list of problems, drawn for a terminal if there is one.
    pub fn from(problems: &Problems) -> BadConfig {
        let count = problems.len();
        let text = drawn(problems);
        let plural = if count == 1 { "problem" } else { "problems" };
        BadConfig(format!("{count} {plural}\n\n{}", text.trim_end()))
    }
}

/// Problems with pointers into the source.
fn drawn(problems: &Problems) -> String {
    use std::io::IsTerminal;
    if std::io::stderr().is_terminal() { problems.render_styled() } else { problems.render() }
}

/// Loads the config. Its warnings are left to `check`, and to `run`, which refuses what is missing.
fn config(path: &Path) -> anyhow::Result<Config> {
    let loaded = Config::load(path).map_err(|problems| BadConfig::from(&problems))?;
    Ok(loaded.0)
}

/// A runtime for commands that only need to wait a little.
fn small_runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()
}
