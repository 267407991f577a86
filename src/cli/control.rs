//! Talking to the running server over its admin address, with the token that lies beside the
//! journal. If nobody runs, the caller works on the data itself ([`super::offline`]).

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, bail};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::app::{Control, StoreLock};

/// The server answers at once, but for commands to systems that take their time.
const ANSWER_WITHIN: Duration = Duration::from_secs(60);

/// The running server.
pub struct Server {
    control: Control,
    http: reqwest::Client,
}

impl Server {
    /// The server that works on this data, if one does. Its file alone proves nothing: one that
    /// was killed leaves it behind, and somebody else may listen on that port by now.
    pub fn running(store: &Path) -> anyhow::Result<Option<Server>> {
        let Some(control) = Control::read(store).filter(|_| StoreLock::is_held(store)) else {
            return Ok(None);
        };
        // Never through a proxy or along a redirect: the token must not leave the machine, and a
        // door is asked for once.
        let http = reqwest::Client::builder()
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .timeout(ANSWER_WITHIN)
            .build()?;
        Ok(Some(Server { control, http }))
    }

    /// `GET` of a control call.
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> anyhow::Result<T> {
        let answer = self.call(self.http.get(self.url(path))).await?;
        Ok(answer.json().await?)
    }

    /// `POST` of a control call.
    pub async fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        ask: &impl Serialize,
    ) -> anyhow::Result<T> {
        let answer = self.call(self.http.post(self.url(path)).json(ask)).await?;
        Ok(answer.json().await?)
    }

    /// `DELETE` of a control call.
    pub async fn delete(&self, path: &str) -> anyhow::Result<()> {
        self.call(self.http.delete(self.url(path))).await.map(drop)
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}/control/{path}", self.control.admin)
    }

    async fn call(&self, request: reqwest::RequestBuilder) -> anyhow::Result<reqwest::Response> {
        let admin = self.control.admin;
        let answer = request
            .bearer_auth(&self.control.token)
            .send()
            .await
            .with_context(|| format!("portero on {admin} does not answer"))?;
        if answer.status().is_success() {
            return Ok(answer);
        }
        let status = answer.status();
        let body: serde_json::Value = answer.json().await.unwrap_or_default();
        match body["error"].as_str() {
            Some(error) => bail!("{error}"),
            None => bail!("portero on {admin} answered {status}"),
        }
    }
}
