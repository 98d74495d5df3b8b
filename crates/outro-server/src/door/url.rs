//! URLs of remote media, in one reading.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{Refused, Rules};

/// Longest URL.
const URL: usize = 8192;

/// Where a request goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Target {
    pub(super) secure: bool,
    /// A name in small letters without a dot at its end, or an address; of IPv6 in brackets.
    pub(super) host: String,
    pub(super) address: Option<IpAddr>,
    pub(super) port: u16,
    /// From the first slash on.
    pub(super) path: String,
}

impl Target {
    /// Reads a URL, strictly: what different programs read differently is refused.
    pub(super) fn parse(url: &str) -> Result<Self, Refused> {
        let bad = |text: &str| Refused::new(422, format!("is a URL {text}"));
        if url.len() > URL {
            return Err(bad("of more than 8192 characters"));
        }
        if !url.bytes().all(|b| b.is_ascii_graphic() && b != b'\\') {
            return Err(bad(
                "with characters that no URL has: write others percent-encoded, and a host in Punycode (xn--)",
            ));
        }
        let url = url.split('#').next().unwrap_or_default();
        let (scheme, rest) = url.split_once("://").ok_or_else(|| bad("without `://`"))?;
        let secure = match scheme.to_ascii_lowercase().as_str() {
            "https" => true,
            "http" => false,
            _ => {
                return Err(bad(
                    "of a scheme that is not fetched: https, data and file are taken",
                ));
            }
        };
        let end = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at(end);
        if authority.contains('@') {
            return Err(bad("with a user name before its host, which is not taken"));
        }
        let (host, port) = match authority.strip_prefix('[') {
            Some(rest) => {
                let (inside, behind) = rest
                    .split_once(']')
                    .ok_or_else(|| bad("whose host is no address"))?;
                let port = match behind {
                    "" => None,
                    p => Some(
                        p.strip_prefix(':')
                            .ok_or_else(|| bad("whose host is no address"))?,
                    ),
                };
                (Host::V6(inside), port)
            }
            None => match authority.split_once(':') {
                Some((host, port)) => (Host::Name(host), Some(port)),
                None => (Host::Name(authority), None),
            },
        };
        let usual = if secure { 443 } else { 80 };
        let port = match port.filter(|p| !p.is_empty()) {
            None => usual,
            Some(p) if p.bytes().all(|b| b.is_ascii_digit()) => p
                .parse()
                .ok()
                .filter(|p| *p > 0)
                .ok_or_else(|| bad("whose port is no number up to 65535"))?,
            Some(_) => return Err(bad("whose port is no number up to 65535")),
        };
        let (host, address) = host.normal().ok_or_else(|| {
            bad("whose host is neither a name nor an address of the usual form (`192.0.2.1`, `[2001:db8::1]`)")
        })?;
        let path = match path.as_bytes().first() {
            None => "/".to_owned(),
            Some(b'?') => format!("/{path}"),
            _ => path.to_owned(),
        };
        Ok(Self {
            secure,
            host,
            address,
            port,
            path,
        })
    }

    fn is_usual_port(&self) -> bool {
        self.port == if self.secure { 443 } else { 80 }
    }

    /// Scheme, host and port.
    pub(super) fn origin(&self) -> String {
        let scheme = if self.secure { "https" } else { "http" };
        if self.is_usual_port() {
            format!("{scheme}://{}", self.host)
        } else {
            format!("{scheme}://{}:{}", self.host, self.port)
        }
    }

    /// Where a redirect leads that was met here.
    pub(super) fn redirected(&self, to: &str) -> Result<Self, Refused> {
        let scheme = to.split_once(':').map(|(scheme, _)| scheme);
        let is_scheme = |s: &str| {
            s.starts_with(|c: char| c.is_ascii_alphabetic())
                && s.bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b))
        };
        if scheme.is_some_and(is_scheme) {
            return Self::parse(to);
        }
        let (origin, path) = (self.origin(), self.path.split('?').next().unwrap_or("/"));
        Self::parse(&match to.as_bytes() {
            [b'/', b'/', ..] => format!("{}:{to}", if self.secure { "https" } else { "http" }),
            [b'/', ..] => format!("{origin}{to}"),
            [b'?', ..] => format!("{origin}{path}{to}"),
            _ => format!(
                "{origin}{}/{to}",
                path.rsplit_once('/').map_or("", |(dir, _)| dir)
            ),
        })
    }

    /// # Errors
    /// 403 for what the rules do not name.
    pub(super) fn allowed(&self, rules: &Rules) -> Result<(), Refused> {
        let no = |text: String| Err(Refused::new(403, text));
        if rules.domains.is_empty() {
            return no(
                "is a remote URL, and this server fetches none: no host is named that may be asked".into(),
            );
        }
        if !self.secure && !rules.plain_http {
            return no("is a URL of http, and only https is fetched".into());
        }
        let named = rules.domains.iter().any(|d| self.is(d));
        if !named {
            let shown: String = self.host.chars().take(100).collect();
            let port = if self.is_usual_port() {
                String::new()
            } else {
                format!(":{}", self.port)
            };
            return no(format!(
                "is at {shown}{port}, which is none of the hosts that may be asked"
            ));
        }
        Ok(())
    }

    /// Whether a rule's `host` or `host:port` names it; without a port only the usual one is meant.
    fn is(&self, domain: &str) -> bool {
        let domain = domain.trim().to_ascii_lowercase();
        let (host, port) = match domain.rsplit_once(':') {
            // The colons of an address are no port's.
            Some((host, port)) if !port.contains(']') && (!host.contains(':') || host.ends_with(']')) => {
                (host, Some(port))
            }
            _ => (domain.as_str(), None),
        };
        let inside = host.strip_prefix('[').and_then(|h| h.strip_suffix(']'));
        let Some((host, _)) = inside.map_or(Host::Name(host), Host::V6).normal() else {
            return false;
        };
        let same_port = match port {
            Some(port) => port.parse() == Ok(self.port),
            None => self.is_usual_port(),
        };
        same_port && host == self.host
    }
}

enum Host<'a> {
    Name(&'a str),
    V6(&'a str),
}

impl Host<'_> {
    /// In one form of many, and the address where it is one. Addresses in decimal, octal or hexadecimal numbers, in fewer than
    /// four parts or with a zone are none.
    fn normal(self) -> Option<(String, Option<IpAddr>)> {
        match self {
            Self::V6(text) => {
                let address: Ipv6Addr = text.parse().ok()?;
                Some((format!("[{address}]"), Some(address.into())))
            }
            Self::Name(text) => {
                let name = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
                let label = |l: &str| {
                    (1..=63).contains(&l.len())
                        && !l.starts_with('-')
                        && l.bytes()
                            .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
                };
                if name.len() > 253 || !name.split('.').all(label) {
                    return None;
                }
                let last = name.rsplit('.').next().unwrap_or_default();
                let hexadecimal = last
                    .strip_prefix("0x")
                    .is_some_and(|h| h.bytes().all(|b| b.is_ascii_hexdigit()));
                if hexadecimal || last.bytes().all(|b| b.is_ascii_digit()) {
                    let address: Ipv4Addr = name.parse().ok()?;
                    return Some((address.to_string(), Some(address.into())));
                }
                Some((name, None))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_have_one_reading() {
        for (url, origin, path) in [
            (
                "https://Media.Example./a/b?c#d",
                "https://media.example",
                "/a/b?c",
            ),
            ("HTTPS://media.example:443", "https://media.example", "/"),
            ("http://media.example:8080?x", "http://media.example:8080", "/?x"),
            ("https://media.example:/x", "https://media.example", "/x"),
            (
                "https://xn--mnchen-3ya.example/",
                "https://xn--mnchen-3ya.example",
                "/",
            ),
            ("https://1.2.3.4/", "https://1.2.3.4", "/"),
            ("https://[2001:DB8:0::1]:8443/", "https://[2001:db8::1]:8443", "/"),
        ] {
            let target = Target::parse(url).unwrap();
            assert_eq!(
                (target.origin().as_str(), target.path.as_str()),
                (origin, path),
                "{url}"
            );
        }
        for url in [
            "https:///x",
            "https://",
            "https:/x",
            "https:media.example",
            "ftp://media.example/x",
            "gopher://media.example/x",
            "https://user@media.example/",
            "https://media.example:80@evil.example/",
            "https://media.example\\@evil.example/",
            "https://media.example /",
            "https://media.example\n/",
            "https://m\u{fc}nchen.example/",
            "https://media.example\u{3002}evil.example/",
            "https://media%2eexample/",
            "https://media..example/",
            "https://-media.example/",
            "https://media.example../",
            "https://media.example:0/",
            "https://media.example:65536/",
            "https://media.example:+80/",
            "https://media.example:8 0/",
            "https://media.example:80:80/",
            "https://2130706433/",
            "https://017700000001/",
            "https://0x7f000001/",
            "https://0x7f.0.0.1/",
            "https://0177.0.0.1/",
            "https://127.1/",
            "https://127.0.1/",
            "https://1.2.3.4.5/",
            "https://media.example.0x1/",
            "https://0x/",
            "https://[::1/",
            "https://[::1]x/",
            "https://[fe80::1%25eth0]/",
            "https://[1.2.3.4]/",
            "https://::1/",
        ] {
            assert_eq!(Target::parse(url).unwrap_err().status, 422, "{url}");
        }
        assert!(Target::parse(&format!("https://media.example/{}", "x".repeat(9000))).is_err());
    }

    #[test]
    fn redirects_are_read_as_urls() {
        let from = Target::parse("https://a.example:8443/b/c?d=/e").unwrap();
        let to = |to: &str| from.redirected(to).map(|t| format!("{}{}", t.origin(), t.path));
        for (location, url) in [
            ("http://b.example/x", "http://b.example/x"),
            ("//b.example/x", "https://b.example/x"),
            ("/x?y", "https://a.example:8443/x?y"),
            ("x", "https://a.example:8443/b/x"),
            ("?z", "https://a.example:8443/b/c?z"),
        ] {
            assert_eq!(to(location).unwrap(), url, "{location}");
        }
        for location in [
            "file:///etc/passwd",
            "file:x",
            "data:image/png;base64,AAAA",
            "javascript:x",
            "https:x",
        ] {
            assert_eq!(to(location).unwrap_err().status, 422, "{location}");
        }
    }

    #[test]
    fn hosts_are_named_exactly() {
        let is = |url: &str, domain: &str| Target::parse(url).unwrap().is(domain);
        assert!(is("https://media.example/", "media.example"));
        assert!(is("https://media.example/", " Media.Example. "));
        assert!(is("http://media.example/", "media.example"));
        assert!(is("https://media.example:8443/", "media.example:8443"));
        assert!(is("https://media.example/", "media.example:443"));
        assert!(is("https://[2606::1]/", "[2606::1]"));
        assert!(is("https://[2606::1]:8443/", "[2606::1]:8443"));
        for (url, domain) in [
            ("https://media.example:8443/", "media.example"),
            ("https://media.example/", "media.example:8443"),
            ("https://a.media.example/", "media.example"),
            ("https://media.example.evil.example/", "media.example"),
            ("https://xmedia.example/", "media.example"),
            ("https://media.example/", "*"),
            ("https://media.example/", "*.example"),
            ("https://media.example/", ""),
            ("https://[2606::1]/", "[2606::1]:8443"),
        ] {
            assert!(!is(url, domain), "{url} {domain}");
        }
    }
}
