//! TLS towards systems: by the machine's authorities, or by one certificate that is given or
//! remembered from the first contact. Devices in a house come with certificates that no authority
//! signed; turning the check off would let anybody on the network pose as the intercom.

use std::sync::{Arc, Mutex, PoisonError};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};

use super::Certificate;
use super::link::Keep;
use crate::secret::hex;

/// What the remembered certificate is kept as.
const KEPT_AS: &str = "certificate";

/// The SHA-256 of a certificate in its DER form.
pub type Fingerprint = [u8; 32];

/// TLS for one system. Clones share what was seen.
#[derive(Debug, Clone)]
pub struct Tls {
    config: Arc<ClientConfig>,
    pinned: Option<Arc<Pinned>>,
}

/// TLS cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The machine trusts nobody.
    #[error("no root certificates found{0}; install `ca-certificates` or set SSL_CERT_FILE")]
    NoRoots(String),
    /// The library refuses.
    #[error("TLS: {0}")]
    Tls(String),
}

// === impl Tls ===

impl Tls {
    /// TLS that judges certificates like this; `keep` holds what `pin-first` remembers.
    pub fn new(certificate: &Certificate, keep: &Keep) -> Result<Tls, TlsError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider.clone());
        let builder = builder
            .with_safe_default_protocol_versions()
            .map_err(|e| TlsError::Tls(e.to_string()))?;
        let wanted = match certificate {
            Certificate::System => {
                // Without roots plain connections still work; the error names what is missing.
                let roots = system_roots().unwrap_or_else(|error| {
                    tracing::warn!(%error, "no certificate can be checked");
                    RootCertStore::empty()
                });
                let config = builder.with_root_certificates(roots).with_no_client_auth();
                return Ok(Tls { config: Arc::new(config), pinned: None });
            }
            Certificate::Pin(pin) => Wanted::This(*pin),
            Certificate::Insecure => Wanted::Any,
            Certificate::PinFirst => match keep.read::<String>(KEPT_AS).and_then(|t| parse(&t)) {
                Some(pin) => Wanted::This(pin),
                None => Wanted::First,
            },
        };
        let state = State { wanted, seen: None, refused: None };
        let pinned = Pinned {
            state: Mutex::new(state),
            keep: (*certificate == Certificate::PinFirst).then(|| keep.clone()),
            provider,
        };
        let pinned = Arc::new(pinned);
        let builder = builder.dangerous().with_custom_certificate_verifier(pinned.clone());
        Ok(Tls { config: Arc::new(builder.with_no_client_auth()), pinned: Some(pinned) })
    }

    /// For rustls.
    pub fn config(&self) -> Arc<ClientConfig> {
        self.config.clone()
    }

    /// A connection stands: with `pin-first`, its certificate is the one from now on. Returns it
    /// when it was remembered just now.
    pub fn connected(&self) -> Option<Fingerprint> {
        let pinned = self.pinned.as_ref()?;
        let mut state = pinned.state();
        let (Wanted::First, Some(seen)) = (&state.wanted, state.seen) else { return None };
        let keep = pinned.keep.as_ref()?;
        if let Err(error) = keep.write(KEPT_AS, &show(&seen)) {
            // Not remembered: the next start takes the first one again. This run holds on to it.
            tracing::error!(%error, "the certificate cannot be remembered");
        }
        state.wanted = Wanted::This(seen);
        Some(seen)
    }

    /// The certificate that was refused last, if one was since the last call: another one than
    /// the remembered or given.
    pub fn take_refused(&self) -> Option<Fingerprint> {
        self.pinned.as_ref()?.state().refused.take()
    }

    /// The certificate that is remembered or given, if one is.
    pub fn wanted(&self) -> Option<Fingerprint> {
        match self.pinned.as_ref()?.state().wanted {
            Wanted::This(pin) => Some(pin),
            Wanted::Any | Wanted::First => None,
        }
    }

    /// Remembers this certificate instead of the one before; only `pin-first` remembers. Says
    /// whether it does.
    pub fn remember(&self, fingerprint: Fingerprint) -> std::io::Result<bool> {
        let Some(pinned) = &self.pinned else { return Ok(false) };
        let Some(keep) = &pinned.keep else { return Ok(false) };
        keep.write(KEPT_AS, &show(&fingerprint))?;
        pinned.state().wanted = Wanted::This(fingerprint);
        Ok(true)
    }

    /// Forgets the remembered certificate: the next one is taken. Only `pin-first` has one.
    pub fn forget(&self) -> std::io::Result<()> {
        let Some(pinned) = &self.pinned else { return Ok(()) };
        let Some(keep) = &pinned.keep else { return Ok(()) };
        keep.remove(KEPT_AS)?;
        pinned.state().wanted = Wanted::First;
        Ok(())
    }
}

/// `sha256:` and 64 hexadecimal digits, with or without colons, as browsers and openssl show it.
pub fn parse(text: &str) -> Option<Fingerprint> {
    let digits: String =
        text.trim().strip_prefix("sha256:")?.chars().filter(|c| *c != ':').collect();
    if digits.len() != 64 || !digits.is_ascii() {
        return None;
    }
    let mut pin = [0; 32];
    for (byte, at) in pin.iter_mut().zip((0..).step_by(2)) {
        *byte = u8::from_str_radix(&digits[at..at + 2], 16).ok()?;
    }
    Some(pin)
}

/// As [`parse`] reads it.
pub fn show(fingerprint: &Fingerprint) -> String {
    format!("sha256:{}", hex(fingerprint))
}

/// The machine's root certificates; `SSL_CERT_FILE` and `SSL_CERT_DIR` are honoured.
pub fn system_roots() -> Result<RootCertStore, TlsError> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(found.certs);
    if roots.is_empty() {
        let why = found.errors.first().map(|error| format!(" ({error})")).unwrap_or_default();
        return Err(TlsError::NoRoots(why));
    }
    Ok(roots)
}

/// Accepts one certificate, whatever its names and dates say.
#[derive(Debug)]
struct Pinned {
    state: Mutex<State>,
    keep: Option<Keep>,
    provider: Arc<CryptoProvider>,
}

#[derive(Debug)]
struct State {
    wanted: Wanted,
    seen: Option<Fingerprint>,
    refused: Option<Fingerprint>,
}

#[derive(Debug)]
enum Wanted {
    Any,
    First,
    This(Fingerprint),
}

impl Pinned {
    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let mut fingerprint = [0; 32];
        let digest = ring::digest::digest(&ring::digest::SHA256, end_entity);
        fingerprint.copy_from_slice(digest.as_ref());
        let mut state = self.state();
        match state.wanted {
            Wanted::This(pin) if pin != fingerprint => {
                state.refused = Some(fingerprint);
                let message = format!("another certificate than before: {}", show(&fingerprint));
                Err(rustls::Error::General(message))
            }
            Wanted::This(_) | Wanted::Any | Wanted::First => {
                state.seen = Some(fingerprint);
                Ok(ServerCertVerified::assertion())
            }
        }
    }

    // The peer must still prove that the certificate is its own.
    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, cert, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, cert, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fingerprint_is_read_as_people_copy_it() {
        let pin = [0xab; 32];
        assert_eq!(parse(&show(&pin)), Some(pin));
        let colons = format!("sha256:{}", vec!["AB"; 32].join(":"));
        assert_eq!(parse(&colons), Some(pin));
        assert_eq!(parse("sha256:abc"), None);
        assert_eq!(parse(&"ab".repeat(32)), None);
        assert_eq!(parse(&format!("sha256:{}", "é".repeat(32))), None);
    }
}
