//! Web Push: one message to one phone, once. Encrypting, signing, calling and reading the answer
//! live here; when to try again is decided by [`crate::delivery::attempt`], never here.

pub mod encrypt;
pub mod vapid;
pub mod endpoint;
pub mod payload;
pub mod client;

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use jiff::Timestamp;

use crate::action::{ActionId, Message, PhoneId, Urgency};
use crate::delivery::push::payload::Form;
use crate::record::Subscription;

/// One attempt to push one message.
#[derive(Debug, Clone)]
pub struct PushRequest {
    /// What is attempted.
    pub action: ActionId,
    /// The phone it is for.
    pub phone: PhoneId,
    /// What it shows.
    pub message: Arc<Message>,
    /// How eagerly the phone is woken.
    pub urgency: Urgency,
    /// The push service may hold it until then.
    pub deadline: Timestamp,
    /// Whole, or shortened because it was found too big.
    pub form: Form,
}

/// What the push service made of one attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It took the message; it has not shown it yet.
    Done,
    /// Nothing is decided: try again.
    Retry {
        /// The service's own wish how long to wait.
        after: Option<Duration>,
        /// The answer or the fault, in words.
        why: String,
    },
    /// It will never take this message.
    Refused {
        /// The answer, in words.
        why: String,
    },
    /// The subscription no longer exists.
    Gone {
        /// The answer, in words.
        why: String,
    },
    /// The message is too big for this service.
    TooBig,
}

impl Verdict {
    /// Short name for metrics.
    pub fn label(&self) -> &'static str {
        match self {
            Verdict::Done => "done",
            Verdict::Retry { .. } => "retry",
            Verdict::Refused { .. } => "refused",
            Verdict::Gone { .. } => "gone",
            Verdict::TooBig => "too_big",
        }
    }

    /// A fault that says nothing about when to try again.
    pub fn retry(why: impl Into<String>) -> Verdict {
        Verdict::Retry { after: None, why: why.into() }
    }
}

/// The seam between lanes and the world: [`client::PushClient`], or a test's script.
pub trait Transport: Send + Sync {
    /// Attempts once. Must end within a bounded time and never panics on what a service answers.
    fn send<'a>(&'a self, to: &'a Subscription, request: PushRequest) -> BoxFuture<'a, Verdict>;
}

/// Whether a subscription can be pushed to at all; asked when a phone is added.
///
/// # Errors
/// What is wrong with it, in words for the person who adds it.
pub fn check_subscription(
    subscription: &Subscription,
    policy: endpoint::Policy,
) -> Result<(), SubscriptionError> {
    endpoint::check(&subscription.endpoint, policy)?;
    encrypt::ReceiverKeys::parse(&subscription.p256dh, &subscription.auth)?;
    Ok(())
}

/// A subscription that cannot be pushed to.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SubscriptionError {
    /// Its endpoint is not called.
    #[error(transparent)]
    Endpoint(#[from] endpoint::EndpointError),
    /// Its keys cannot be encrypted to.
    #[error(transparent)]
    Keys(#[from] encrypt::KeyError),
}
