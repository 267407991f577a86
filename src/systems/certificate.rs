//! Which certificate a system shows that is asked over HTTPS: told once when it is another one than before, and taken when a
//! person says so by its fingerprint.

use jiff::Timestamp;

use crate::event::Trust;
use crate::systems::link::{self, Link, News, Reply};
use crate::systems::tls::{self, Fingerprint, Tls};

/// The certificate that was refused last.
#[derive(Debug, Default)]
pub struct Watch {
    refused: Option<Fingerprint>,
}

impl Watch {
    /// Tells once of each certificate that is refused.
    pub async fn look(&mut self, tls: &Tls, link: &mut Link) {
        let Some(seen) = tls.take_refused().filter(|seen| self.refused != Some(*seen)) else {
            return;
        };
        self.refused = Some(seen);
        let expected = tls.wanted().map(|pin| tls::show(&pin)).unwrap_or_default();
        let seen = tls::show(&seen);
        let news = changed(&link.source, expected, seen, link.clock.now());
        link.tell(news).await;
    }

    /// Takes the certificate that was refused, and no other.
    pub fn trust(&mut self, tls: &Tls, given: &str) -> Reply {
        let Some(given) = tls::parse(given) else {
            return Reply::Refused("a fingerprint is `sha256:` and 64 digits".into());
        };
        if tls.wanted() == Some(given) {
            return Reply::Done("it is the trusted one already".into());
        }
        if self.refused != Some(given) {
            return Reply::Refused("the system has not shown this certificate".into());
        }
        match tls.remember(given) {
            Ok(true) => {
                tracing::warn!("a new certificate is trusted by hand");
                self.refused = None;
                Reply::Done("it is trusted from now on".into())
            }
            Ok(false) => Reply::Refused("only `certificate = \"pin-first\"` remembers one".into()),
            Err(error) => Reply::Refused(format!("it cannot be kept: {error}")),
        }
    }
}

/// Nobody vouches for this news but we ourselves, and nothing may be done for it that needs trust:
/// it is unverified. Once for each certificate.
fn changed(source: &str, expected: String, seen: String, now: Timestamp) -> News {
    let system = source.split('/').next().unwrap_or(source);
    let (kind, unique) = (format!("{system}.certificate_changed"), [expected.as_str(), &seen]);
    let mut event = link::event(source, &kind, &unique, Trust::Unverified, false, now);
    event.data.insert("expected".into(), expected.into());
    event.data.insert("seen".into(), seen.into());
    News { known: Vec::new(), events: vec![event.into()] }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::systems::Certificate;
    use crate::systems::link::Keep;

    #[test]
    fn a_strange_certificate_is_one_event_that_nobody_vouches_for() {
        let told = |seen: &str| {
            let news = changed("emm/block", "aa".into(), seen.into(), Timestamp::UNIX_EPOCH);
            news.events[0].event.clone()
        };
        assert_eq!((told("bb").trust, told("bb").id), (Trust::Unverified, told("bb").id));
        assert_ne!(told("bb").id, told("cc").id);
        assert_eq!(told("bb").kind, "emm.certificate_changed");
    }

    #[test]
    fn only_the_certificate_that_was_refused_is_taken() {
        let folder = tempfile::tempdir().unwrap();
        let keep = Keep::new(folder.path(), "emm/block").unwrap();
        let tls = Tls::new(&Certificate::PinFirst, &keep).unwrap();
        let (one, other) = ([1; 32], [2; 32]);
        assert!(tls.remember(one).unwrap());
        let mut watch = Watch { refused: Some(other) };
        assert!(matches!(watch.trust(&tls, "abc"), Reply::Refused(_)));
        assert!(matches!(watch.trust(&tls, &tls::show(&[3; 32])), Reply::Refused(_)));
        assert!(matches!(watch.trust(&tls, &tls::show(&one)), Reply::Done(_)));
        assert!(matches!(watch.trust(&tls, &tls::show(&other)), Reply::Done(_)));
        assert_eq!(tls.wanted(), Some(other));
    }
}
