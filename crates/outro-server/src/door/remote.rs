//! Media from other hosts: named ones, public addresses, one look-up, every redirect as a new request.

use std::fmt;
use std::io::{self, Read};
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use outro_media::Cancel;
use ureq::config::Config;
use ureq::http::{Response, Uri, header};
use ureq::unversioned::resolver::{ArrayVec, ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::{Connector, NextTimeout, RustlsConnector, TcpConnector};
use ureq::{Agent, Body, Error};

use super::address::is_public;
use super::spool::Spool;
use super::url::Target;
use super::{Refused, Rules};

/// Most redirects of a medium.
const REDIRECTS: usize = 4;
/// Longest time for a connection.
const CONNECT: Duration = Duration::from_secs(10);
/// How often a request is asked whether it is still wanted.
const POLL: Duration = Duration::from_millis(50);
/// Most addresses of a host that are tried; more are not looked at.
const ADDRESSES: usize = 16;

/// Addresses of a host by its name.
type Lookup = dyn Fn(&str) -> io::Result<Vec<IpAddr>> + Send + Sync;
/// The address that is connected to in place of one that was checked: itself, but in tests.
type Dial = dyn Fn(SocketAddr) -> SocketAddr + Send + Sync;

/// How names become addresses and addresses connections.
#[derive(Clone)]
pub(crate) struct Network {
    pub(crate) lookup: Arc<Lookup>,
    pub(crate) dial: Arc<Dial>,
}

impl Default for Network {
    fn default() -> Self {
        let lookup = |host: &str| Ok((host, 0).to_socket_addrs()?.map(|a| a.ip()).collect());
        Self {
            lookup: Arc::new(lookup),
            dial: Arc::new(|address| address),
        }
    }
}

impl fmt::Debug for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Network")
    }
}

/// Fetches a URL into the spool.
///
/// # Errors
/// 403 for what the rules or its addresses forbid, 413, 422 for what cannot be fetched, 504 for what takes too long, 499.
pub(super) fn fetch(
    rules: &Rules,
    network: &Network,
    url: &str,
    cancel: &Cancel,
    spool: &mut Spool,
) -> Result<(), Refused> {
    let until = Instant::now() + rules.fetch;
    let mut target = Target::parse(url)?;
    for _ in 0..=REDIRECTS {
        // All of it again for every redirect.
        target.allowed(rules)?;
        let addresses = addresses(&target, network, until, rules, cancel)?;
        let agent = agent(&target, addresses, rules, until)?;
        let done = watched(&agent, cancel, || one(&agent, &target, rules, cancel, spool));
        Refused::if_set(cancel)?;
        match done? {
            None => return Ok(()),
            Some(to) => target = target.redirected(&to)?,
        }
    }
    Err(Refused::new(
        422,
        format!("redirects more than {REDIRECTS} times"),
    ))
}

fn late(rules: &Rules) -> Refused {
    let text = format!("does not come within {} s", rules.fetch.as_secs_f32());
    Refused::new(504, text)
}

/// Looks a host up, once, and checks everything that is found.
fn addresses(
    target: &Target,
    network: &Network,
    until: Instant,
    rules: &Rules,
    cancel: &Cancel,
) -> Result<Vec<SocketAddr>, Refused> {
    let found = if let Some(address) = target.address {
        vec![address]
    } else {
        look_up(&target.host, network, until, rules, cancel)?
    };
    if found.is_empty() {
        return Err(Refused::new(422, "is at a host that is not found"));
    }
    // One that is not public spoils all: no host has both.
    if !found.iter().all(|a| is_public(*a)) {
        let text =
            "is at a host without a public address: private, local and reserved ones are not connected to";
        return Err(Refused::new(403, text));
    }
    let sockets = found.into_iter().take(ADDRESSES);
    Ok(sockets
        .map(|ip| (network.dial)(SocketAddr::new(ip, target.port)))
        .collect())
}

/// Asks for a name, in a thread of its own: the system's look-up cannot be interrupted.
fn look_up(
    host: &str,
    network: &Network,
    until: Instant,
    rules: &Rules,
    cancel: &Cancel,
) -> Result<Vec<IpAddr>, Refused> {
    let (send, receive) = channel();
    let (lookup, host) = (Arc::clone(&network.lookup), host.to_owned());
    thread::spawn(move || send.send(lookup(&host)));
    loop {
        Refused::if_set(cancel)?;
        match receive.recv_timeout(POLL) {
            Ok(found) => return Ok(found.unwrap_or_default()),
            Err(RecvTimeoutError::Timeout) if Instant::now() < until => {}
            Err(RecvTimeoutError::Timeout) => return Err(late(rules)),
            Err(RecvTimeoutError::Disconnected) => return Ok(Vec::new()),
        }
    }
}

/// Gives the addresses that were checked, and no others.
#[derive(Debug)]
struct Checked(Vec<SocketAddr>);

impl Resolver for Checked {
    fn resolve(&self, _: &Uri, _: &Config, _: NextTimeout) -> Result<ResolvedSocketAddrs, Error> {
        let mut all: ResolvedSocketAddrs = ArrayVec::from_fn(|_| SocketAddr::from(([0, 0, 0, 0], 0)));
        for address in self.0.iter().take(ADDRESSES) {
            all.push(*address);
        }
        Ok(all)
    }
}

/// A client for one request: no proxy, no redirects, no encoding, these addresses.
fn agent(
    target: &Target,
    addresses: Vec<SocketAddr>,
    rules: &Rules,
    until: Instant,
) -> Result<Agent, Refused> {
    let left = until.saturating_duration_since(Instant::now());
    if left.is_zero() {
        return Err(late(rules));
    }
    let config = outro_hub::http::client(&target.origin())
        .map_err(|_| Refused::new(500, "cannot be fetched: the server's certificates cannot be read"))?;
    let config = config
        .proxy(None)
        .max_redirects(0)
        .accept_encoding("identity")
        .max_idle_connections(0)
        .timeout_global(Some(left))
        .timeout_connect(Some(CONNECT.min(left)))
        .build();
    let connector = ().chain(TcpConnector::default()).chain(RustlsConnector::default());
    Ok(Agent::with_parts(config, connector, Checked(addresses)))
}

#[cfg(test)]
pub(super) fn agent_for_tests(rules: &Rules) -> Agent {
    let target = Target {
        secure: true,
        host: "media.example".into(),
        address: None,
        port: 443,
        path: "/".into(),
    };
    agent(&target, Vec::new(), rules, Instant::now() + rules.fetch)
        .unwrap_or_else(|_| Agent::new_with_defaults())
}

/// Does work that ends early where it is not wanted any more: its connection is shut down.
fn watched<T>(agent: &Agent, cancel: &Cancel, work: impl FnOnce() -> T) -> T {
    thread::scope(|scope| {
        let (done, ended) = channel::<()>();
        scope.spawn(move || {
            while ended.recv_timeout(POLL) == Err(RecvTimeoutError::Timeout) {
                if cancel.is_set() {
                    agent.clone().shutdown();
                    return;
                }
            }
        });
        let result = work();
        drop(done);
        result
    })
}

/// One request. `None` where the medium has come, else where it is said to be.
fn one(
    agent: &Agent,
    target: &Target,
    rules: &Rules,
    cancel: &Cancel,
    spool: &mut Spool,
) -> Result<Option<String>, Refused> {
    let url = format!("{}{}", target.origin(), target.path);
    let response = agent.get(&url).call().map_err(|e| failed(&e, rules))?;
    let status = response.status().as_u16();
    let field = |name| field(&response, name);
    match (status, field(header::LOCATION)) {
        (200, _) => {}
        (301 | 302 | 303 | 307 | 308, Some(to)) => return Ok(Some(to)),
        _ => {
            return Err(Refused::new(
                422,
                format!("cannot be fetched: its host answers {status}"),
            ));
        }
    }
    if field(header::CONTENT_ENCODING).is_some_and(|e| !e.eq_ignore_ascii_case("identity")) {
        let text = "comes compressed though that was not asked for, and is not taken so";
        return Err(Refused::new(422, text));
    }
    if let Some(bytes) = field(header::CONTENT_LENGTH).and_then(|n| n.parse().ok()) {
        spool.expect(bytes)?;
    }
    let mut body = response.into_body().into_reader();
    let mut piece = vec![0; 1 << 16];
    loop {
        Refused::if_set(cancel)?;
        match body.read(&mut piece) {
            Ok(0) => return Ok(None),
            Ok(n) => spool.write(&piece[..n])?,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(failed(&Error::from(e), rules)),
        }
    }
}

fn field(response: &Response<Body>, name: header::HeaderName) -> Option<String> {
    Some(response.headers().get(name)?.to_str().ok()?.trim().to_owned())
}

/// Why nothing came. An error's own words may hold an address.
fn failed(e: &Error, rules: &Rules) -> Refused {
    let why = match e {
        Error::Timeout(ureq::Timeout::Connect) => {
            return Refused::new(504, "cannot be fetched: its host does not take the connection");
        }
        Error::Timeout(_) => return late(rules),
        Error::Io(e) => match e.kind() {
            io::ErrorKind::ConnectionRefused => "its host refuses the connection",
            io::ErrorKind::TimedOut => return late(rules),
            io::ErrorKind::UnexpectedEof => "the connection ends before the medium does",
            _ => "the connection fails",
        },
        Error::Tls(_) | Error::Rustls(_) => "its host has no certificate that can be trusted",
        _ => "its host does not answer as HTTP asks for",
    };
    Refused::new(422, format!("cannot be fetched: {why}"))
}
