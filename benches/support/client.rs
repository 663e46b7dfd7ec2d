//! OpenSSH's `ssh -W` and russh's client, for what is jumped through.

use super::jump::{Jump, Target, Through};
use russh::{
    Preferred,
    client::{self, Config, Handle},
    kex,
    keys::{PrivateKey, PrivateKeyWithHashAlg},
};
use std::{borrow::Cow, net::SocketAddr, process::Command, sync::Arc};
use tokio::io::{AsyncRead, AsyncWrite};

/// `ssh -W` with nothing of the machine's own configuration; to `at`, where a relay may stand before the jump host.
pub fn ssh(jump: &Jump, through: Through, at: SocketAddr, target: &Target, cipher: &str) -> Command {
    let ((_, login), (host, port)) = (jump.at(through), target.host(through));
    let mut command = Command::new("ssh");
    command
        .args(["-F", "/dev/null", "-q", "-o", "BatchMode=yes", "-o", "IdentitiesOnly=yes", "-o", "IdentityAgent=none"])
        .args(["-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null"])
        .arg("-i")
        .arg(&jump.key)
        .args(["-c", cipher, "-p", &at.port().to_string(), "-l", &login, "-W", &format!("{host}:{port}")])
        .arg(at.ip().to_string())
        .env_remove("SSH_AUTH_SOCK");
    command
}

/// Believes every host key: what is measured stands on this machine.
pub struct Anyone;

impl client::Handler for Anyone {
    type Error = russh::Error;

    async fn check_server_key(&mut self, _: &russh::keys::PublicKeyOrCertificate) -> Result<bool, russh::Error> {
        Ok(true)
    }
}

/// How russh's client is to speak: the same with both, as OpenSSH's would.
pub fn config(exchange: kex::Name) -> Arc<Config> {
    let preferred = Preferred {
        kex: Cow::Owned(vec![exchange, kex::EXTENSION_OPENSSH_STRICT_KEX_AS_CLIENT]),
        ..Preferred::default()
    };
    // OpenSSH's window.
    Arc::new(Config { window_size: 2 * 1024 * 1024, preferred, nodelay: true, ..Config::default() })
}

/// Logs in, over a connection of any kind.
pub async fn login(
    config: &Arc<Config>,
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    name: &str,
    key: &Arc<PrivateKey>,
) -> Handle<Anyone> {
    let mut handle = client::connect_stream(config.clone(), stream, Anyone).await.unwrap();
    let key = PrivateKeyWithHashAlg::new(key.clone(), None);
    assert!(handle.authenticate_publickey(name, key).await.unwrap().success(), "{name} may not log in");
    handle
}
