//! The one way out: an HTTP client whose every connection passes the egress guard.
//!
//! Literals are checked before a call, names when they are resolved; the address that was checked is the one that
//! is connected to, so an answer that changes in between gains nothing. Redirects are never followed, proxies only if one
//! is configured: a SOCKS proxy is told the checked address; an HTTP proxy is told the name and looks it up again.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use ipnet::IpNet;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use url::{Host, Url};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// A receiver that is called less often gets a new connection: most servers close idle ones after a minute.
const IDLE_TIMEOUT: Duration = Duration::from_secs(50);
/// Idle connections kept for one receiver: as many as one webhook may use.
const IDLE_PER_HOST_MAX: usize = 64;

/// What is allowed where nobody but the operator names the address: it may be an inner one, and there http: will do.
pub const OWN_NETWORKS: [&str; 7] =
    ["127.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "172.16.0.0/12", "192.168.0.0/16", "::1", "fc00::/7"];

/// What is not the public internet: the IANA registries of special-purpose addresses, multicast, and in IPv6 all but
/// 2000::/3 without its protocol assignments (Teredo), documentation and 6to4.
static FORBIDDEN: LazyLock<Vec<IpNet>> = LazyLock::new(|| {
    networks(
        "0.0.0.0/8 10.0.0.0/8 100.64.0.0/10 127.0.0.0/8 169.254.0.0/16 172.16.0.0/12 192.0.0.0/24 192.0.2.0/24 \
         192.88.99.0/24 192.168.0.0/16 198.18.0.0/15 198.51.100.0/24 203.0.113.0/24 224.0.0.0/4 240.0.0.0/4 \
         ::/3 4000::/2 8000::/1 2001::/23 2001:db8::/32 2002::/16 3fff::/20",
    )
});
/// NAT64 (RFC 6052): judged by the IPv4 address inside.
static NAT64: LazyLock<Vec<IpNet>> = LazyLock::new(|| networks("64:ff9b::/96"));

fn networks(text: &str) -> Vec<IpNet> {
    text.split(' ').map(|network| network.parse().expect("a network")).collect()
}

fn within(networks: &[IpNet], address: IpAddr) -> bool {
    networks.iter().any(|network| network.contains(&address))
}

/// Why a call is not made.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum Refused {
    #[error("`{0}` is not an http or https URL with a host")]
    Url(String),
    #[error("a URL may not carry a user name or password")]
    Credentials,
    #[error("http: is only spoken to addresses in `[webhooks] allow`; use https:")]
    Plain,
    #[error("{host} is or resolves to {address}, which is not a public address; `[webhooks] allow` can name it")]
    Address { host: String, address: IpAddr },
    #[error("{host} is in `[webhooks] deny`")]
    Denied { host: String },
    #[error("{host} can't be resolved here, and what a proxy resolves it to can't be checked")]
    Unresolved { host: String },
}

/// What may be called although it is not public.
#[derive(Clone, Debug, Default)]
struct Guard {
    allowed: List,
    denied: List,
    /// The proxy's host, which nobody but the operator names.
    proxy: Option<String>,
}

/// Networks and hosts.
#[derive(Clone, Debug, Default)]
struct List {
    networks: Vec<IpNet>,
    hosts: Vec<String>,
}

/// How receivers are reached.
#[derive(Clone, Default)]
pub struct Egress {
    /// Addresses, networks and host names that the guard would refuse otherwise, and that may be called by http.
    pub allow: Vec<String>,
    /// What it refuses though it is public. Holds before `allow`.
    pub deny: Vec<String>,
    /// Certificates of authorities beside the public ones, PEM.
    pub authorities: Option<Vec<u8>>,
    /// A certificate chain and its key, PEM.
    pub identity: Option<Vec<u8>>,
    pub proxy: Option<String>,
}

impl List {
    fn parse(key: &str, texts: &[String]) -> Result<Self, String> {
        let mut list = Self::default();
        for text in texts {
            if let Ok(network) = text.parse::<IpNet>() {
                list.networks.push(network);
            } else if let Ok(address) = text.parse::<IpAddr>() {
                list.networks.push(address.into());
            } else if !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b)) {
                list.hosts.push(text.to_ascii_lowercase());
            } else {
                return Err(format!(
                    "`webhooks.{key}`: `{text}` is neither an address, a network such as 10.1.0.0/16 nor a host name"
                ));
            }
        }
        Ok(list)
    }

    fn has(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        within(&self.networks, address) || embedded(address).is_some_and(|inner| within(&self.networks, inner))
    }

    fn has_host(&self, host: &str) -> bool {
        self.hosts.iter().any(|known| known.eq_ignore_ascii_case(host.trim_end_matches('.')))
    }
}

impl Guard {
    /// Any refused address refuses: a name that is half public is a trick or a mistake.
    fn check(&self, host: &str, addresses: &[SocketAddr], plain: bool) -> Result<(), Refused> {
        let first_denied = addresses.iter().find(|address| self.denied.has(address.ip()));
        if self.denied.has_host(host) || first_denied.is_some() {
            return Err(Refused::Denied { host: host.to_owned() });
        }
        if self.allowed.has_host(host) {
            return Ok(());
        }
        for address in addresses {
            if self.allowed.has(address.ip()) {
                continue;
            }
            if !is_public(address.ip()) {
                return Err(Refused::Address { host: host.to_owned(), address: address.ip() });
            }
            if plain {
                return Err(Refused::Plain);
            }
        }
        Ok(())
    }
}

fn is_public(address: IpAddr) -> bool {
    let address = address.to_canonical();
    match embedded(address) {
        Some(inner) => is_public(inner),
        None => !within(&FORBIDDEN, address),
    }
}

/// The IPv4 address that a NAT64 one stands for.
fn embedded(address: IpAddr) -> Option<IpAddr> {
    match address {
        IpAddr::V6(v6) if within(&NAT64, address) => {
            let [.., a, b, c, d] = v6.octets();
            Some(IpAddr::from([a, b, c, d]))
        }
        _ => None,
    }
}

/// Looks names up and lets only addresses through that the guard lets pass.
struct Resolver {
    guard: Arc<Guard>,
    plain: bool,
}

impl Resolve for Resolver {
    fn resolve(&self, name: Name) -> Resolving {
        let (guard, plain) = (Arc::clone(&self.guard), self.plain);
        Box::pin(async move {
            let addresses: Vec<SocketAddr> = tokio::net::lookup_host((name.as_str(), 0)).await?.collect();
            // Receivers of this name were refused before: only the way to the proxy leads here.
            if !guard.proxy.as_deref().is_some_and(|proxy| proxy.eq_ignore_ascii_case(name.as_str())) {
                guard.check(name.as_str(), &addresses, plain)?;
            }
            Ok(Box::new(addresses.into_iter()) as Addrs)
        })
    }
}

/// The outgoing HTTP clients. Cheap to clone; connections are shared.
#[derive(Clone)]
pub struct Outgoing {
    guard: Arc<Guard>,
    secure: reqwest::Client,
    plain: reqwest::Client,
    has_proxy: bool,
}

impl Outgoing {
    /// `allow` holds addresses, networks and host names that the guard would refuse otherwise.
    ///
    /// # Errors
    /// An entry that is none of these, or a TLS set-up that fails.
    pub fn new(allow: &[String]) -> Result<Self, String> {
        Self::with(&Egress { allow: allow.to_vec(), ..Egress::default() })
    }

    /// The same with all that can be configured.
    ///
    /// # Errors
    /// A sentence that names what can't be used.
    pub fn with(egress: &Egress) -> Result<Self, String> {
        let proxy = egress.proxy.as_deref().map(read_proxy).transpose()?;
        let guard = Arc::new(Guard {
            allowed: List::parse("allow", &egress.allow)?,
            denied: List::parse("deny", &egress.deny)?,
            proxy: proxy.as_ref().and_then(|url| url.host_str().map(str::to_owned)),
        });
        let client = |plain: bool| client(Resolver { guard: Arc::clone(&guard), plain }, egress, proxy.as_ref());
        let (secure, plain) = (client(false)?, client(true)?);
        Ok(Self { guard, secure, plain, has_proxy: proxy.is_some() })
    }

    /// Whether calls go through a proxy: then names have to be checked before each of them.
    pub fn has_proxy(&self) -> bool {
        self.has_proxy
    }

    /// The client for a URL, if what can be known without a look-up allows the call. To be asked before every call:
    /// the resolver never sees literals.
    ///
    /// # Errors
    /// [`Refused`].
    pub fn client(&self, url: &Url) -> Result<&reqwest::Client, Refused> {
        let plain = url.scheme() == "http";
        if !plain && url.scheme() != "https" {
            return Err(Refused::Url(url.to_string()));
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(Refused::Credentials);
        }
        let literal = match url.host() {
            None => return Err(Refused::Url(url.to_string())),
            Some(Host::Domain(_)) => None,
            Some(Host::Ipv4(address)) => Some(IpAddr::V4(address)),
            Some(Host::Ipv6(address)) => Some(IpAddr::V6(address)),
        };
        if let Some(address) = literal {
            self.guard.check(&address.to_string(), &[SocketAddr::new(address, 0)], plain)?;
        }
        Ok(if plain { &self.plain } else { &self.secure })
    }

    /// Like [`Outgoing::client`], and looks the name up now. A name that can't be resolved at the moment passes: it is
    /// checked again at every connection.
    ///
    /// # Errors
    /// [`Refused`].
    pub async fn check(&self, url: &Url) -> Result<(), Refused> {
        self.client(url)?;
        let Some(Host::Domain(name)) = url.host() else { return Ok(()) };
        match tokio::net::lookup_host((name, 0)).await {
            Ok(addresses) => self.guard.check(name, &addresses.collect::<Vec<_>>(), url.scheme() == "http"),
            // A proxy would look it up again, and nobody would look at that.
            Err(_) if self.has_proxy && !self.guard.allowed.has_host(name) => {
                Err(Refused::Unresolved { host: name.to_owned() })
            }
            Err(_) => Ok(()),
        }
    }
}

/// The body of an answer, read no further than `most` bytes; nothing if it is larger.
///
/// # Errors
/// The connection.
pub async fn body(answer: &mut reqwest::Response, most: usize) -> reqwest::Result<Option<Vec<u8>>> {
    let mut body = Vec::new();
    while let Some(chunk) = answer.chunk().await? {
        if body.len() + chunk.len() > most {
            return Ok(None);
        }
        body.extend_from_slice(&chunk);
    }
    Ok(Some(body))
}

/// Whether the URL leads to this machine.
pub fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.to_canonical().is_loopback(),
        Some(Host::Domain(name)) => name.trim_end_matches('.').eq_ignore_ascii_case("localhost"),
        None => false,
    }
}

fn read_proxy(text: &str) -> Result<Url, String> {
    let url = Url::parse(text).ok().filter(|url| matches!(url.scheme(), "http" | "https" | "socks5") && url.has_host());
    url.ok_or_else(|| {
        "`webhooks.proxy` must be a URL with http, https or socks5, such as http://proxy.internal:3128".into()
    })
}

#[expect(clippy::disallowed_methods, reason = "the one place that makes clients")]
fn client(resolver: Resolver, egress: &Egress, proxy: Option<&Url>) -> Result<reqwest::Client, String> {
    // A second call answers with an error and changes nothing: that is fine, one provider is all that is needed.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let mut builder = reqwest::Client::builder();
    if let Some(pem) = &egress.authorities {
        let authorities = reqwest::Certificate::from_pem_bundle(pem).ok().filter(|list| !list.is_empty());
        builder = builder.tls_certs_merge(authorities.ok_or("`webhooks.ca_file` holds no certificates in PEM")?);
    }
    if let Some(pem) = &egress.identity {
        let identity = reqwest::Identity::from_pem(pem);
        let wanted = "`webhooks.client_cert_file` must hold a certificate chain and its key, both in PEM";
        builder = builder.identity(identity.map_err(|_| wanted)?);
    }
    builder = match proxy {
        // Names of proxies in the environment are never looked at.
        None => builder.no_proxy(),
        Some(url) => {
            let proxy = reqwest::Proxy::all(url.clone());
            builder.no_proxy().proxy(proxy.map_err(|cause| format!("`webhooks.proxy`: {cause}"))?)
        }
    };
    builder
        .dns_resolver(Arc::new(resolver))
        .redirect(reqwest::redirect::Policy::none())
        .connect_timeout(CONNECT_TIMEOUT)
        .pool_idle_timeout(IDLE_TIMEOUT)
        .pool_max_idle_per_host(IDLE_PER_HOST_MAX)
        .build()
        .map_err(|cause| format!("outgoing HTTP client: {cause}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_spelling_of_an_inner_address_is_refused() {
        let outgoing = Outgoing::new(&[]).expect("usable");
        for host in [
            "127.1",
            "0x7f000001",
            "2130706433",
            "[::1]",
            "[::ffff:127.0.0.1]",
            "[::7f00:1]",
            "[::ffff:0:7f00:1]",
            "[::5efe:7f00:1]",
            "[64:ff9b::7f00:1]",
            "[64:ff9b:1::1]",
            "[2002:7f00:1::]",
            "[2001:0::1]",
            "[fe80::1]",
            "[fec0::1]",
            "[fd00:ec2::254]",
            "169.254.169.254",
            "100.64.0.1",
            "0.0.0.0",
            "192.0.0.1",
            "192.88.99.1",
            "198.18.0.1",
            "224.0.0.1",
            "240.0.0.1",
            "255.255.255.255",
            "[100::1]",
            "[5f00::1]",
            "[2001:db8::1]",
            "[3fff::1]",
            "10.0.0.1",
            "172.31.0.1",
            "192.168.1.1",
        ] {
            let url = Url::parse(&format!("https://{host}/")).expect("a URL");
            assert!(matches!(outgoing.client(&url), Err(Refused::Address { .. })), "{host}");
        }
        for host in ["8.8.8.8", "[64:ff9b::808:808]", "[2606:4700::1111]"] {
            let url = Url::parse(&format!("https://{host}/")).expect("a URL");
            assert!(outgoing.client(&url).is_ok(), "{host}");
        }
    }

    #[test]
    fn plain_http_is_for_allowed_addresses_only() {
        let outgoing = Outgoing::new(&["127.0.0.0/8".to_owned()]).expect("usable");
        let check = |text: &str| outgoing.client(&Url::parse(text).expect("a URL")).map(|_| ());
        assert_eq!(check("http://127.0.0.1:9/x"), Ok(()));
        assert_eq!(check("http://8.8.8.8/"), Err(Refused::Plain));
        assert_eq!(check("https://user:secret@example.com/"), Err(Refused::Credentials));
        assert!(matches!(check("ftp://127.0.0.1/"), Err(Refused::Url(_))));
    }

    #[tokio::test]
    async fn a_name_that_leads_inside_is_refused_when_it_is_resolved() {
        let outgoing = Outgoing::new(&[]).expect("usable");
        let url = Url::parse("https://localhost:1/").expect("a URL");
        assert!(matches!(outgoing.check(&url).await, Err(Refused::Address { .. })));
        let error = outgoing.client(&url).expect("names pass").get(url.clone()).send().await.expect_err("refused");
        assert!(format!("{error:?}").contains("Address { host: \"localhost\""), "{error:?}");
    }
}
