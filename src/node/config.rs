//! node.toml: what a node was told when it joined, and where it keeps things. `certgate-node join` writes it,
//! `certgate-node run` reads it.

use super::{
    accounts::{Accounts, UserRecords},
    files::{self, FileError, Mode},
    sessions::OnRemoval,
};
use crate::{
    app::protocol::Reach,
    bundle::BundleKey,
    domain::{ClusterPath, Fingerprint, NodePath, Ttl},
};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::{
    fmt,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
};
use thiserror::Error;

/// Longer than any node.toml.
const MAX_CONFIG_BYTES: usize = 64 * 1024;

/// What `certgate-node run` needs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeConfig {
    /// The node's name.
    pub node: NodePath,
    /// Gateways, each `HOST:PORT`, tried in turn.
    pub gateways: Vec<String>,
    /// Fingerprints of the gateways' host keys: nobody else is talked to.
    pub gateway_host_keys: Vec<Fingerprint>,
    /// Keys whose bundles are taken.
    pub bundle_keys: Vec<BundleKey>,
    /// Where the bundle, the access table, the CA file and the host certificate are.
    pub state_dir: PathBuf,
    /// The node's own host private key, which is its identity.
    pub host_key: PathBuf,
    /// The command that makes sshd read a renewed host certificate, in words; run without a shell. None if empty.
    #[serde(default)]
    pub reload: Vec<String>,
    /// How long the access table is believed when the authority does not confirm it.
    #[serde(default)]
    pub max_age: MaxAge,
    /// What becomes of sessions whose owners have lost their access.
    #[serde(default)]
    pub on_removal: OnRemoval,
    /// Whether sshd itself refuses what is revoked, beside the helper.
    #[serde(default)]
    pub revoked_keys: bool,
    /// The user as whom sshd runs the helper: the only one, beside root, who may tell the agent of logins.
    #[serde(default = "helper_user")]
    pub helper_user: String,
    /// How gateways reach this machine's sshd: by dialling it, or through the agent's connection.
    #[serde(default)]
    pub reach: Reach,
    /// Where the agent finds sshd then; an address of this machine.
    #[serde(default = "sshd_address")]
    pub sshd_address: SocketAddr,
    /// Who makes accounts.
    #[serde(default)]
    pub accounts: Accounts,
    /// How the agent makes them. A table, so last.
    #[serde(default)]
    pub userdb: UserRecords,
}

/// Whom [`super::join`] lets run the helper unless told otherwise.
fn helper_user() -> String {
    "nobody".into()
}

/// Where an sshd is that nobody has said anything about.
pub(super) fn sshd_address() -> SocketAddr {
    (Ipv4Addr::LOCALHOST, 22).into()
}

/// How long the access table is believed when the authority does not confirm it: `"24h"`, or 0 for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MaxAge(pub Option<Ttl>);

impl Default for MaxAge {
    fn default() -> Self {
        Self(Ttl::from_secs(24 * 3600))
    }
}

impl Serialize for MaxAge {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            Some(age) => age.serialize(serializer),
            None => serializer.serialize_u32(0),
        }
    }
}

impl<'de> Deserialize<'de> for MaxAge {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;

        impl de::Visitor<'_> for Visitor {
            type Value = MaxAge;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a length of time like \"24h\", or 0")
            }

            fn visit_i64<E: de::Error>(self, number: i64) -> Result<MaxAge, E> {
                if number == 0 {
                    Ok(MaxAge(None))
                } else {
                    Err(E::invalid_value(de::Unexpected::Signed(number), &self))
                }
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<MaxAge, E> {
                if text == "0" {
                    Ok(MaxAge(None))
                } else {
                    text.parse().map(|age| MaxAge(Some(age))).map_err(E::custom)
                }
            }
        }

        deserializer.deserialize_any(Visitor)
    }
}

/// node.toml cannot be used.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// It cannot be read or written.
    #[error("{0}; 'certgate-node join TOKEN' writes this file")]
    File(#[from] FileError),
    /// It does not say what it must.
    #[error("{}: {why}", .path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// Which part of it is wrong.
        why: String,
    },
}

impl NodeConfig {
    /// Reads and checks it.
    ///
    /// # Errors
    /// It cannot be read, others can write to it, or it does not say what it must.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let content = |why: String| ConfigError::Content { path: path.to_owned(), why };
        let bytes = files::read(path, MAX_CONFIG_BYTES)?;
        let text = String::from_utf8(bytes).map_err(|_| content("not UTF-8".into()))?;
        let config: Self = toml::from_str(&text).map_err(|error| content(error.message().to_owned()))?;
        for (empty, name) in [
            (config.gateways.is_empty(), "gateways"),
            (config.gateway_host_keys.is_empty(), "gateway_host_keys"),
            (config.bundle_keys.is_empty(), "bundle_keys"),
        ] {
            if empty {
                return Err(content(format!("{name} is empty")));
            }
        }
        Ok(config)
    }

    /// As it stands in the file.
    ///
    /// # Errors
    /// A path is not UTF-8.
    pub fn to_toml(&self) -> Result<String, toml::ser::Error> {
        let text = toml::to_string(self)?;
        Ok(format!("# Written by 'certgate-node join'.\n{text}"))
    }

    /// The cluster that the node belongs to.
    #[must_use]
    pub fn cluster(&self) -> ClusterPath {
        ClusterPath { cluster: self.node.cluster.clone(), org: self.node.org.clone() }
    }
}

/// How node.toml is kept: it holds no secret, but nobody else needs it.
pub const CONFIG_MODE: Mode = Mode::Private;

#[cfg(test)]
mod tests {
    use super::*;
    use ed25519_dalek::SigningKey;

    fn config() -> NodeConfig {
        NodeConfig {
            node: "login-0.h100.acme".parse().unwrap(),
            gateways: vec!["bastion.example.com:22".into()],
            gateway_host_keys: vec![Fingerprint::from_bytes([3; 32])],
            bundle_keys: vec![BundleKey::from(&SigningKey::from_bytes(&[7; 32]))],
            state_dir: "/var/lib/certgate-node".into(),
            host_key: "/etc/ssh/ssh_host_ed25519_key".into(),
            reload: vec!["systemctl".into(), "reload".into(), "ssh".into()],
            max_age: MaxAge(None),
            on_removal: OnRemoval::Terminate,
            revoked_keys: true,
            helper_user: "nobody".into(),
            reach: Reach::Tunnel,
            sshd_address: "[::1]:2222".parse().unwrap(),
            accounts: Accounts::Userdb,
            userdb: UserRecords::default(),
        }
    }

    #[test]
    fn what_join_writes_run_reads() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("node.toml");
        files::replace(&path, config().to_toml().unwrap().as_bytes(), CONFIG_MODE).unwrap();
        assert_eq!(NodeConfig::load(&path).unwrap(), config());
    }

    #[test]
    fn the_shipped_configuration_is_what_the_program_reads_and_shows_what_holds_without_it() {
        let shipped = std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("config/node.toml")).unwrap();
        let shipped = String::from_utf8(shipped).unwrap();
        let config: NodeConfig = toml::from_str(&shipped).unwrap();
        assert_eq!((config.max_age, config.on_removal), (MaxAge::default(), OnRemoval::default()));
        assert_eq!((config.helper_user.clone(), config.revoked_keys), (helper_user(), false));
        // Uncommented, each of them is still a setting, and still the default.
        let setting = |line: &str| line.strip_prefix("# ").filter(|rest| rest.contains(" = ")).map(str::to_owned);
        let lines = shipped.lines().map(|line| setting(line).unwrap_or_else(|| line.to_owned()));
        let all: String = lines.map(|line| format!("{line}\n")).collect();
        assert_eq!(all.matches("\nmax_age = ").count(), 1);
        assert_eq!(toml::from_str::<NodeConfig>(&all).unwrap(), config);
        // And there is no setting that it does not show.
        let written = config.to_toml().unwrap();
        let names = written.lines().filter_map(|line| line.split_once(" = ")).map(|(name, _)| name);
        assert!(names.into_iter().all(|name| all.contains(&format!("\n{name} = "))), "{written}");
    }

    #[test]
    fn nothing_to_trust_and_unknown_words_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("node.toml");
        for bad in [
            NodeConfig { gateway_host_keys: vec![], ..config() }.to_toml().unwrap(),
            NodeConfig { bundle_keys: vec![], ..config() }.to_toml().unwrap(),
            NodeConfig { gateways: vec![], ..config() }.to_toml().unwrap(),
            format!("{}\ninsecure = true\n", config().to_toml().unwrap()),
            config().to_toml().unwrap().replace("max_age = 0", "max_age = 1"),
            config().to_toml().unwrap().replace("max_age = 0", "max_age = \"forever\""),
            config().to_toml().unwrap().replace("\"terminate\"", "\"ask\""),
            config().to_toml().unwrap().replace("revoked_keys = true", "revoked_keys = \"/etc/ssh/krl\""),
        ] {
            files::replace(&path, bad.as_bytes(), CONFIG_MODE).unwrap();
            assert!(matches!(NodeConfig::load(&path), Err(ConfigError::Content { .. })), "{bad}");
        }
    }
}
