//! `portero dead`: what did not reach anybody, and sending it again.

use anyhow::{Context, bail};
use clap::{Args, Subcommand};
use serde_json::Value;

use super::control::Server;
use super::offline::look;
use super::{At, FAILED};
use crate::web::dead::{ResendAnswer, ResendAsk};

/// What `portero dead` takes.
#[derive(Debug, Args)]
pub struct DeadArgs {
    #[command(subcommand)]
    command: DeadCommand,
    #[command(flatten)]
    at: At,
}

#[derive(Debug, Subcommand)]
enum DeadCommand {
    /// Print them, a JSON line each, the newest first
    List,
    /// Send one again, or all
    Resend(ResendArgs),
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct ResendArgs {
    /// The dead letter's id
    id: Option<String>,
    /// All of them
    #[arg(long)]
    all: bool,
}

/// `portero dead`.
pub fn dead(args: &DeadArgs) -> anyhow::Result<u8> {
    let config = super::config(&args.at.config)?;
    let server = Server::running(&config.store.path)?;
    let runtime = super::small_runtime()?;
    match &args.command {
        DeadCommand::List => {
            let all: Vec<Value> = match &server {
                Some(server) => runtime.block_on(server.get("dead"))?,
                None => look(&config)?.dead.newest_first().iter().map(|l| l.to_json()).collect(),
            };
            all.iter().for_each(|letter| println!("{letter}"));
            Ok(0)
        }
        DeadCommand::Resend(resend) => {
            let Some(server) = server else {
                bail!("no portero runs on {}", config.store.path.display())
            };
            let id = resend.id.as_deref().map(|id| id.parse().context("a dead letter's id"));
            let ask = ResendAsk { action: id.transpose()?, by: None };
            Ok(print(&runtime.block_on(server.post("dead/resend", &ask))?))
        }
    }
}

fn print(answer: &ResendAnswer) -> u8 {
    answer.resent.iter().for_each(|id| println!("{id} sent again"));
    answer.refused.iter().for_each(|one| println!("{} not sent: {}", one.id, one.why));
    if answer.resent.is_empty() && answer.refused.is_empty() {
        println!("there are no dead letters");
    }
    if answer.refused.is_empty() { 0 } else { FAILED }
}
