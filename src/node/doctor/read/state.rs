//! What certgate keeps on the machine.

use super::{bytes, certificate, run, sshd::chain, text};
use crate::{
    bundle::{
        SignedBundle,
        table::{MAX_TABLE_BYTES, Table},
    },
    domain::{Fingerprint, Version},
    krl::{Krl, KrlError, MAX_KRL_BYTES},
    node::{
        config::NodeConfig,
        doctor::facts::{Blind, BundleFacts, Revoked, Seen, StateFacts},
        link::HostKey,
        sshd::DropIn,
        state_dir::{self, MAX_SIGNED_BYTES, StateDir},
    },
};
use std::path::Path;
use tokio::process::Command;

/// So many of the bundle's logins are looked at.
const LOGINS: usize = 5;

/// Nothing is known, for one reason.
pub(super) fn unknown(why: &Blind) -> StateFacts {
    StateFacts {
        bundle: Err(why.clone()),
        table: Err(why.clone()),
        table_chain: Err(why.clone()),
        confirmed: None,
        host_certificate: Err(why.clone()),
        host_key: Err(why.clone()),
        helper_chain: Err(why.clone()),
        helper_answers: Err(why.clone()),
        revoked: None,
    }
}

pub(super) fn read(config: Result<&NodeConfig, &Blind>, wanted: Option<&DropIn>, root: bool) -> StateFacts {
    let unset = Blind::Failed("sshd's configuration does not say where it is".into());
    let no_config = config.err().cloned();
    let state = config.ok().map(StateDir::of);
    let table = state.as_ref().map(StateDir::table).or_else(|| wanted.map(|drop_in| drop_in.table.clone()));
    let table = table.ok_or_else(|| no_config.clone().unwrap_or_else(|| unset.clone()));
    let certificate = wanted.map(|drop_in| drop_in.host_certificate.clone());
    let certificate = state.as_ref().map(StateDir::host_certificate).or(certificate);
    let blank = no_config.clone().unwrap_or_else(|| unset.clone());
    StateFacts {
        bundle: config.map_err(Clone::clone).and_then(|config| bundle(config, root)),
        table: table.clone().and_then(|table| version(&table)),
        table_chain: table.and_then(|table| chain(&table)),
        confirmed: state.as_ref().and_then(StateDir::confirmed),
        host_certificate: certificate.ok_or_else(|| blank.clone()).and_then(|path| {
            certificate::parse(&text(&path)?).map_err(|why| Blind::Failed(format!("{}: {}", path.display(), why.why())))
        }),
        host_key: config.map_err(Clone::clone).and_then(|config| host_key(config, root)),
        helper_chain: wanted.ok_or(unset).and_then(|drop_in| chain(&drop_in.helper)),
        ..unknown(&blank)
    }
}

fn bundle(config: &NodeConfig, root: bool) -> Seen<BundleFacts> {
    let state = StateDir::of(config);
    let path = state.bundle();
    if !root {
        return Err(Blind::Denied(format!("only root can read {}", path.display())));
    }
    let failed = |why: String| Blind::Failed(format!("{}: {why}", path.display()));
    let content = bytes(&path, MAX_SIGNED_BYTES)?;
    let signed: SignedBundle =
        serde_json::from_slice(&content).map_err(|_| failed("it is not a signed bundle".into()))?;
    let opened = signed.open(&config.bundle_keys, &config.cluster(), None);
    let bundle = opened.map_err(|why| failed(why.to_string()))?;
    Ok(BundleFacts {
        version: bundle.version,
        issued: bundle.issued,
        lets_in: !bundle.logins.is_empty() || !bundle.shared_logins.is_empty(),
        logins: bundle.logins.iter().take(LOGINS).map(|login| (login.name.to_string(), login.uid.0)).collect(),
        shared: bundle.shared_logins.iter().take(LOGINS).map(|login| login.name.clone()).collect(),
        same_user_ca: text(&state.user_ca()).is_ok_and(|text| text == state_dir::user_ca_file(&bundle)),
    })
}

fn version(table: &Path) -> Seen<Version> {
    let content = bytes(table, MAX_TABLE_BYTES)?;
    let failed = |why: String| Blind::Failed(format!("{}: {why}", table.display()));
    Table::open(&content).map(|table| Version(table.version())).map_err(|error| failed(error.to_string()))
}

fn host_key(config: &NodeConfig, root: bool) -> Seen<crate::domain::PublicKey> {
    if !root {
        return Err(Blind::Denied(format!("only root can read {}", config.host_key.display())));
    }
    HostKey::load(&config.host_key).map(|key| key.public).map_err(|error| Blind::Failed(error.to_string()))
}

/// Whether the helper, as the user as whom sshd runs it, can answer about a login that nobody has. It writes nothing.
pub(super) async fn ask_helper(wanted: Option<&DropIn>, root: bool) -> Seen<()> {
    let Some(drop_in) = wanted else { return Err(Blind::Failed("it is not set in sshd's configuration".into())) };
    let nothing = Fingerprint::from_bytes([0; 32]).to_string();
    let mut command = Command::new(&drop_in.helper);
    command.arg("--table").arg(&drop_in.table).args(["certgate-check", "0", &nothing, &nothing, "certgate-check"]);
    command.env_clear().current_dir("/");
    if root {
        let (user, group) = user(&drop_in.helper_user).await?;
        command.uid(user).gid(group);
    }
    let output = run(&mut command).await?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(Blind::Failed(format!("{} {}", output.status, said.trim())))
}

async fn user(name: &str) -> Seen<(u32, u32)> {
    let output = run(Command::new("getent").args(["passwd", name])).await?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let mut fields = said.trim().split(':').skip(2);
    let mut number = || fields.next()?.parse().ok();
    number().zip(number()).ok_or_else(|| Blind::Failed(format!("there is no user {name}")))
}

/// What sshd makes of the file that `RevokedKeys` names (auth.c, `auth_key_is_revoked`): a revocation list by how it begins,
/// public keys as text otherwise.
pub(super) fn revoked(path: &Path) -> Seen<Revoked> {
    let content = bytes(path, MAX_KRL_BYTES)?;
    if !content.starts_with(b"SSHKRL\n\0") {
        return Ok(Revoked::Fine);
    }
    Ok(match Krl::parse(&content) {
        Err(KrlError::Format(_)) => Revoked::Damaged,
        Err(KrlError::Foreign("a signature")) => Revoked::Signed,
        // sshd reads more than we do.
        Ok(_) | Err(KrlError::Foreign(_) | KrlError::TooLarge) => Revoked::Fine,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_of_revoked_keys_is_told_apart_from_a_broken_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("revoked");
        let put = |content: &[u8]| {
            std::fs::write(&path, content).unwrap();
            revoked(&path)
        };
        assert_eq!(put(b""), Ok(Revoked::Fine));
        assert_eq!(put(b"ssh-ed25519 AAAA\n"), Ok(Revoked::Fine));
        assert_eq!(put(b"SSHKRL\n\0\0\0\0\x01"), Ok(Revoked::Damaged));
        assert!(matches!(revoked(&dir.path().join("none")), Err(Blind::Missing(_))));
        assert!(matches!(revoked(dir.path()), Err(Blind::Failed(_))));
    }
}
