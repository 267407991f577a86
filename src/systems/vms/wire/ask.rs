//! What is asked of the VMS: paths, the repeated `ids[]`, headers. Pure.

use reqwest::Method;
use serde_json::{Value, json};
use url::Url;

use crate::secret::Secret;
use crate::systems::http::{Ask, Content};

/// The most ids of one question; the vendor's limit.
pub const IDS_MAX: usize = 25;
/// Calls on one page: the vendor's default.
pub const CALLS_PER_PAGE: u32 = 25;

/// The most characters of an address that are shown.
const SHOWN_CHARS_MAX: usize = 200;

/// Who asks, and where.
#[derive(Debug, Clone)]
pub struct Asker {
    /// The system's address, with a path if it lies below one.
    pub base: Url,
    /// `X-UUID`: this installation, the same for ever.
    pub uuid: String,
    /// `X-Client`.
    pub client: String,
}

impl Asker {
    /// A question without a body; `path` lies below `/api/v1`.
    pub fn ask(&self, method: Method, path: &str, query: &[(&str, String)]) -> Ask {
        let mut url = self.base.clone();
        let prefix = url.path().trim_end_matches('/').to_string();
        url.set_path(&format!("{prefix}/api/v1/{path}"));
        url.set_query(None);
        url.set_fragment(None);
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        let mut ask = Ask::new(method, url);
        ask.headers = vec![
            ("x-uuid", self.uuid.clone()),
            ("x-client", self.client.clone()),
            ("hl", "en".into()),
        ];
        ask
    }

    /// A login; `instead_of` names a session to end for it.
    pub fn login(&self, login: &str, password: &Secret, instead_of: Option<&Value>) -> Ask {
        let mut body = json!({ "login": login, "password": password.expose() });
        if let Some(session) = instead_of {
            body["session_id"] = session.clone();
        }
        self.ask(Method::POST, "token", &[]).with(Content::Json(body))
    }

    /// Ends this session.
    pub fn logout(&self) -> Ask {
        self.ask(Method::POST, "logout", &[])
    }

    /// All intercoms of the account, a page.
    pub fn list(&self, page: u32) -> Ask {
        self.ask(Method::GET, "intercom", &[("page", page.to_string())])
    }

    /// These intercoms, at most [`IDS_MAX`].
    pub fn shows(&self, ids: &[u64]) -> Ask {
        let ids: Vec<_> = ids.iter().map(|id| ("ids[]", id.to_string())).collect();
        self.ask(Method::GET, "intercom/shows", &ids)
    }

    /// The calls of all intercoms, a page; the newest are on the first.
    pub fn calls(&self, page: u32) -> Ask {
        let query = [("page", page.to_string()), ("per_page", CALLS_PER_PAGE.to_string())];
        self.ask(Method::GET, "intercom/calls", &query)
    }

    /// Opens the door of an intercom.
    pub fn open_door(&self, intercom: u64) -> Ask {
        self.ask(Method::POST, &format!("intercom/{intercom}/open-door"), &[])
    }

    /// Changes settings of an intercom.
    pub fn change(&self, intercom: u64, settings: Value) -> Ask {
        let ask = self.ask(Method::PATCH, &format!("intercom/{intercom}"), &[]);
        ask.with(Content::Json(settings))
    }
}

/// Where a redirect leads, if it may be followed with the token and the same method: the same
/// host, and never from an encrypted connection to a plain one.
pub fn redirected(from: &Url, location: &str) -> Option<Url> {
    let to = from.join(location).ok()?;
    let same_scheme = to.scheme() == from.scheme();
    let same_port = to.port_or_known_default() == from.port_or_known_default();
    let upgrade = from.scheme() == "http" && to.scheme() == "https";
    let same_host = to.host() == from.host();
    (same_host && ((same_scheme && same_port) || upgrade)).then_some(to)
}

/// Where a redirect leads, for people to read: no password and no query, which may hold secrets.
pub fn shown(from: &Url, location: &str) -> Option<String> {
    let mut to = from.join(location).ok()?;
    // Addresses that have no host have no name and no password either.
    let _ = to.set_username("");
    let _ = to.set_password(None);
    to.set_query(None);
    to.set_fragment(None);
    Some(to.as_str().chars().take(SHOWN_CHARS_MAX).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asker(base: &str) -> Asker {
        Asker { base: base.parse().unwrap(), uuid: "u".into(), client: "web".into() }
    }

    #[test]
    fn ids_are_repeated_with_brackets() {
        let ask = asker("https://vms.example.org").shows(&[1, 2]);
        let url = ask.url.as_str();
        assert_eq!(url, "https://vms.example.org/api/v1/intercom/shows?ids%5B%5D=1&ids%5B%5D=2");
        let ask = asker("https://example.org/vms/").list(2);
        assert_eq!(ask.url.as_str(), "https://example.org/vms/api/v1/intercom?page=2");
    }

    #[test]
    fn a_redirect_never_carries_the_token_elsewhere() {
        let from: Url = "http://vms.local/api/v1/token".parse().unwrap();
        let to = |location| redirected(&from, location).map(String::from);
        assert_eq!(to("/v2/token").as_deref(), Some("http://vms.local/v2/token"));
        assert!(to("https://vms.local/api/v1/token").is_some());
        assert!(to("https://elsewhere.example/api/v1/token").is_none());
        assert!(to("http://vms.local:8080/api/v1/token").is_none());
        let from: Url = "https://vms.local/x".parse().unwrap();
        assert!(redirected(&from, "http://vms.local/x").is_none());
    }

    #[test]
    fn where_a_redirect_leads_is_shown_without_secrets() {
        let from: Url = "https://vms.local/api/v1/intercom/1/open-door".parse().unwrap();
        let to = |location| shown(&from, location).unwrap();
        assert_eq!(to("/login?token=s"), "https://vms.local/login");
        assert_eq!(to("//ana:s@elsewhere.example/a#s"), "https://elsewhere.example/a");
        assert_eq!(to("mailto:ana"), "mailto:ana");
        assert_eq!(to(&"x".repeat(1000)).len(), SHOWN_CHARS_MAX);
        assert_eq!(shown(&from, "http://["), None);
    }
}
