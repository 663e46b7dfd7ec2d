//! A gateway with its authority, one person, a cluster whose nodes are ports of this machine; and an sshd beside it that
//! lets the same person jump to the same ports.

use super::{
    authority::{Authority, PEER},
    cpu_seconds,
    gateway::Gateway,
    sshd::{self, Sshd, keygen},
};
use certgate::app::{
    authority::Authority as _,
    protocol::{Join, JoinAnswer, JoinRequest},
    token::TokenText,
};
use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
};

/// See the module.
pub struct Jump {
    pub gateway: Gateway,
    pub authority: Authority,
    pub sshd: Sshd,
    /// The person's private key.
    pub key: PathBuf,
    nodes: usize,
}

/// What is jumped through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Through {
    Gateway,
    Sshd,
}

impl Through {
    /// Both, in the order in which they are measured.
    pub const BOTH: [Self; 2] = [Self::Gateway, Self::Sshd];
}

/// Where a jump goes to, by either way.
#[derive(Clone, Debug)]
pub struct Target {
    name: String,
    address: SocketAddr,
}

impl Target {
    /// As one names it: host and port.
    pub fn host(&self, through: Through) -> (String, u16) {
        match through {
            // The port of the node is the authority's business.
            Through::Gateway => (self.name.clone(), 22),
            Through::Sshd => (self.address.ip().to_string(), self.address.port()),
        }
    }
}

impl Jump {
    pub async fn start(dir: &Path) -> Self {
        let authority = Authority::start(&dir.join("state"));
        let gateway = Gateway::start(&authority, dir).await;
        let key = keygen(dir, "id");
        let public = fs::read_to_string(key.with_extension("pub")).unwrap();
        let public = public.trim();
        authority.operator(&["org", "create", "acme"]).await;
        person(&authority, "user0", public).await;
        authority.operator(&["project", "create", "acme/bench", "--admin", "user0@acme.example"]).await;
        authority.operator(&["cluster", "create", "acme/bench", "here", "--kind", "slurm"]).await;
        let sshd = Sshd::start(dir, public);
        Self { gateway, authority, sshd, key, nodes: 0 }
    }

    /// A node of the cluster, which is a port of this machine.
    pub async fn node(&mut self, address: SocketAddr) -> Target {
        let name = format!("login-{}.here.acme", self.nodes);
        self.nodes += 1;
        let (ip, port) = (address.ip().to_string(), address.port().to_string());
        let text = self.authority.operator(&["node", "token", &name, "--address", &ip, "--port", &port]).await;
        let token: TokenText = text.trim().parse().unwrap();
        // A host key is believed once; nobody here ever has its private half.
        let mut numbers = super::Numbers(self.nodes as u64);
        let request = JoinRequest {
            connection: "bench".into(),
            peer: PEER,
            host_key: super::world::ed25519(&mut numbers),
            secret: token.secret.clone(),
            node: token.node.clone(),
        };
        match self.authority.gateway().call::<Join>(request).await.unwrap() {
            JoinAnswer::Joined(_) => Target { name, address },
            other => panic!("{name} may not join: {other:?}"),
        }
    }

    /// Another member of the project, with the line of a key.
    pub async fn member(&self, name: &str, key: &str) {
        person(&self.authority, name, key).await;
        self.authority.operator(&["member", "add", "acme/bench", &format!("{name}@acme.example")]).await;
    }

    /// Where it listens, and as whom one logs in.
    pub fn at(&self, through: Through) -> (SocketAddr, String) {
        match through {
            Through::Gateway => (self.gateway.address, "user0".into()),
            Through::Sshd => (self.sshd.address, sshd::login()),
        }
    }

    /// The processor time, in seconds, that all connections so far have cost: the gateway's process, or sshd's.
    pub fn cpu(&self, through: Through) -> f64 {
        match through {
            Through::Gateway => cpu_seconds(self.gateway.pid()),
            Through::Sshd => self.sshd.cpu_seconds(),
        }
    }
}

async fn person(authority: &Authority, name: &str, key: &str) {
    let email = format!("{name}@acme.example");
    authority.operator(&["user", "create", &email, "--org", "acme", "--name", name, "--key", key]).await;
}
