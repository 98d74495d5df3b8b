//! The HTTP client of the whole program: TLS with the system's certificates, the proxy variables, no surprises.

use std::sync::Arc;
use std::time::Duration;

use ureq::config::{AutoHeaderValue, ConfigBuilder};
use ureq::http::Uri;
use ureq::tls::{Certificate, PemItem, RootCerts, TlsConfig};
use ureq::typestate::AgentScope;
use ureq::{Agent, Body, Proxy, http::Response};

use crate::error::{Cause, Error, Result};
use crate::settings::{Settings, Token};

/// Most redirects in a row.
const REDIRECTS: usize = 8;
/// A server that sends nothing for this long is gone.
const STALL: Duration = Duration::from_mins(1);
/// For finding the host, the connection and TLS, each.
const CONNECT: Duration = Duration::from_secs(20);
/// Most bytes of a listing.
const JSON: u64 = 64 << 20;

/// A client for `url`, to which callers add their time limits. It follows no redirects, takes no status for an error, and
/// goes through the proxy that HTTPS_PROXY, HTTP_PROXY, ALL_PROXY and NO_PROXY ask for. Trusted are the system's
/// certificates (or SSL_CERT_FILE's) and those of REQUESTS_CA_BUNDLE; where there are none, Mozilla's list.
///
/// # Errors
/// `url` is no URL of HTTP; a proxy that cannot be used; a file of certificates that cannot be read.
pub fn client(url: &str) -> Result<ConfigBuilder<AgentScope>> {
    let uri: Option<Uri> = url.parse().ok();
    let scheme = uri
        .as_ref()
        .filter(|u| u.host().is_some_and(|h| !h.is_empty()))
        .and_then(Uri::scheme_str)
        .filter(|s| ["http", "https"].contains(s))
        .ok_or_else(|| {
            Error::new(
                Cause::Settings,
                format!("`{url}` is not a URL such as https://host"),
            )
        })?;
    let var = |name: &str| std::env::var(name).ok().filter(|v| !v.trim().is_empty());
    let mut tls = TlsConfig::builder();
    if scheme == "https" {
        tls = tls.root_certs(roots(
            ["REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"].into_iter().find_map(var),
        )?);
    }
    Ok(Agent::config_builder()
        .http_status_as_error(false)
        .max_redirects(0)
        .user_agent(AutoHeaderValue::from(concat!(
            "outro/",
            env!("CARGO_PKG_VERSION")
        )))
        .proxy(proxy(scheme, &var)?)
        .tls_config(tls.build()))
}

/// The proxy for URLs of a scheme, by the variables that other programs read, in their order.
fn proxy(scheme: &str, var: &dyn Fn(&str) -> Option<String>) -> Result<Option<Proxy>> {
    let names = [format!("{scheme}_proxy"), "all_proxy".into()];
    let found = names.into_iter().find_map(|n| {
        let upper = n.to_uppercase();
        var(&n)
            .map(|v| (n, v))
            .or_else(|| var(&upper).map(|v| (upper, v)))
    });
    let Some((name, value)) = found else {
        return Ok(None);
    };
    // The value may hold a password.
    let bad = |why: &str| {
        Error::new(Cause::Settings, format!("{name}: {why}")).hint("give it the form http://host:port")
    };
    let parsed = Proxy::new(value.trim()).map_err(|_| bad("is not the URL of a proxy"))?;
    let builder = Proxy::builder(parsed.protocol());
    if !matches!(
        parsed.protocol(),
        ureq::ProxyProtocol::Http | ureq::ProxyProtocol::Https
    ) {
        return Err(bad("SOCKS proxies are not supported"));
    }
    let mut builder = builder.host(parsed.host()).port(parsed.port());
    if let Some(user) = parsed.username() {
        builder = builder.username(user);
    }
    if let Some(password) = parsed.password() {
        builder = builder.password(password);
    }
    let direct = var("no_proxy").or_else(|| var("NO_PROXY")).unwrap_or_default();
    for host in direct.split(',').map(str::trim).filter(|h| !h.is_empty()) {
        // A domain stands for its hosts too, with and without a dot before it.
        let domain = host.trim_start_matches("*.").trim_start_matches('.');
        builder = builder.no_proxy(domain).no_proxy(&format!(".{domain}"));
    }
    builder
        .build()
        .map(Some)
        .map_err(|_| bad("is not the URL of a proxy"))
}

/// The system's certificates and those of a file.
fn roots(bundle: Option<String>) -> Result<RootCerts> {
    let system = rustls_native_certs::load_native_certs();
    let mut all: Vec<_> = system
        .certs
        .iter()
        .map(|c| Certificate::from_der(c).to_owned())
        .collect();
    if let Some(file) = bundle {
        let path = std::path::Path::new(&file);
        // A directory of hashed links is what OpenSSL reads; the system's list serves instead.
        if !path.is_dir() {
            let pem = std::fs::read(path).map_err(Error::io(path, "the certificates cannot be read"))?;
            all.extend(ureq::tls::parse_pem(&pem).filter_map(|item| match item {
                Ok(PemItem::Certificate(c)) => Some(c),
                _ => None,
            }));
        }
    }
    Ok(if all.is_empty() {
        RootCerts::WebPki
    } else {
        RootCerts::Specific(Arc::new(all))
    })
}

/// Why a request brought nothing.
#[derive(Debug)]
pub(crate) enum Failure {
    /// An answer, and not the one that was wanted.
    Status {
        status: u16,
        /// `X-Error-Code`, the hub's own name for it.
        code: String,
        /// Seconds to wait, where it says so.
        wait: Option<u64>,
    },
    /// No answer, or none of the hub's.
    Broken(String),
}

impl Failure {
    /// Worth another attempt.
    pub(crate) fn transient(&self) -> bool {
        match self {
            Self::Status { status, .. } => matches!(status, 408 | 416 | 429 | 500..),
            Self::Broken(_) => true,
        }
    }

    /// The hub gave no answer, or none of its own.
    pub(crate) fn unreachable(&self) -> bool {
        match self {
            Self::Status { status, .. } => *status >= 500,
            Self::Broken(_) => true,
        }
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Status { status, .. } => write!(f, "it answers {status}"),
            Self::Broken(why) => f.write_str(why),
        }
    }
}

/// A hub that can be asked.
pub(crate) struct Client<'a> {
    pub(crate) endpoint: &'a str,
    token: Option<&'a Token>,
    agent: Agent,
}

impl<'a> Client<'a> {
    pub(crate) fn new(settings: &'a Settings) -> Result<Self> {
        let endpoint = &settings.endpoint;
        let config = client(endpoint).map_err(|e| {
            let hint = e
                .way_out()
                .unwrap_or("look at HF_ENDPOINT; it must be a URL such as https://host");
            Error::new(e.cause, format!("the hub cannot be asked: {e}")).hint(hint)
        })?;
        if settings
            .token
            .as_ref()
            .is_some_and(|t| !t.0.bytes().all(|b| b.is_ascii_graphic()))
        {
            return Err(
                Error::new(Cause::Settings, "the token holds characters that no token has")
                    .hint("look at HF_TOKEN, or at the token file in HF_HOME"),
            );
        }
        let agent = config
            .timeout_resolve(Some(CONNECT))
            .timeout_connect(Some(CONNECT))
            .timeout_recv_response(Some(STALL))
            .timeout_per_read(Some(STALL))
            .timeout_per_write(Some(STALL))
            .build()
            .new_agent();
        Ok(Self {
            endpoint,
            token: settings.token.as_ref(),
            agent,
        })
    }

    /// A GET that follows redirects. The token goes to the endpoint's own host only: large files lie at others, whose URLs
    /// are signed.
    pub(crate) fn get(&self, url: &str, range: Option<&str>) -> std::result::Result<Response<Body>, Failure> {
        let mut url = url.to_owned();
        for _ in 0..REDIRECTS {
            let mut request = self.agent.get(&url);
            if let Some(token) = self.token
                && origin(&url).eq_ignore_ascii_case(origin(self.endpoint))
            {
                request = request.header("Authorization", format!("Bearer {}", token.0));
            }
            if let Some(range) = range {
                request = request.header("Range", range);
            }
            let response = request.call().map_err(|e| broken(&e))?;
            let status = response.status().as_u16();
            if (200..300).contains(&status) {
                return Ok(response);
            }
            let header = |name: &str| response.headers().get(name).and_then(|v| v.to_str().ok());
            match header("Location") {
                Some(to) if (300..400).contains(&status) => url = redirected(&url, to),
                _ => {
                    return Err(Failure::Status {
                        status,
                        code: header("X-Error-Code").unwrap_or_default().to_owned(),
                        wait: header("Retry-After").and_then(|w| w.trim().parse().ok()),
                    });
                }
            }
        }
        Err(Failure::Broken("it redirects without end".into()))
    }

    /// A GET of JSON, and the URL of the next page where there is one.
    pub(crate) fn json(
        &self,
        url: &str,
    ) -> std::result::Result<(serde_json::Value, Option<String>), Failure> {
        let response = self.get(url, None)?;
        let links = response.headers().get("Link").and_then(|v| v.to_str().ok());
        let next = links.and_then(next).map(|to| redirected(url, to));
        let text = response
            .into_body()
            .into_with_config()
            .limit(JSON)
            .read_to_string();
        let text = text.map_err(|e| broken(&e))?;
        let value = serde_json::from_str(&text)
            .map_err(|_| Failure::Broken("it answers something that is not JSON".into()))?;
        Ok((value, next))
    }
}

pub(crate) fn broken(error: &ureq::Error) -> Failure {
    use ureq::Timeout::{Connect, Resolve};
    Failure::Broken(match error {
        ureq::Error::Timeout(Resolve | Connect) => format!("no connection within {} s", CONNECT.as_secs()),
        ureq::Error::Timeout(_) => format!("nothing came for {} s", STALL.as_secs()),
        ureq::Error::Io(e) => e.to_string(),
        e => e.to_string(),
    })
}

/// Scheme, host and port of a URL.
fn origin(url: &str) -> &str {
    let host = url.find("://").map_or(0, |i| i + 3);
    let end = url[host..].find(['/', '?', '#']).map_or(url.len(), |i| host + i);
    &url[..end]
}

/// Where a redirect leads that was met at `url`.
fn redirected(url: &str, to: &str) -> String {
    if to.contains("://") {
        to.to_owned()
    } else if to.starts_with("//") {
        format!("{}{to}", url.split("//").next().unwrap_or_default())
    } else if to.starts_with('/') {
        format!("{}{to}", origin(url))
    } else {
        let path = url.split(['?', '#']).next().unwrap_or_default();
        let dir = path
            .rfind('/')
            .filter(|i| *i >= origin(url).len())
            .map_or(path, |i| &path[..i]);
        format!("{dir}/{to}")
    }
}

/// The next page of a `Link` header.
fn next(links: &str) -> Option<&str> {
    let link = links.split(',').find(|l| l.contains("rel=\"next\""))?;
    link.split('<').nth(1)?.split('>').next()
}

/// Percent-encodes everything that has a meaning in a URL.
pub(crate) fn quoted(text: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"._-~".contains(&b);
    text.bytes().fold(String::new(), |mut s, b| {
        if plain(b) {
            s.push(char::from(b));
            s
        } else {
            s + &format!("%{b:02X}")
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls() {
        assert_eq!(origin("https://h:8/a/b?c"), "https://h:8");
        assert_eq!(origin("https://h?c"), "https://h");
        for (to, at) in [
            ("https://cdn/x", "https://cdn/x"),
            ("//cdn/x", "https://cdn/x"),
            ("/x?y", "https://h:8/x?y"),
            ("x", "https://h:8/a/x"),
        ] {
            assert_eq!(redirected("https://h:8/a/b?c=/d", to), at);
        }
        assert_eq!(redirected("https://h", "x"), "https://h/x");
        assert_eq!(next("<http://h/a?b=1>; rel=\"next\""), Some("http://h/a?b=1"));
        assert_eq!(next("<a>; rel=\"prev\", <b>; rel=\"next\""), Some("b"));
        assert_eq!(next("<a>; rel=\"prev\""), None);
        assert_eq!(quoted("refs/pr/1 \u{e9}"), "refs%2Fpr%2F1%20%C3%A9");
    }

    #[test]
    fn only_urls_of_http_are_asked() {
        assert!(client("http://127.0.0.1:1").is_ok());
        for url in ["no url", "", "ftp://host", "host", "https://"] {
            assert_eq!(
                client(url).err().map(|e| e.cause),
                Some(Cause::Settings),
                "{url:?}"
            );
        }
    }

    #[test]
    fn proxies() {
        let of = |scheme: &str, vars: &[(&str, &str)]| {
            let var = |name: &str| {
                vars.iter()
                    .find(|(n, _)| *n == name)
                    .map(|(_, v)| (*v).to_owned())
            };
            proxy(scheme, &var)
        };
        let host = |scheme, vars: &[(&str, &str)]| of(scheme, vars).unwrap().map(|p| p.host().to_owned());
        assert_eq!(host("https", &[]), None);
        assert_eq!(host("https", &[("HTTP_PROXY", "http://p")]), None);
        assert_eq!(
            host("https", &[("HTTPS_PROXY", "http://p:3128")]).as_deref(),
            Some("p")
        );
        let both = [("ALL_PROXY", "socks5://s"), ("https_proxy", "p:1")];
        assert_eq!(host("https", &both).as_deref(), Some("p"));
        let error = of("http", &both).unwrap_err();
        assert!(
            error.to_string().contains("ALL_PROXY") && error.to_string().contains("SOCKS"),
            "{error}"
        );
        let error = of("http", &[("http_proxy", "http://me:pa ss@p")]).unwrap_err();
        assert!(!error.to_string().contains("ss@"), "{error}");
        let proxy = of(
            "https",
            &[
                ("https_proxy", "http://me:p%40ss@p:1"),
                ("NO_PROXY", "a.b, .c.d ,127.0.0.1"),
            ],
        );
        let proxy = proxy.unwrap().unwrap();
        assert_eq!(
            (proxy.username(), proxy.password(), proxy.port()),
            (Some("me"), Some("p@ss"), 1)
        );
        for (url, direct) in [
            ("https://a.b/x", true),
            ("https://x.a.b/x", true),
            ("https://xa.b/x", false),
            ("https://x.c.d", true),
            ("http://127.0.0.1:5", true),
            ("https://e.f", false),
        ] {
            assert_eq!(proxy.is_no_proxy(&url.parse().unwrap()), direct, "{url}");
        }
    }
}
