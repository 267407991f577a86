//! `portero drill`: a marked test along the real way to phones, and how long each took to show it.

use std::time::Duration;

use anyhow::bail;
use clap::Args;
use serde_json::Value;
use tokio::time::Instant;

use super::control::Server;
use super::{At, FAILED};
use crate::builtin::drill::{WAIT_DEFAULT_S, WAIT_S_MAX};
use crate::web::drill::{DrillAsk, Drilled};

/// How often the server is asked: what is printed is no finer than a tenth of a second.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// What `portero drill` takes.
#[derive(Debug, Args)]
pub struct DrillArgs {
    /// Only this person's phones
    #[arg(long)]
    person: Option<String>,
    /// Seconds to wait for the phones
    #[arg(long, value_name = "SECONDS", default_value_t = WAIT_DEFAULT_S,
          value_parser = clap::value_parser!(u32).range(1..=i64::from(WAIT_S_MAX)))]
    wait: u32,
    #[command(flatten)]
    at: At,
}

/// `portero drill`: 0 if every phone showed it.
pub fn drill(args: &DrillArgs) -> anyhow::Result<u8> {
    let config = super::config(&args.at.config)?;
    let Some(server) = Server::running(&config.store.path)? else {
        bail!("no portero runs on {}", config.store.path.display());
    };
    super::small_runtime()?.block_on(run(args, &server))
}

async fn run(args: &DrillArgs, server: &Server) -> anyhow::Result<u8> {
    let ask = DrillAsk { person: args.person.clone(), wait_s: args.wait };
    let until = Instant::now() + Duration::from_secs(args.wait.into());
    let mut open: Vec<Drilled> = server.post("drill", &ask).await?;
    if open.is_empty() {
        println!("there are no phones; `portero pair NAME` makes a link for one");
        return Ok(FAILED);
    }
    let mut all_shown = true;
    loop {
        let phones: Vec<Value> = server.get("phones").await?;
        let is_late = Instant::now() >= until;
        open.retain(|one| {
            let drill = drill_of(one, &phones);
            let (words, shown) = match how(one, drill) {
                Some(ended) => ended,
                None if is_late => (waited(drill, args.wait), false),
                None => return true,
            };
            println!("{}, {}: {words}", one.person, one.name);
            all_shown &= shown;
            false
        });
        if open.is_empty() {
            return Ok(if all_shown { 0 } else { FAILED });
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// What is known of this drill on its phone.
fn drill_of<'p>(one: &Drilled, phones: &'p [Value]) -> &'p Value {
    let phone = phones.iter().find(|phone| phone["id"] == one.phone.0);
    let drill = phone.map_or(&Value::Null, |phone| &phone["drill"]);
    let action = one.action.map(|action| action.to_string());
    // An earlier drill says nothing about this one.
    if action.as_deref() == drill["action"].as_str() { drill } else { &Value::Null }
}

/// How it ended, and whether it was shown; none while it is under way.
fn how(one: &Drilled, drill: &Value) -> Option<(String, bool)> {
    if one.action.is_none() {
        return Some(("not sent: notifications are off".into(), false));
    }
    let after = |name: &str| drill[name].as_f64();
    match (after("accepted_after_s"), after("shown_after_s"), drill["failed"].as_str()) {
        (Some(accepted), Some(shown), _) => {
            Some((format!("accepted after {accepted:.1} s, shown after {shown:.1} s"), true))
        }
        (None, Some(shown), Some(_)) => Some((format!("shown after {shown:.1} s"), true)),
        (None, None, Some(why)) => Some((format!("not delivered: {why}"), false)),
        _ => None,
    }
}

/// How far it came within the wait.
fn waited(drill: &Value, wait_s: u32) -> String {
    match drill["accepted_after_s"].as_f64() {
        Some(after) => format!("accepted after {after:.1} s, not shown within {wait_s} s"),
        None => format!("not taken by its push service within {wait_s} s"),
    }
}
