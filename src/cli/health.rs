//! `portero health`: one question to the running server, for a container without other tools.

use std::time::Duration;

use super::{At, FAILED};

/// A server that takes longer is not healthy.
const ANSWER_WITHIN: Duration = Duration::from_secs(4);

/// `portero health`: 0 if events can be taken and made durable, 1 if not.
pub fn health(at: &At) -> anyhow::Result<u8> {
    let config = super::config(&at.config)?;
    let url = format!("http://{}/readyz", config.server.admin);
    let http = reqwest::Client::builder().no_proxy().timeout(ANSWER_WITHIN).build()?;
    let (ready, text) = super::small_runtime()?.block_on(async {
        let answer = http.get(&url).send().await?;
        anyhow::Ok((answer.status().is_success(), answer.text().await?))
    })?;
    print!("{text}");
    Ok(if ready { 0 } else { FAILED })
}
