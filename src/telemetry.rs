//! Logs and metrics: set up once at start. Logs are structured (`tracing`), one line each, JSON
//! on request; metrics are kept in memory and rendered for Prometheus on the admin address.
//! Levels: WARN recovered and lost nothing; ERROR lost something or a human must act.

use std::io::IsTerminal;
use std::time::Duration;

use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

use crate::record::Decided;

/// Upper bounds, in seconds, of the buckets of every `_seconds` histogram: from a group commit on
/// a fast disk to the ten seconds after which Netatmo gives up on a webhook.
const SECONDS_BUCKETS: [f64; 10] = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.5, 2.0, 10.0];

/// How often the metrics' samples are folded into their histograms: until then each keeps its
/// place in memory, also where nobody ever asks for them.
const METRICS_UPKEEP_EVERY: Duration = Duration::from_secs(5);

/// What is logged unless `RUST_LOG` says otherwise. The HTTP server's own start is of no interest,
/// and its parser calls every malformed request an error: what strangers send is neither a loss
/// nor a human's task.
const FILTER: &str = "info,actix_http=off,actix_server=warn";

/// How log lines are written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// For people at a terminal.
    #[default]
    Text,
    /// One JSON object a line, for a log collector.
    Json,
}

/// Counts decisions and what fell silent: every reason of "why did nobody hear of it?" has a
/// counter.
pub fn decided(decided: &Decided) {
    for looked in &decided.looked {
        let (rule, verdict) = (looked.rule.clone(), looked.verdict.as_str());
        metrics::counter!("portero_rules_total", "rule" => rule, "verdict" => verdict).increment(1);
        for note in &looked.not_sent {
            let reason = note.reason.as_str();
            metrics::counter!("portero_not_sent_total", "reason" => reason).increment(1);
            tracing::debug!(event = %decided.event, rule = looked.rule, reason, "not sent");
        }
    }
}

/// Sends logs to standard error, filtered by `RUST_LOG` (default: [`FILTER`]). Called twice, the
/// second call changes nothing, so tests may call it freely.
pub fn logs(format: LogFormat) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(FILTER));
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false);
    // An earlier subscriber stays in force; that is the wish of whoever set it.
    let _ = match format {
        LogFormat::Text => builder.try_init(),
        LogFormat::Json => builder.json().try_init(),
    };
}

/// Starts collecting metrics for the whole process; the handle renders them.
pub fn metrics() -> PrometheusHandle {
    let recorder = PrometheusBuilder::new()
        .set_buckets_for_metric(
            metrics_exporter_prometheus::Matcher::Suffix("_seconds".into()),
            &SECONDS_BUCKETS,
        )
        .map_or_else(|_| PrometheusBuilder::new().build_recorder(), |b| b.build_recorder());
    let handle = recorder.handle();
    // A second server in one process (tests) keeps its own handle; the first one's recorder counts.
    let _ = metrics::set_global_recorder(recorder);
    handle
}

/// Folds samples into histograms until stopped.
pub async fn keep_metrics(metrics: PrometheusHandle, stopping: CancellationToken) {
    let mut every = tokio::time::interval(METRICS_UPKEEP_EVERY);
    while stopping.run_until_cancelled(every.tick()).await.is_some() {
        metrics.run_upkeep();
    }
}
