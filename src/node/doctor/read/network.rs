//! Who answers: the gateways, and this machine's own sshd. Each is a real connection.

use super::{LIMIT, certificate};
use crate::app::protocol::Reach;
use crate::domain::Timestamp;
use crate::node::{
    config::NodeConfig,
    doctor::facts::{Answer, Blind, HostCertificate, Offered, Seen, Word},
    link::{self, Greeting, HostKey, LinkError},
    tunnel,
};
use russh::{
    client,
    keys::{Algorithm, PublicKeyOrCertificate, ssh_key::Certificate},
};
use std::{
    borrow::Cow,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
};
use tokio::net::TcpStream;

/// Asks each gateway of node.toml: whether it is the right one, and, as root, whether it accepts this node.
pub(super) async fn gateways(
    config: Option<&NodeConfig>,
    root: bool,
    clock: fn() -> Timestamp,
) -> Vec<(String, Seen<Answer>)> {
    let Some(config) = config else { return vec![] };
    let key = if root { HostKey::load(&config.host_key).ok() } else { None };
    let asked = config.gateways.iter().map(|gateway| {
        let key = key.as_ref();
        async move { (gateway.clone(), greet(gateway, key, config, clock).await) }
    });
    futures_util::future::join_all(asked).await
}

/// Dials sshd as the agent does for gateways, if it does.
pub(super) async fn tunnel(config: Option<&NodeConfig>) -> Option<(SocketAddr, Seen<()>)> {
    let sshd = config.filter(|config| config.reach == Reach::Tunnel)?.sshd_address;
    let dialled = match tokio::time::timeout(LIMIT, tunnel::dial(sshd)).await {
        Ok(dialled) => dialled.map(drop).map_err(|error| Blind::Failed(error.to_string())),
        Err(_) => Err(Blind::Failed(format!("no answer in {} s", LIMIT.as_secs()))),
    };
    Some((sshd, dialled))
}

async fn greet(gateway: &str, key: Option<&HostKey>, config: &NodeConfig, clock: fn() -> Timestamp) -> Seen<Answer> {
    let silent = || Blind::Failed(format!("no answer in {} s", LIMIT.as_secs()));
    let greeted = link::greet(gateway, key, &config.gateway_host_keys);
    match tokio::time::timeout(LIMIT, greeted).await.map_err(|_| silent())? {
        Ok(Greeting::Right) => Ok(Answer::Right),
        Ok(Greeting::Welcome(answer)) => {
            let current = answer.and_then(|answer| answer.current);
            // What it says is worth as much as the signature on it.
            let cluster = config.node.cluster_path();
            let current = current.and_then(|current| current.open(&config.bundle_keys, &cluster).ok());
            Ok(Answer::Welcome(current.map(|current| Word { current, heard: clock() })))
        }
        Err(LinkError::HostKey { found, .. }) => Ok(Answer::Stranger(found)),
        Err(LinkError::Refused(_)) => Ok(Answer::Refused),
        Err(LinkError::Transport { why, .. }) => Err(Blind::Failed(why)),
        Err(LinkError::Ended { message, .. }) => Err(Blind::Failed(format!("it ended the connection: {message}"))),
        Err(error) => Err(Blind::Failed(error.to_string())),
    }
}

/// Looks at what sshd shows, and goes no further.
struct Eye(Arc<Mutex<Option<Shown>>>);

/// A host certificate, or a plain key.
type Shown = Option<Certificate>;

impl client::Handler for Eye {
    type Error = russh::Error;

    async fn check_server_key(&mut self, shown: &PublicKeyOrCertificate) -> Result<bool, Self::Error> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(match shown {
            PublicKeyOrCertificate::Certificate(certificate) => Some(certificate.clone()),
            PublicKeyOrCertificate::PublicKey { .. } => None,
        });
        Ok(false)
    }
}

/// What sshd shows at one of the addresses where it listens.
pub(super) async fn offered(addresses: &[String], installed: Option<&HostCertificate>, root: bool) -> Seen<Offered> {
    let mut places: Vec<SocketAddr> = addresses.iter().filter_map(|address| address.parse().ok()).map(near).collect();
    places.sort_by_key(|place| !place.is_ipv4());
    let mut last = Blind::Failed("it listens nowhere".into());
    for place in places.into_iter().take(3) {
        match tokio::time::timeout(LIMIT, look(place, installed)).await {
            Ok(Ok(offered)) => return Ok(offered),
            Ok(Err(why)) => last = Blind::Failed(format!("{place}: {why}")),
            Err(_) => last = Blind::Failed(format!("{place}: no answer in {} s", LIMIT.as_secs())),
        }
    }
    // Where it listens is known to root only.
    if root { Err(last) } else { Err(Blind::Denied(last.why().to_owned())) }
}

/// From here: an address that stands for all of them cannot be connected to.
fn near(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

async fn look(place: SocketAddr, installed: Option<&HostCertificate>) -> Result<Offered, String> {
    let stream = TcpStream::connect(place).await.map_err(|error| error.to_string())?;
    let wanted = installed.map_or(Algorithm::Ed25519, |installed| certificate::algorithm(&installed.key));
    let preferred = russh::Preferred { host_key_certificates: Cow::Owned(vec![wanted]), ..russh::Preferred::DEFAULT };
    let config = client::Config { preferred, ..client::Config::default() };
    let shown = Arc::new(Mutex::new(None));
    let done = client::connect_stream(Arc::new(config), stream, Eye(Arc::clone(&shown))).await;
    let shown = shown.lock().unwrap_or_else(PoisonError::into_inner).take();
    match shown {
        Some(shown) => {
            Ok(Offered { address: place.to_string(), certificate: shown.as_ref().and_then(certificate::of) })
        }
        None => Err(done.err().map_or_else(|| "it shows no host key".into(), |error| error.to_string())),
    }
}
