//! Which endpoints we are willing to call. An endpoint is user input: without these checks anyone
//! who may add a phone could make Portero post into the local network. There is no list of known
//! push services, because browsers change theirs. Must not send anything.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use url::{Host, Url};

/// Real endpoints are 150 to 500 characters long; Microsoft's are the longest.
pub const ENDPOINT_BYTES_MAX: usize = 2048;

/// Why an endpoint is not called. The texts never repeat the path, which is the phone's secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EndpointError {
    /// Longer than [`ENDPOINT_BYTES_MAX`].
    #[error("the endpoint has {0} bytes, at most {ENDPOINT_BYTES_MAX} are taken")]
    TooLong(usize),
    /// Not a URL.
    #[error("the endpoint is not a URL: {0}")]
    Url(url::ParseError),
    /// Not `https`.
    #[error("the endpoint must begin with https://, not {0}://")]
    Scheme(String),
    /// A name or password before the host.
    #[error("the endpoint must not contain a user name or password")]
    UserInfo,
    /// No host.
    #[error("the endpoint names no host")]
    NoHost,
    /// A name that only the local network knows.
    #[error("the endpoint's host `{0}` is a name of the local network, not a push service")]
    LocalName(String),
    /// An address that is not on the public internet.
    #[error("the endpoint's address {0} is private, not a push service")]
    Private(IpAddr),
    /// A name that resolves to such addresses only.
    #[error(
        "`{name}` resolves to {address}, which is private: a DNS filter, or an attempt to reach \
         into the local network"
    )]
    ResolvesPrivate {
        /// The host's name.
        name: String,
        /// One of its addresses.
        address: IpAddr,
    },
}

/// Which endpoints are accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Policy {
    /// Only `https` to the public internet.
    #[default]
    Public,
    /// Also `http` and private addresses: `allow_insecure_endpoints`, for tests.
    Insecure,
}

impl Policy {
    /// By the value of `allow_insecure_endpoints`.
    pub fn from_config(allow_insecure_endpoints: bool) -> Policy {
        if allow_insecure_endpoints { Policy::Insecure } else { Policy::Public }
    }
}

/// Reads an endpoint and checks all that can be seen without asking DNS. The resolver checks the
/// rest, at every connection, so that a name cannot change its mind afterwards.
///
/// # Errors
/// [`EndpointError`]: what is wrong, for the person who adds the phone.
pub fn check(endpoint: &str, policy: Policy) -> Result<Url, EndpointError> {
    if endpoint.len() > ENDPOINT_BYTES_MAX {
        return Err(EndpointError::TooLong(endpoint.len()));
    }
    let url = Url::parse(endpoint.trim()).map_err(EndpointError::Url)?;
    let insecure = policy == Policy::Insecure && url.scheme() == "http";
    if url.scheme() != "https" && !insecure {
        return Err(EndpointError::Scheme(url.scheme().to_owned()));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(EndpointError::UserInfo);
    }
    match (url.host(), policy) {
        (None, _) => Err(EndpointError::NoHost),
        (Some(_), Policy::Insecure) => Ok(()),
        (Some(Host::Domain(name)), Policy::Public) => check_name(name),
        (Some(Host::Ipv4(address)), Policy::Public) => check_address(address.into()),
        (Some(Host::Ipv6(address)), Policy::Public) => check_address(address.into()),
    }?;
    Ok(url)
}

/// Names that no public DNS serves (RFC 6761, RFC 6762, RFC 8375, and ICANN's `internal`).
/// Behind a proxy the proxy resolves names, so these are refused by their look.
fn check_name(name: &str) -> Result<(), EndpointError> {
    let name = name.trim_end_matches('.').to_ascii_lowercase();
    let local = ["localhost", "local", "internal", "home.arpa", "lan", "home"];
    let is_under = |zone: &&str| name.strip_suffix(*zone).is_some_and(|rest| rest.ends_with('.'));
    if !name.contains('.') || local.iter().any(is_under) {
        return Err(EndpointError::LocalName(name));
    }
    Ok(())
}

fn check_address(address: IpAddr) -> Result<(), EndpointError> {
    if is_public(address) { Ok(()) } else { Err(EndpointError::Private(address)) }
}

/// Whether an address belongs to the public internet: neither private, loopback, link-local,
/// shared (CGNAT), multicast, reserved, nor a wrapping of such an address (IANA special-purpose
/// address registries).
pub fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => is_public_v4(address),
        IpAddr::V6(address) => is_public_v6(address),
    }
}

fn is_public_v4(address: Ipv4Addr) -> bool {
    let [a, b, c, _] = address.octets();
    !matches!(
        (a, b, c),
        (0 | 10 | 127, ..)
            | (100, 64..=127, _)
            | (169, 254, _)
            | (172, 16..=31, _)
            | (192, 0, 0 | 2)
            | (192, 88, 99)
            | (192, 168, _)
            | (198, 18..=19, _)
            | (198, 51, 100)
            | (203, 0, 113)
            | (224..=255, ..)
    )
}

fn is_public_v6(address: Ipv6Addr) -> bool {
    let s = address.segments();
    match s {
        // NAT64 (RFC 6052): what counts is the address inside. An IPv6-only network needs it.
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] => {
            let [[a, b], [c, d]] = [high.to_be_bytes(), low.to_be_bytes()];
            is_public_v4(Ipv4Addr::new(a, b, c, d))
        }
        // Teredo and other protocol assignments, documentation, 6to4, documentation again.
        [0x2001, 0..=0x1ff, ..] | [0x2001, 0xdb8, ..] | [0x2002, ..] => false,
        [0x3fff, 0..=0xfff, ..] => false,
        // Only 2000::/3 is handed out; loopback, v4-mapped, unique local, link-local and
        // multicast all lie outside.
        [first, ..] => first & 0xe000 == 0x2000,
    }
}

/// Resolves names for the HTTP client and lets only public addresses through, so that no name can
/// lead into the local network, not even by changing between check and call.
#[derive(Debug, Clone)]
pub struct PublicResolver {
    policy: Policy,
    /// Proxies are the administrator's word, not user input, and usually private.
    exempt: Arc<HashSet<String>>,
}

impl PublicResolver {
    /// `exempt` are the hosts of configured proxies; [`PublicResolver::exempts`] keeps endpoints
    /// away from them.
    pub fn new(policy: Policy, exempt: HashSet<String>) -> PublicResolver {
        PublicResolver { policy, exempt: Arc::new(exempt) }
    }

    /// Whether this host's addresses are not checked; such a host is no endpoint.
    pub fn exempts(&self, host: &str) -> bool {
        self.exempt.contains(&host.to_ascii_lowercase())
    }

    fn lets_through(&self, name: &str) -> bool {
        self.policy == Policy::Insecure || self.exempts(name)
    }
}

/// Keeps the public addresses of `name`.
///
/// # Errors
/// [`EndpointError::ResolvesPrivate`] if there are others only.
pub fn keep_public(
    name: &str,
    found: impl IntoIterator<Item = SocketAddr>,
) -> Result<Vec<SocketAddr>, EndpointError> {
    let (public, private): (Vec<_>, Vec<_>) =
        found.into_iter().partition(|address| is_public(address.ip()));
    match private.first() {
        Some(first) if public.is_empty() => {
            Err(EndpointError::ResolvesPrivate { name: name.to_owned(), address: first.ip() })
        }
        _ => Ok(public),
    }
}

impl Resolve for PublicResolver {
    fn resolve(&self, name: Name) -> Resolving {
        let this = self.clone();
        Box::pin(async move {
            let name = name.as_str();
            let found = tokio::net::lookup_host((name, 0)).await?;
            if this.lets_through(name) {
                return Ok(Box::new(found.collect::<Vec<_>>().into_iter()) as Addrs);
            }
            Ok(Box::new(keep_public(name, found)?.into_iter()) as Addrs)
        })
    }
}

/// The hosts of the proxies that the environment names, as the HTTP client reads it.
pub fn proxy_hosts(read: impl Fn(&str) -> Option<String>) -> HashSet<String> {
    let names =
        ["HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"];
    let host = |value: String| {
        let url = Url::parse(&value).ok().filter(Url::has_host);
        let url = url.or_else(|| Url::parse(&format!("http://{value}")).ok())?;
        url.host_str().map(str::to_ascii_lowercase)
    };
    names.iter().filter_map(|name| read(name)).filter_map(host).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_public(endpoint: &str) -> Result<(), String> {
        check(endpoint, Policy::Public).map(|_| ()).map_err(|error| error.to_string())
    }

    #[test]
    fn real_push_services_are_accepted_whatever_their_name() {
        for endpoint in [
            "https://fcm.googleapis.com/fcm/send/abc:def",
            "https://jmt17.google.com/fcm/send/abc",
            "https://updates.push.services.mozilla.com/wpush/v2/gAAAA",
            "https://web.push.apple.com/QK",
            "https://wns2-par02p.notify.windows.com/w/?token=BQ",
            "https://push.my-own-service.example:8443/x",
            "https://93.184.215.14/x",
            "https://[2a00:1450:4001::1]/x",
        ] {
            assert_eq!(check_public(endpoint), Ok(()), "{endpoint}");
        }
    }

    #[test]
    fn endpoints_into_the_house_are_refused_in_every_spelling() {
        for (endpoint, says) in [
            ("http://push.example.org/x", "must begin with https://, not http://"),
            ("file:///etc/passwd", "not file://"),
            ("push.example.org/x", "not a URL"),
            ("https://a:b@push.example.org/x", "user name or password"),
            ("https://a@push.example.org/x", "user name or password"),
            ("https://127.0.0.1/x", "127.0.0.1 is private"),
            ("https://2130706433/x", "127.0.0.1 is private"),
            ("https://0x7f.1/x", "127.0.0.1 is private"),
            ("https://017700000001/x", "127.0.0.1 is private"),
            ("https://10.1.2.3/", "is private"),
            ("https://172.31.0.1/", "is private"),
            ("https://192.168.0.5:8176/", "is private"),
            ("https://169.254.169.254/latest", "is private"),
            ("https://100.64.0.1/", "is private"),
            ("https://224.0.0.1/", "is private"),
            ("https://255.255.255.255/", "is private"),
            ("https://0.0.0.0/", "is private"),
            ("https://[::1]/", "::1 is private"),
            ("https://[::]/", "is private"),
            ("https://[::ffff:10.0.0.1]/", "is private"),
            ("https://[::ffff:8.8.8.8]/", "is private"),
            ("https://[64:ff9b::10.0.0.1]/", "is private"),
            ("https://[64:ff9b:1::808:808]/", "is private"),
            ("https://[fe80::1]/", "is private"),
            ("https://[fd00::1]/", "is private"),
            ("https://[ff02::1]/", "is private"),
            ("https://[2002:a00:1::]/", "is private"),
            ("https://[2001:0:a00:1::]/", "is private"),
            ("https://localhost/x", "name of the local network"),
            ("https://LOCALHOST./x", "name of the local network"),
            ("https://indigo.local:8176/x", "name of the local network"),
            ("https://x.localhost/x", "name of the local network"),
            ("https://nas/x", "name of the local network"),
            ("https://metadata.google.internal/x", "name of the local network"),
        ] {
            let error = check_public(endpoint).expect_err(endpoint);
            assert!(error.contains(says), "{endpoint}: {error}");
        }
        let long = format!("https://push.example.org/{}", "x".repeat(ENDPOINT_BYTES_MAX));
        assert!(check_public(&long).unwrap_err().contains("2073 bytes"));
    }

    #[test]
    fn nat64_counts_by_the_address_inside() {
        assert_eq!(check_public("https://[64:ff9b::8.8.8.8]/"), Ok(()));
    }

    #[test]
    fn insecure_lifts_scheme_and_address_but_nothing_else() {
        let check = |endpoint: &str| check(endpoint, Policy::Insecure);
        assert!(check("http://127.0.0.1:8990/notify/x").is_ok());
        assert!(check("https://localhost/x").is_ok());
        assert_eq!(check("http://a:b@localhost/x").unwrap_err(), EndpointError::UserInfo);
        assert!(matches!(check("ftp://localhost/x"), Err(EndpointError::Scheme(_))));
    }

    #[test]
    fn a_name_cannot_lead_to_a_private_address() {
        let addresses = |list: &[&str]| -> Vec<SocketAddr> {
            list.iter().map(|address| SocketAddr::new(address.parse().unwrap(), 0)).collect()
        };
        let mixed = addresses(&["10.0.0.1", "8.8.8.8"]);
        assert_eq!(keep_public("x", mixed).unwrap(), addresses(&["8.8.8.8"]));
        let error = keep_public("evil.example", addresses(&["192.168.0.1"])).unwrap_err();
        assert!(error.to_string().contains("`evil.example` resolves to 192.168.0.1"));
        assert_eq!(keep_public("x", []).unwrap(), []);
    }

    #[tokio::test]
    async fn the_resolver_refuses_a_name_of_this_machine_unless_it_is_the_proxy() {
        let resolve = |resolver: PublicResolver| async move {
            resolver.resolve("localhost".parse().unwrap()).await.map(|found| found.count())
        };
        let none = HashSet::new;
        assert!(resolve(PublicResolver::new(Policy::Public, none())).await.is_err());
        assert!(resolve(PublicResolver::new(Policy::Insecure, none())).await.unwrap() > 0);
        let proxy = HashSet::from(["localhost".to_owned()]);
        assert!(resolve(PublicResolver::new(Policy::Public, proxy)).await.unwrap() > 0);
    }

    #[test]
    fn proxies_are_read_in_the_spellings_that_are_in_use() {
        let read = |name: &str| match name {
            "HTTPS_PROXY" => Some("http://u:p@Proxy.lan:3128".to_owned()),
            "all_proxy" => Some("cache:8080".to_owned()),
            _ => None,
        };
        let want = HashSet::from(["proxy.lan".to_owned(), "cache".to_owned()]);
        assert_eq!(proxy_hosts(read), want);
    }
}
