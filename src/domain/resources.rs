//! What clusters and volumes are asked to be: how many nodes, how large, where mounted; and what has become of it.

use super::{
    ids::{ClusterId, VolumeId},
    model::NodeRole,
    time::Timestamp,
};
use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};

/// The most nodes of one role that can be wanted.
pub const MAX_WANTED: u32 = 100_000;

/// A number of nodes for each role.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeCounts {
    /// Login nodes.
    #[serde(default)]
    pub login: u32,
    /// Compute nodes.
    #[serde(default)]
    pub compute: u32,
    /// Controllers.
    #[serde(default)]
    pub controller: u32,
}

impl NodeCounts {
    /// Of one role.
    #[must_use]
    pub const fn of(&self, role: NodeRole) -> u32 {
        match role {
            NodeRole::Login => self.login,
            NodeRole::Compute => self.compute,
            NodeRole::Controller => self.controller,
        }
    }

    /// Of one role, to be changed.
    pub const fn of_mut(&mut self, role: NodeRole) -> &mut u32 {
        match role {
            NodeRole::Login => &mut self.login,
            NodeRole::Compute => &mut self.compute,
            NodeRole::Controller => &mut self.controller,
        }
    }

    /// Of all roles.
    #[must_use]
    pub const fn total(&self) -> u64 {
        self.login as u64 + self.compute as u64 + self.controller as u64
    }
}

/// `2 login, 8 compute`, or `none`.
impl fmt::Display for NodeCounts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts: Vec<String> = [NodeRole::Login, NodeRole::Compute, NodeRole::Controller]
            .into_iter()
            .filter(|role| self.of(*role) > 0)
            .map(|role| format!("{} {role}", self.of(role)))
            .collect();
        f.pad(&if parts.is_empty() { "none".to_owned() } else { parts.join(", ") })
    }
}

/// A number of bytes as people type it: `500G`, `10T`. Powers of 1024, at least 1 MiB, at most 1 EiB. In JSON: bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u64", into = "u64")]
pub struct Size(u64);

impl Size {
    const MIN: u64 = 1 << 20;
    const MAX: u64 = 1 << 60;

    /// From bytes; none if out of bounds.
    #[must_use]
    pub const fn from_bytes(bytes: u64) -> Option<Self> {
        if bytes < Self::MIN || bytes > Self::MAX { None } else { Some(Self(bytes)) }
    }

    /// In bytes.
    #[must_use]
    pub const fn bytes(self) -> u64 {
        self.0
    }
}

impl TryFrom<u64> for Size {
    type Error = &'static str;

    fn try_from(bytes: u64) -> Result<Self, Self::Error> {
        Self::from_bytes(bytes).ok_or("a size is between 1 MiB and 1 EiB")
    }
}

impl From<Size> for u64 {
    fn from(size: Size) -> Self {
        size.0
    }
}

const UNITS: [(&str, u32); 5] = [("E", 60), ("P", 50), ("T", 40), ("G", 30), ("M", 20)];

impl FromStr for Size {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const FORM: &str =
            "a size is written like 500G or 10T (M, G, T, P, E: powers of 1024), at least 1M, at most 1E";
        let text = text.strip_suffix("iB").unwrap_or(text);
        let (unit, shift) = UNITS.iter().find(|(unit, _)| text.ends_with(unit)).ok_or(FORM)?;
        let digits = text.strip_suffix(unit).unwrap_or(text);
        if digits.is_empty() || digits.len() > 12 || !digits.bytes().all(|b| b.is_ascii_digit()) {
            return Err(FORM);
        }
        let amount: u64 = digits.parse().map_err(|_| FORM)?;
        amount.checked_mul(1 << shift).and_then(Self::from_bytes).ok_or(FORM)
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match UNITS.iter().find(|(_, shift)| self.0.is_multiple_of(1 << shift)) {
            Some((unit, shift)) => f.pad(&format!("{}{unit}", self.0 >> shift)),
            // Only a size that no text stands for.
            None => f.pad(&format!("{} bytes", self.0)),
        }
    }
}

/// Where a volume is mounted on nodes: an absolute path below a directory of its own, plain enough for any file that it
/// has to be written into.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct MountPath(String);

impl MountPath {
    /// As text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Top-level directories that belong to the system: what is mounted over them breaks the machine, or becomes it.
const SYSTEM_DIRECTORIES: &[&str] = &[
    "bin", "boot", "dev", "etc", "lib", "lib32", "lib64", "libx32", "proc", "root", "run", "sbin", "sys", "tmp", "usr",
    "var",
];

impl FromStr for MountPath {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const FORM: &str = "a mount path is absolute, like /data or /mnt/data: letters, digits, '.', '_' and '-' between \
                            '/', at most 255 characters";
        let parts = text.strip_prefix('/').ok_or(FORM)?;
        let plain = |part: &str| {
            !part.is_empty()
                && !part.starts_with(['.', '-'])
                && part.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
        };
        if text.len() > 255 || !parts.split('/').all(plain) {
            return Err(FORM);
        }
        if parts.split('/').next().is_some_and(|first| SYSTEM_DIRECTORIES.contains(&first)) {
            return Err(
                "a volume is not mounted in a directory of the system; use /data, /home, /mnt, /opt, /scratch or \
                        /srv",
            );
        }
        Ok(Self(text.to_owned()))
    }
}

impl TryFrom<String> for MountPath {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<MountPath> for String {
    fn from(path: MountPath) -> Self {
        path.0
    }
}

impl fmt::Display for MountPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// What a site's own machinery can be asked to bring about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Resource {
    /// A cluster.
    Cluster(ClusterId),
    /// A volume.
    Volume(VolumeId),
}

super::model::words!(/// What is to be done about a resource.
JobAction, "an action" {
    /// It is new.
    Create = "create",
    /// It is described differently.
    Change = "change",
    /// Another number of nodes is wanted.
    Scale = "scale",
    /// It is gone from the directory.
    Delete = "delete",
});

/// What has become of what was asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ProvisionState {
    /// Done.
    Ready,
    /// Not yet.
    Pending,
    /// The last attempt failed; there will be another.
    Failed(String),
}

/// `ready`, `pending`, `failed: REASON`.
impl fmt::Display for ProvisionState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ready => f.pad("ready"),
            Self::Pending => f.pad("pending"),
            Self::Failed(reason) => f.pad(&format!("failed: {reason}")),
        }
    }
}

/// What the site's machinery was last asked about a resource. There is one for each, at most: what was asked before is
/// overtaken, because each says all that is wanted, not a difference.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Job {
    /// Its number: an answer to a former one changes nothing.
    pub id: u64,
    /// What it is about.
    pub resource: Resource,
    /// What is to be done.
    pub action: JobAction,
    /// The resource's name at that time: `CLUSTER.ORG`, or `ORG/PROJECT VOLUME`.
    pub name: String,
    /// What the machinery is told, as JSON: complete, so that nothing has to be looked up later.
    pub input: String,
    /// Since when.
    pub queued: Timestamp,
    /// How often it has failed in a row.
    pub attempts: u32,
    /// Not to be tried (again) before this.
    pub next: Timestamp,
    /// What has become of it.
    pub state: ProvisionState,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_whole_and_bounded() {
        assert_eq!("10T".parse::<Size>().unwrap().bytes(), 10 << 40);
        assert_eq!("1024G".parse::<Size>().unwrap().to_string(), "1T");
        assert_eq!("500GiB".parse::<Size>().unwrap().to_string(), "500G");
        for bad in ["", "G", "10", "-1T", "0M", "2E", "1.5T", "10 T", "1K", "99999999999999G", "+1G", "1g"] {
            assert!(bad.parse::<Size>().is_err(), "{bad}");
        }
    }

    #[test]
    fn mount_paths_are_plain_and_not_the_system_s() {
        for good in ["/data", "/mnt/data-1", "/home", "/scratch/a.b_c"] {
            assert!(good.parse::<MountPath>().is_ok(), "{good}");
        }
        for bad in
            ["", "/", "data", "/data/", "//data", "/data/../etc", "/etc", "/usr/lib", "/a b", "/a\n", "/-x", "/a,b"]
        {
            assert!(bad.parse::<MountPath>().is_err(), "{bad:?}");
        }
    }
}
