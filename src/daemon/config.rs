//! Configuration files: read once, checked once, refused with the line that is wrong.

use crate::{
    app::Bastion,
    domain::Ttl,
    policy::{CertificateSettings, NodeNetworks},
};
use serde::{Deserialize, de::DeserializeOwned};
use std::{
    num::NonZeroU16,
    path::{Path, PathBuf},
};
use thiserror::Error;

/// Why a configuration file cannot be used.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// It cannot be read.
    #[error("{path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It is not what it should be.
    #[error("{path}: {what}")]
    Format {
        /// The file.
        path: PathBuf,
        /// What is wrong, and where.
        what: String,
    },
    /// A user that it names does not exist.
    #[error("{setting}: there is no user {name:?} on this machine")]
    NoUser {
        /// The setting.
        setting: &'static str,
        /// The name.
        name: String,
    },
}

/// `authority.toml`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AuthorityConfig {
    /// Where the directory and the CA keys are.
    pub state_dir: PathBuf,
    /// The operators' socket.
    pub admin_socket: PathBuf,
    /// The gateways' socket.
    pub gateway_socket: PathBuf,
    /// The user that gateways run as, by name or number.
    #[serde(default)]
    pub gateway_user: Option<String>,
    /// Users who are operators, by name or number, beside root and the user that the authority runs as.
    #[serde(default)]
    pub operators: Vec<String>,
    /// What people and nodes are told about where to connect.
    pub bastion: Bastion,
    /// Where nodes may be.
    #[serde(default)]
    pub node_networks: NodeNetworks,
    /// The rules for certificates.
    #[serde(default)]
    pub certificates: CertificateSettings,
    /// How long the audit log keeps what.
    #[serde(default)]
    pub audit: AuditSettings,
    /// Backups.
    #[serde(default)]
    pub backup: BackupSettings,
    /// The site's own machinery for clusters and volumes, if there is any.
    #[serde(default)]
    pub provisioner: Option<crate::provisioner::RawConfig>,
}

/// `[audit]` of `authority.toml`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AuditSettings {
    /// For how many days entries stay in the database; for good if it is not set.
    #[serde(default)]
    pub keep_days: Option<NonZeroU16>,
    /// Where they go then: a directory of the authority's own. `audit` in the state directory if it is not set.
    #[serde(default)]
    pub archive_dir: Option<PathBuf>,
}

/// `[backup]` of `authority.toml`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BackupSettings {
    /// How old the last one may be before `certgate status` says so.
    #[serde(default)]
    pub max_age: Option<Ttl>,
}

/// Reads a configuration file.
///
/// # Errors
/// It cannot be read, or is not what it should be.
pub fn read_config<T: DeserializeOwned>(path: &Path) -> Result<T, ConfigError> {
    let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
    toml::from_str(&text)
        .map_err(|error| ConfigError::Format { path: path.to_owned(), what: error.to_string().trim_end().to_owned() })
}

/// The number of a user that a setting names, by name or number; names are looked up in `/etc/passwd`, where the
/// users of services are.
pub(super) fn user_number(setting: &'static str, name: &str) -> Result<u32, ConfigError> {
    if let Ok(number) = name.parse() {
        return Ok(number);
    }
    let unknown = || ConfigError::NoUser { setting, name: name.to_owned() };
    let path = PathBuf::from("/etc/passwd");
    let users = std::fs::read_to_string(&path).map_err(|source| ConfigError::Read { path, source })?;
    let entry = users.lines().map(|line| line.split(':').collect::<Vec<_>>()).find(|entry| entry[0] == name);
    entry.and_then(|entry| entry.get(2)?.parse().ok()).ok_or_else(unknown)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::{BTreeMap, BTreeSet};

    #[test]
    fn the_shipped_configuration_is_what_the_program_reads() {
        let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/authority.toml");
        let config: AuthorityConfig = read_config(&shipped).unwrap();
        // What it shows commented out is what holds when it is left out.
        assert_eq!(config.certificates, CertificateSettings::default());
        assert!(config.provisioner.is_none() && config.audit.keep_days.is_none() && config.backup.max_age.is_none());
        let text = std::fs::read_to_string(&shipped).unwrap();
        let more = ["audit", "backup"].map(|name| {
            let section = text.split(&format!("# [{name}]")).nth(1).unwrap().split("\n\n").next().unwrap();
            format!("[{name}]{}", section.replace("# ", ""))
        });
        let shown: AuthorityConfig = toml::from_str(&[&*text, &more[0], &more[1]].join("\n")).unwrap();
        assert!(shown.audit.keep_days.is_some() && shown.backup.max_age.is_some());
        assert_eq!(shown.audit.archive_dir, Some(config.state_dir.join("audit")));
        let section = text.split("# [provisioner]").nth(1).unwrap().replace("# ", "");
        let raw: crate::provisioner::RawConfig = toml::from_str(&section).unwrap();
        let shown = crate::provisioner::Config::try_from(raw.clone()).unwrap();
        let left_out = crate::provisioner::RawConfig { timeout: None, parallel: None, ..raw };
        assert_eq!(crate::provisioner::Config::try_from(left_out).unwrap(), shown);
    }

    #[test]
    fn the_shipped_gateway_configuration_is_what_the_program_reads() {
        let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/gateway.toml");
        let raw: crate::gateway::RawConfig = read_config(&shipped).unwrap();
        let shown = crate::gateway::Config::try_from(raw).unwrap();
        assert_eq!(shown.limits, crate::gateway::Limits::default());
        assert!(shown.monitor.unwrap().ip().is_loopback());
        // Uncommented, each of them is still a setting, and still the default; but for two examples.
        let text = std::fs::read_to_string(&shipped).unwrap();
        let settings = text.lines().map(|line| match line.strip_prefix("# ") {
            Some(setting) if setting.contains(" = ") => setting,
            _ => line,
        });
        let raw: crate::gateway::RawConfig = toml::from_str(&settings.collect::<Vec<_>>().join("\n")).unwrap();
        assert!(raw.proxy_protocol_from.is_some() && raw.penalties.exempt.is_some());
        let config = crate::gateway::Config::try_from(raw).unwrap();
        let penalties = crate::gateway::PenaltySettings { exempt: None, ..config.penalties };
        let defaults = (crate::gateway::Limits::default(), crate::gateway::PenaltySettings::default());
        assert_eq!((config.limits, penalties), defaults);
        assert_eq!(config.algorithms, crate::gateway::Algorithms::default());
    }

    /// The settings of a type, by what it says to one that it does not have.
    fn settings<T: DeserializeOwned>() -> BTreeSet<String> {
        let said = toml::from_str::<T>("no_such_setting = 1").err().unwrap().to_string();
        let (_, expected) = said.split_once("expected ").unwrap();
        expected.split('`').skip(1).step_by(2).map(str::to_owned).collect()
    }

    /// The man pages are made of the shipped files (`command::settings`).
    #[test]
    fn the_shipped_files_show_every_setting_and_none_that_does_not_exist() {
        use crate::{gateway, node, provisioner};
        let mut files: BTreeMap<&str, BTreeMap<&str, BTreeSet<String>>> = BTreeMap::new();
        let authority = files.entry("authority.toml").or_default();
        authority.insert("", settings::<AuthorityConfig>());
        authority.insert("bastion", settings::<Bastion>());
        authority.insert("certificates", settings::<CertificateSettings>());
        authority.insert("certificates.extensions", settings::<crate::policy::Extensions>());
        authority.insert("audit", settings::<AuditSettings>());
        authority.insert("backup", settings::<BackupSettings>());
        authority.insert("provisioner", settings::<provisioner::RawConfig>());
        let gateway = files.entry("gateway.toml").or_default();
        gateway.insert("", settings::<gateway::RawConfig>());
        gateway.insert("limits", settings::<gateway::RawLimits>());
        gateway.insert("penalties", settings::<gateway::RawPenalties>());
        gateway.insert("algorithms", settings::<gateway::RawAlgorithms>());
        let node = files.entry("node.toml").or_default();
        node.insert("", settings::<node::config::NodeConfig>());
        node.insert("userdb", settings::<node::accounts::UserRecords>());
        for (file, tables) in &mut files {
            // A table is shown by its settings.
            let names: Vec<String> = tables.keys().map(|name| (*name).to_owned()).collect();
            for name in names.iter().filter(|name| !name.is_empty()) {
                let (outer, inner) = name.rsplit_once('.').unwrap_or(("", name));
                assert!(tables.get_mut(outer).unwrap().remove(inner), "{file}: there is no table {name}");
            }
            let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("config").join(file);
            let mut shown: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
            for setting in crate::command::shown(&std::fs::read_to_string(path).unwrap()) {
                shown.entry(setting.table).or_default().insert(setting.name);
            }
            let wanted: BTreeMap<String, _> =
                tables.iter().map(|(name, set)| ((*name).to_owned(), set.clone())).collect();
            assert_eq!(shown, wanted, "{file}");
        }
    }

    #[test]
    fn what_setup_writes_is_what_the_programs_read() {
        use crate::cli::setup::{answers::Answers, files};
        let answers = Answers {
            host: "b.acme.example".into(),
            port: 2022,
            listen: vec!["192.0.2.7:2022".parse().unwrap()],
            node_networks: vec!["10.0.0.0/8".parse().unwrap()],
            first: None,
        };
        let authority: AuthorityConfig = toml::from_str(&files::authority_toml(&answers)).unwrap();
        assert_eq!(authority.bastion, Bastion { host: "b.acme.example".into(), port: 2022 });
        assert_eq!(authority.gateway_user.as_deref(), Some("certgate-gateway"));
        assert!(authority.node_networks.check("10.1.2.3".parse().unwrap()).is_ok());
        assert!(authority.node_networks.check("192.0.2.9".parse().unwrap()).is_err());
        let raw: crate::gateway::RawConfig = toml::from_str(&files::gateway_toml(&answers)).unwrap();
        assert_eq!(crate::gateway::Config::try_from(raw).unwrap().listen, answers.listen);
    }

    #[test]
    fn a_setting_that_does_not_exist_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("authority.toml");
        std::fs::write(&path, "state_dir = \"/x\"\nadmin_scoket = \"/y\"\n").unwrap();
        let error = read_config::<AuthorityConfig>(&path).unwrap_err().to_string();
        assert!(error.contains("admin_scoket") && error.contains("line 2"), "{error}");
    }

    #[test]
    fn the_gateways_addresses_are_some_and_not_everywhere() {
        let read = |value: &str| toml::from_str::<CertificateSettings>(&format!("gateway_addresses = {value}"));
        let read_as = |value: &str| read(value).unwrap().gateway_addresses.unwrap().to_string();
        assert_eq!(read_as("['192.0.2.10', '2001:db8::/64']"), "192.0.2.10/32,2001:db8::/64");
        for bad in ["[]", "['0.0.0.0/0']", "['bastion.example.com']", "'192.0.2.10'"] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn users_are_found_by_name_and_number() {
        assert_eq!(user_number("x", "root").unwrap(), 0);
        assert_eq!(user_number("x", "1234").unwrap(), 1234);
        assert!(user_number("x", "nobody-of-that-name").is_err());
    }
}
