//! Voluntary identification towards push services (RFC 8292): our key pair, and one signed token
//! per endpoint origin, kept while it is young. Must not store the key itself, nor read a clock.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::{SignedDuration, Timestamp};
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use url::Url;

/// How long a token says it is valid. Push services refuse more than 24 hours by *their* clock
/// (RFC 8292 section 2), so half of it leaves room for clocks that differ.
pub const TOKEN_LIFE: SignedDuration = SignedDuration::from_hours(12);
/// A token older than this is signed anew, hours before any clock could call it expired.
pub const TOKEN_RESIGN_AFTER: SignedDuration = SignedDuration::from_hours(4);
/// Tokens kept at once. There are a handful of push services; origins are user input, though, so
/// a flood of invented ones must not grow memory.
pub const TOKENS_MAX: usize = 256;

/// The server's key pair (ES256). Browsers bind subscriptions to its public half: another key
/// makes them all useless (RFC 8292 section 4.2).
pub struct VapidKeys {
    pair: EcdsaKeyPair,
    public: String,
}

/// The keys cannot be made, read or used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum VapidError {
    /// No randomness from the system.
    #[error("no VAPID key pair could be made: the system gives no randomness")]
    Generate,
    /// The stored bytes are no P-256 key pair.
    #[error("the stored VAPID key is damaged: it is not a PKCS #8 document of a P-256 key pair")]
    Damaged,
    /// Signing failed, which only a lack of randomness can cause.
    #[error("the VAPID token could not be signed")]
    Sign,
    /// The endpoint has no origin.
    #[error("the endpoint has no origin to sign for")]
    Origin,
}

impl std::fmt::Debug for VapidKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "VapidKeys({})", self.public)
    }
}

impl VapidKeys {
    /// Makes a key pair at first start; the second value is what the caller must store, readable
    /// by nobody else: a PKCS #8 document for [`VapidKeys::from_pkcs8`].
    ///
    /// # Errors
    /// [`VapidError::Generate`].
    pub fn generate() -> Result<(VapidKeys, Vec<u8>), VapidError> {
        let document =
            EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &SystemRandom::new())
                .map_err(|_| VapidError::Generate)?;
        let bytes = document.as_ref().to_vec();
        Ok((VapidKeys::from_pkcs8(&bytes)?, bytes))
    }

    /// Reads the stored key pair.
    ///
    /// # Errors
    /// [`VapidError::Damaged`].
    pub fn from_pkcs8(bytes: &[u8]) -> Result<VapidKeys, VapidError> {
        let random = SystemRandom::new();
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, bytes, &random)
            .map_err(|_| VapidError::Damaged)?;
        let public = URL_SAFE_NO_PAD.encode(pair.public_key());
        Ok(VapidKeys { pair, public })
    }

    /// The public key as the page hands it to `subscribe()`: the raw point, base64url.
    pub fn public_key(&self) -> &str {
        &self.public
    }

    /// A signed token (RFC 8292 section 2): header, claims, raw `r || s` signature.
    fn sign(&self, audience: &str, subject: &str, now: Timestamp) -> Result<String, VapidError> {
        let expires = now.as_second() + TOKEN_LIFE.as_secs();
        let claims = serde_json::json!({ "aud": audience, "exp": expires, "sub": subject });
        let mut token = URL_SAFE_NO_PAD.encode(r#"{"typ":"JWT","alg":"ES256"}"#);
        token.push('.');
        URL_SAFE_NO_PAD.encode_string(claims.to_string(), &mut token);
        let signature = self.pair.sign(&SystemRandom::new(), token.as_bytes());
        let signature = signature.map_err(|_| VapidError::Sign)?;
        token.push('.');
        URL_SAFE_NO_PAD.encode_string(signature, &mut token);
        Ok(token)
    }
}

/// Whom a push service may write to about us (`sub`, RFC 8292 section 2.1).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Contact(String);

/// A contact that push services would refuse.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ContactError {
    /// Not of the form `mailto:name@domain`.
    #[error("the push contact `{0}` must look like `mailto:ana@example.org`")]
    Form(String),
    /// A domain that exists nowhere; Apple answers 403 `BadJwtToken`.
    #[error(
        "the push contact's domain `{0}` does not exist in the internet; some push services \
             refuse such a contact"
    )]
    Domain(String),
}

impl Contact {
    /// Reads `mailto:name@domain`. Services differ about `https:` contacts, so only mail is taken.
    ///
    /// # Errors
    /// [`ContactError`], with the text as it was written.
    pub fn parse(text: &str) -> Result<Contact, ContactError> {
        let form = || ContactError::Form(text.to_owned());
        let address = text.strip_prefix("mailto:").ok_or_else(form)?;
        let (name, domain) = address.rsplit_once('@').ok_or_else(form)?;
        let odd = |c: char| c.is_whitespace() || c.is_control() || "<>\",".contains(c);
        if name.is_empty() || domain.is_empty() || address.contains(odd) {
            return Err(form());
        }
        let lower = domain.to_ascii_lowercase();
        let nowhere = ["localhost", "invalid", "local", "test", "internal"];
        let last = lower.rsplit('.').next().unwrap_or_default();
        if !lower.contains('.') || nowhere.contains(&last) || last.is_empty() {
            return Err(ContactError::Domain(domain.to_owned()));
        }
        Ok(Contact(text.to_owned()))
    }

    /// The text as it goes into `sub`.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Makes `Authorization` headers, and keeps each origin's token while it is young.
#[derive(Debug)]
pub struct Vapid {
    keys: Arc<VapidKeys>,
    contact: Contact,
    tokens: Mutex<HashMap<String, Token>>,
}

#[derive(Debug, Clone)]
struct Token {
    header: Arc<str>,
    signed: Timestamp,
}

impl Vapid {
    /// Signs with `keys`, in the name of `contact`.
    pub fn new(keys: Arc<VapidKeys>, contact: Contact) -> Vapid {
        Vapid { keys, contact, tokens: Mutex::default() }
    }

    /// The key pair it signs with.
    pub fn keys(&self) -> &VapidKeys {
        &self.keys
    }

    /// The value of `Authorization` for this endpoint (RFC 8292 section 3).
    ///
    /// # Errors
    /// [`VapidError::Origin`] for a URL without one, [`VapidError::Sign`].
    pub fn authorization(&self, endpoint: &Url, now: Timestamp) -> Result<Arc<str>, VapidError> {
        let origin = audience(endpoint).ok_or(VapidError::Origin)?;
        if let Some(token) = self.tokens().get(&origin)
            && token.is_young(now)
        {
            return Ok(token.header.clone());
        }
        let jwt = self.keys.sign(&origin, self.contact.as_str(), now)?;
        let header: Arc<str> = format!("vapid t={jwt}, k={}", self.keys.public).into();
        let mut tokens = self.tokens();
        if tokens.len() >= TOKENS_MAX {
            tokens.clear();
        }
        tokens.insert(origin, Token { header: header.clone(), signed: now });
        Ok(header)
    }

    /// Forgets the token for this endpoint's origin: the service refused it, and a token signed
    /// now may be better, for example after the clock was set.
    pub fn forget(&self, endpoint: &Url) {
        if let Some(origin) = audience(endpoint) {
            self.tokens().remove(&origin);
        }
    }

    fn tokens(&self) -> std::sync::MutexGuard<'_, HashMap<String, Token>> {
        self.tokens.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Token {
    /// A token from the future was signed before the clock was set back: its `exp` could be too
    /// far ahead.
    fn is_young(&self, now: Timestamp) -> bool {
        let age = now.duration_since(self.signed);
        age >= SignedDuration::ZERO && age < TOKEN_RESIGN_AFTER
    }
}

/// `aud`: scheme, host, and the port if it is not the scheme's own (RFC 8292 section 2, RFC 6454
/// section 6.2).
pub fn audience(endpoint: &Url) -> Option<String> {
    let origin = endpoint.origin();
    origin.is_tuple().then(|| origin.ascii_serialization())
}

#[cfg(test)]
mod tests {
    use ring::signature::{ECDSA_P256_SHA256_FIXED, UnparsedPublicKey};

    use super::*;

    fn vapid() -> Vapid {
        let keys = VapidKeys::generate().unwrap().0;
        Vapid::new(Arc::new(keys), Contact::parse("mailto:ana@example.org").unwrap())
    }

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[test]
    fn the_audience_names_a_port_only_where_it_is_not_the_usual_one() {
        let check = |url: &str, want: &str| {
            assert_eq!(audience(&url.parse().unwrap()).as_deref(), Some(want));
        };
        check("https://Push.Example.org/v1/abc?x#y", "https://push.example.org");
        check("https://push.example.org:443/v1", "https://push.example.org");
        check("https://push.example.org:8443/v1", "https://push.example.org:8443");
        check("http://127.0.0.1:8990/x", "http://127.0.0.1:8990");
        check("https://[2a00::1]:444/x", "https://[2a00::1]:444");
        assert_eq!(audience(&"data:x".parse().unwrap()), None);
    }

    #[test]
    fn a_token_holds_what_rfc_8292_asks_and_its_signature_verifies() {
        let vapid = vapid();
        let now = at("2026-11-20T10:00:00.7Z");
        let url = "https://push.example.org:8443/x".parse().unwrap();
        let header = vapid.authorization(&url, now).unwrap();
        let rest = header.strip_prefix("vapid t=").unwrap();
        let (token, key) = rest.split_once(", k=").unwrap();
        assert_eq!(key, vapid.keys().public_key());
        let (signed, signature) = token.rsplit_once('.').unwrap();
        let signature = URL_SAFE_NO_PAD.decode(signature).unwrap();
        assert_eq!(signature.len(), 64);
        let point = URL_SAFE_NO_PAD.decode(key).unwrap();
        let public = UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point);
        public.verify(signed.as_bytes(), &signature).unwrap();
        let claims = URL_SAFE_NO_PAD.decode(signed.split_once('.').unwrap().1).unwrap();
        let claims: serde_json::Value = serde_json::from_slice(&claims).unwrap();
        assert_eq!(claims["aud"], "https://push.example.org:8443");
        assert_eq!(claims["sub"], "mailto:ana@example.org");
        assert_eq!(claims["exp"].as_i64(), Some(now.as_second() + 12 * 3600));
    }

    #[test]
    fn a_token_is_kept_per_origin_until_it_ages_or_the_clock_is_set_back() {
        let vapid = vapid();
        let url: Url = "https://a.example.org/1".parse().unwrap();
        let sibling: Url = "https://a.example.org/2".parse().unwrap();
        let other: Url = "https://b.example.org/1".parse().unwrap();
        let start = at("2026-11-20T10:00:00Z");
        let first = vapid.authorization(&url, start).unwrap();
        let again = |url: &Url, now: &str| vapid.authorization(url, at(now)).unwrap();
        assert_eq!(again(&sibling, "2026-11-20T13:59:59Z"), first);
        assert_ne!(again(&other, "2026-11-20T10:00:00Z"), first);
        let later = again(&url, "2026-11-20T14:00:00Z");
        assert_ne!(later, first);
        assert_ne!(again(&url, "2026-11-20T09:00:00Z"), later);
        let now = at("2026-11-20T09:00:00Z");
        let kept = vapid.authorization(&url, now).unwrap();
        vapid.forget(&url);
        assert_ne!(vapid.authorization(&url, now).unwrap(), kept);
    }

    #[test]
    fn invented_origins_do_not_grow_memory() {
        let vapid = vapid();
        for n in 0..TOKENS_MAX + 10 {
            let url = format!("https://h{n}.example.org/").parse().unwrap();
            vapid.authorization(&url, Timestamp::UNIX_EPOCH).unwrap();
        }
        assert!(vapid.tokens().len() <= TOKENS_MAX);
    }

    #[test]
    fn keys_survive_storage_and_damage_is_named() {
        let (keys, bytes) = VapidKeys::generate().unwrap();
        let read = VapidKeys::from_pkcs8(&bytes).unwrap();
        assert_eq!(read.public_key(), keys.public_key());
        assert_eq!(URL_SAFE_NO_PAD.decode(keys.public_key()).unwrap().len(), 65);
        assert_eq!(VapidKeys::from_pkcs8(&bytes[1..]).unwrap_err(), VapidError::Damaged);
        assert_eq!(VapidKeys::from_pkcs8(b"").unwrap_err(), VapidError::Damaged);
    }

    #[test]
    fn a_contact_must_be_one_that_services_accept() {
        assert!(Contact::parse("mailto:ana@example.org").is_ok());
        for bad in ["ana@example.org", "https://example.org", "mailto:", "mailto:a b@c.org"] {
            assert!(matches!(Contact::parse(bad), Err(ContactError::Form(_))), "{bad}");
        }
        for bad in ["mailto:a@localhost", "mailto:a@b.invalid", "mailto:a@home.local"] {
            assert!(matches!(Contact::parse(bad), Err(ContactError::Domain(_))), "{bad}");
        }
    }
}
