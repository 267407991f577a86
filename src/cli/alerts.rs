//! `portero alerts` and `portero ack`: what is being escalated, and who has it in hand.

use anyhow::{Context, bail};
use clap::Args;
use serde_json::Value;

use super::control::Server;
use super::{At, FAILED};
use crate::web::alerts::{AckAnswer, AckAsk};

/// What `portero alerts` takes.
#[derive(Debug, Args)]
pub struct AlertsArgs {
    #[command(flatten)]
    at: At,
}

/// What `portero ack` takes.
#[derive(Debug, Args)]
pub struct AckArgs {
    /// The alert; everything that is open if none is named
    alert: Option<String>,
    /// Who has it in hand
    #[arg(long)]
    by: Option<String>,
    #[command(flatten)]
    at: At,
}

/// `portero alerts`: a JSON line each, the newest first.
pub fn alerts(args: &AlertsArgs) -> anyhow::Result<u8> {
    let runtime = super::small_runtime()?;
    let all: Vec<Value> = runtime.block_on(async { server(&args.at)?.get("alerts").await })?;
    all.iter().for_each(|alert| println!("{alert}"));
    Ok(0)
}

/// `portero ack`: whoever is at the terminal has it in hand.
pub fn ack(args: &AckArgs) -> anyhow::Result<u8> {
    let alert = args.alert.as_deref().map(|id| id.parse().context("an alert's id"));
    let ask = AckAsk { alert: alert.transpose()?, by: args.by.clone() };
    let runtime = super::small_runtime()?;
    let answer: AckAnswer =
        runtime.block_on(async { server(&args.at)?.post("ack", &ask).await })?;
    match answer.acknowledged.as_slice() {
        [] => {
            println!("nothing was open");
            Ok(FAILED)
        }
        all => {
            all.iter().for_each(|id| println!("{id} acknowledged"));
            Ok(0)
        }
    }
}

fn server(at: &At) -> anyhow::Result<Server> {
    let config = super::config(&at.config)?;
    match Server::running(&config.store.path)? {
        Some(server) => Ok(server),
        None => bail!("no portero runs on {}", config.store.path.display()),
    }
}
