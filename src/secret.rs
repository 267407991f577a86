//! Texts that must never be seen: passwords, client secrets, tokens. `Debug` and `Display` show
//! that there is one, never what it is; the memory is wiped on drop. Fresh ones are drawn here
//! too, from the system's generator.

use std::fmt;

use ring::rand::{SecureRandom, SystemRandom};
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

/// Digits of a pairing code: no letter that is read as another (Crockford's base 32).
const CODE_ALPHABET: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";

/// Digits in a pairing code: 50 bits, typed by hand, alive for minutes, and few tries allowed.
pub const CODE_DIGITS: usize = 10;

/// A secret text. Reading it takes a call that says so: [`Secret::expose`].
#[derive(Clone)]
pub struct Secret(SecretString);

impl Secret {
    /// Takes a text out of sight.
    pub fn new(text: impl Into<String>) -> Secret {
        Secret(SecretString::from(text.into()))
    }

    /// The text itself. Never let it reach a log, an error, a metric or the page.
    pub fn expose(&self) -> &str {
        self.0.expose_secret()
    }

    /// Whether `offered` is this secret, in time that does not depend on where they differ.
    pub fn matches(&self, offered: &str) -> bool {
        self.expose().as_bytes().ct_eq(offered.as_bytes()).into()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(hidden)")
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(hidden)")
    }
}

/// `N` bytes from the system's generator.
///
/// # Panics
/// When the system has no randomness: then no token, key or code may be made at all.
pub fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    SystemRandom::new().fill(&mut bytes).expect("the system has a random generator");
    bytes
}

/// A fresh name of 64 bits, as hexadecimal digits.
pub fn random_name() -> String {
    hex(&random::<8>())
}

/// A fresh token of 256 bits, as hexadecimal digits: a session cookie.
pub fn random_token() -> Secret {
    Secret::new(hex(&random::<32>()))
}

/// A fresh pairing code.
pub fn random_code() -> Secret {
    let digits = random::<CODE_DIGITS>();
    let text: String =
        digits.iter().map(|b| char::from(CODE_ALPHABET[usize::from(b & 31)])).collect();
    Secret::new(text)
}

/// A pairing code as a person may type it (small letters, blanks, dashes, O for 0, I or L for 1)
/// in the one form that is compared.
pub fn normal_code(typed: &str) -> String {
    let digits =
        typed.chars().filter(char::is_ascii_alphanumeric).map(|c| match c.to_ascii_uppercase() {
            'O' => '0',
            'I' | 'L' => '1',
            other => other,
        });
    digits.take(2 * CODE_DIGITS).collect()
}

/// SHA-256 of a token, as hexadecimal digits: what may be stored of it.
pub fn fingerprint(token: &str) -> String {
    hex(&<[u8; 32]>::from(Sha256::digest(token.as_bytes())))
}

/// Bytes as lower-case hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_shows_nothing_and_compares() {
        let secret = Secret::new("open sesame");
        assert!(!format!("{secret:?} {secret}").contains("sesame"));
        assert!(secret.matches("open sesame"));
        assert!(!secret.matches("open sesam"));
    }

    #[test]
    fn a_code_may_be_typed_sloppily() {
        let code = random_code();
        assert_eq!(code.expose().len(), CODE_DIGITS);
        assert_eq!(normal_code(code.expose()), code.expose());
        assert_eq!(normal_code(" abcde-fgh0o il "), "ABCDEFGH0011");
    }

    #[test]
    fn fresh_tokens_differ() {
        assert_ne!(random_token().expose(), random_token().expose());
        assert_eq!(random_token().expose().len(), 64);
    }
}
