//! Who is at the other end of a proxy that we trust.

use std::net::IpAddr;

use axum::http::HeaderMap;
use ipnet::IpNet;

use crate::web::Peer;

/// The proxies in front, whose word on who called them is believed.
#[derive(Clone, Debug, Default)]
pub struct Proxies(Vec<IpNet>);

impl Proxies {
    /// Networks such as `10.0.0.0/8`, or addresses.
    ///
    /// # Errors
    /// A sentence that names what is neither.
    pub fn new(texts: &[String]) -> Result<Self, String> {
        let parse = |text: &String| {
            let network = text.parse::<IpNet>().or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
            network.map_err(|_| format!("`server.trusted_proxies`: `{text}` is no address and no network"))
        };
        texts.iter().map(parse).collect::<Result<_, _>>().map(Self)
    }

    fn trusts(&self, address: IpAddr) -> bool {
        self.0.iter().any(|network| network.contains(&address))
    }

    /// The last address of `X-Forwarded-For` that is none of ours: all before it are the caller's own words.
    pub(super) fn client(&self, peer: Peer, headers: &HeaderMap) -> Peer {
        if !self.trusts(peer.0) {
            return peer;
        }
        let lines: Vec<&str> =
            headers.get_all("x-forwarded-for").iter().filter_map(|value| value.to_str().ok()).collect();
        let mut client = peer;
        for hop in lines.iter().flat_map(|line| line.split(',')).rev() {
            let hop = hop.trim();
            let address = hop.parse::<IpAddr>().or_else(|_| hop.parse::<std::net::SocketAddr>().map(|it| it.ip()));
            let Ok(address) = address else { return client };
            client = Peer(address.to_canonical());
            if !self.trusts(client.0) {
                return client;
            }
        }
        client
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_trusted_proxy_says_who_calls() {
        let proxies = Proxies::new(&["10.0.0.0/8".into(), "::1".into()]).expect("networks");
        let peer = |text: &str| Peer(text.parse().expect("an address"));
        let said = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert("x-forwarded-for", text.parse().expect("a header"));
            headers
        };
        let of = |from: &str, text: &str| proxies.client(peer(from), &said(text));
        assert_eq!(of("192.0.2.1", "198.51.100.1"), peer("192.0.2.1"));
        assert_eq!(of("10.1.1.1", "198.51.100.1"), peer("198.51.100.1"));
        assert_eq!(of("10.1.1.1", "1.2.3.4, 198.51.100.1:4711, 10.2.2.2"), peer("198.51.100.1"), "the rest is hearsay");
        assert_eq!(of("10.1.1.1", "198.51.100.1, nonsense"), peer("10.1.1.1"));
        assert_eq!(of("::1", "::ffff:198.51.100.1"), peer("198.51.100.1"));
        assert!(Proxies::new(&["proxy".into()]).is_err());
    }
}
