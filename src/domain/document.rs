//! The configuration document of a cluster: what its owners say about it, in TOML, checked against a schema.
//!
//! The text is kept as it was written, comments included; what is read out of it is what nodes and the site's machinery
//! act upon.

use super::{
    model::{ClusterKind, Role},
    names::{NameError, UserName},
    text::is_unseen,
    time::{Timestamp, Ttl},
};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, fmt, str::FromStr};
use thiserror::Error;

/// The longest document, in bytes.
pub const MAX_DOCUMENT: usize = 64 * 1024;

/// The most lines of a document: what it takes to compare two of them grows with the square of it.
const MAX_LINES: usize = 4096;

/// The most shared logins of a cluster: each brings the principals of everyone who may use it to every node.
const MAX_SHARED_LOGINS: usize = 16;

/// Why a text is not a configuration of such a cluster.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum DocumentError {
    /// Longer than [`MAX_DOCUMENT`].
    #[error("the configuration is longer than {MAX_DOCUMENT} bytes")]
    TooLong,
    /// Of more lines than [`MAX_LINES`].
    #[error("the configuration has more than {MAX_LINES} lines")]
    TooManyLines,
    /// Characters that are not seen, or would do something to a terminal.
    #[error("the configuration has a control character in line {0}, or another one that is not seen")]
    Control(usize),
    /// Not TOML, or not of the schema; with the line.
    #[error("the configuration does not fit, {0}")]
    Format(String),
    /// Something that the schema alone does not say.
    #[error("the configuration does not fit: {0}")]
    Meaning(String),
}

/// A login that people share on the nodes, such as `ubuntu`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SharedLoginName(UserName);

impl SharedLoginName {
    /// As text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }

    /// The user name that an account would have to have for this to be its own login.
    #[must_use]
    pub fn as_user(&self) -> &UserName {
        &self.0
    }
}

impl FromStr for SharedLoginName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        // The alphabet of user names, and never one of the system's: root is not mapped.
        text.parse().map(Self)
    }
}

impl TryFrom<String> for SharedLoginName {
    type Error = NameError;

    fn try_from(text: String) -> Result<Self, NameError> {
        text.parse()
    }
}

impl From<SharedLoginName> for String {
    fn from(name: SharedLoginName) -> Self {
        name.0.into()
    }
}

impl fmt::Display for SharedLoginName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// What a document says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Specification {
    /// For people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// The image that nodes are made from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// What is in a compute node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gpus: Option<Gpus>,
    /// Logins that people share, and the role that it takes to use one (an admin may use what a member may).
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub shared_logins: BTreeMap<SharedLoginName, Role>,
    /// Of a cluster of kind slurm.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slurm: Option<Slurm>,
    /// Of a cluster of kind kubernetes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kubernetes: Option<Kubernetes>,
}

/// GPUs of a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Gpus {
    /// Such as `h100`.
    pub model: String,
    /// How many.
    pub per_node: u16,
}

/// Of a Slurm cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Slurm {
    /// Slurm's version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Its partitions.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub partitions: Vec<Partition>,
}

/// A partition (slurm.conf).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Partition {
    /// Its name.
    pub name: String,
    /// How many of the compute nodes; all if not said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nodes: Option<u32>,
    /// The longest that a job runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_time: Option<Ttl>,
    /// Whether jobs go there that name none.
    #[serde(default)]
    pub default: bool,
}

/// Of a Kubernetes cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Kubernetes {
    /// Kubernetes' version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Namespaces that members get.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub namespaces: Vec<String>,
}

/// A document that is, or was, in force: kept for those who ask what was changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Revision {
    /// 1 for the first, then without a gap.
    pub revision: u64,
    /// The document's text.
    pub document: String,
    /// Since when; by whom, the audit log knows.
    pub at: Timestamp,
}

/// A document: its text, and what it says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Document {
    text: String,
    specification: Specification,
}

impl Document {
    /// Reads a document for a cluster of this kind. Lines that end as on Windows end as elsewhere from here on, and so does
    /// the last one.
    ///
    /// # Errors
    /// It does not fit; with the line where there is one.
    pub fn parse(text: &str, kind: ClusterKind) -> Result<Self, DocumentError> {
        let mut text = text.replace("\r\n", "\n");
        if !text.is_empty() && !text.ends_with('\n') {
            text.push('\n');
        }
        if text.len() > MAX_DOCUMENT {
            return Err(DocumentError::TooLong);
        }
        if text.lines().count() > MAX_LINES {
            return Err(DocumentError::TooManyLines);
        }
        let control = |line: &str| line.chars().any(|c| is_unseen(c) && c != '\t');
        if let Some(line) = text.split('\n').position(control) {
            return Err(DocumentError::Control(line + 1));
        }
        let specification: Specification = toml::from_str(&text).map_err(|error| format_error(&text, &error))?;
        check(&specification, kind).map_err(DocumentError::Meaning)?;
        Ok(Self { text, specification })
    }

    /// As it was written.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// What it says.
    #[must_use]
    pub fn specification(&self) -> &Specification {
        &self.specification
    }
}

/// One line: where, and what. toml's own message shows the source below it.
fn format_error(text: &str, error: &toml::de::Error) -> DocumentError {
    let line = error.span().map(|span| text.get(..span.start).unwrap_or(text).matches('\n').count() + 1);
    let what = error.message().split_whitespace().collect::<Vec<_>>().join(" ");
    DocumentError::Format(match line {
        Some(line) => format!("line {line}: {what}"),
        None => what,
    })
}

fn check(specification: &Specification, kind: ClusterKind) -> Result<(), String> {
    match (kind, &specification.slurm, &specification.kubernetes) {
        (ClusterKind::Slurm, _, Some(_)) => return Err("[kubernetes] in the configuration of a slurm cluster".into()),
        (ClusterKind::Kubernetes, Some(_), _) => {
            return Err("[slurm] in the configuration of a kubernetes cluster".into());
        }
        _ => {}
    }
    for (what, text, limit) in [("description", &specification.description, 500), ("image", &specification.image, 255)]
    {
        if text.as_ref().is_some_and(|text| text.is_empty() || text.len() > limit) {
            return Err(format!("{what} is between 1 and {limit} bytes long"));
        }
    }
    if specification.shared_logins.len() > MAX_SHARED_LOGINS {
        return Err(format!("more than {MAX_SHARED_LOGINS} shared logins"));
    }
    if specification.gpus.as_ref().is_some_and(|gpus| !word(&gpus.model) || gpus.per_node == 0) {
        return Err("gpus has a model in lower-case letters, digits, '-' and '.', and at least one per_node".into());
    }
    if let Some(slurm) = &specification.slurm {
        check_slurm(slurm)?;
    }
    if let Some(kubernetes) = &specification.kubernetes {
        check_version(kubernetes.version.as_deref())?;
        distinct("namespace", kubernetes.namespaces.iter().map(String::as_str))?;
    }
    Ok(())
}

fn check_slurm(slurm: &Slurm) -> Result<(), String> {
    check_version(slurm.version.as_deref())?;
    distinct("partition", slurm.partitions.iter().map(|partition| partition.name.as_str()))?;
    if slurm.partitions.iter().filter(|partition| partition.default).count() > 1 {
        return Err("more than one partition is the default".into());
    }
    match slurm.partitions.iter().find(|partition| partition.nodes.is_some_and(|n| n > super::resources::MAX_WANTED)) {
        Some(partition) => Err(format!("partition {} has too many nodes", partition.name)),
        None => Ok(()),
    }
}

fn check_version(version: Option<&str>) -> Result<(), String> {
    let ok = |text: &str| {
        !text.is_empty() && text.len() <= 32 && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'.')
    };
    if version.is_none_or(ok) { Ok(()) } else { Err("a version is written like 24.11 or 1.33.2".into()) }
}

fn distinct<'a>(what: &str, names: impl Iterator<Item = &'a str>) -> Result<(), String> {
    let mut seen = std::collections::BTreeSet::new();
    for name in names {
        if !word(name) {
            return Err(format!("the name of a {what} is lower-case letters, digits, '-' and '.', at most 63"));
        }
        if !seen.insert(name) {
            return Err(format!("the {what} {name} is there twice"));
        }
    }
    Ok(())
}

fn word(text: &str) -> bool {
    (1..=63).contains(&text.len())
        && text.starts_with(|c: char| c.is_ascii_lowercase())
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slurm(text: &str) -> Result<Document, DocumentError> {
        Document::parse(text, ClusterKind::Slurm)
    }

    #[test]
    fn a_document_is_read_and_keeps_its_text() {
        let text = "# ours\ndescription = \"H100 for training\"\n[gpus]\nmodel = \"h100\"\nper_node = 8\n[shared_logins]\n\
                    ubuntu = \"member\"\n[[slurm.partitions]]\nname = \"gpu\"\nmax_time = \"2d\"\ndefault = true\n";
        let document = slurm(text).unwrap();
        assert_eq!(document.text(), text);
        let logins: Vec<_> = document.specification().shared_logins.iter().map(|(n, r)| format!("{n} {r}")).collect();
        assert_eq!(logins, ["ubuntu member"]);
        assert_eq!(slurm("").unwrap(), Document::default());
        for ends in ["# a\r\nimage = \"x\"\r\n", "# a\nimage = \"x\""] {
            assert_eq!(slurm(ends).unwrap().text(), "# a\nimage = \"x\"\n");
        }
        assert!(Document::parse("[kubernetes]\nversion = \"1.33\"\n", ClusterKind::Kubernetes).is_ok());
    }

    #[test]
    fn what_does_not_fit_is_named_with_its_line() {
        for (text, told) in [
            ("x = 1\n", "line 1: unknown field `x`"),
            ("\n[gpus]\nmodel = \"h100\"\nper_node = -1\n", "line 4"),
            ("[gpus\n", "line 1"),
            ("[shared_logins]\nroot = \"member\"\n", "reserved"),
            ("[shared_logins]\nubuntu = \"owner\"\n", "owner"),
            ("[shared_logins]\n\"a,b\" = \"member\"\n", "user name"),
            ("[kubernetes]\n", "slurm cluster"),
            ("[[slurm.partitions]]\nname = \"a\"\n[[slurm.partitions]]\nname = \"a\"\n", "twice"),
            ("[[slurm.partitions]]\nname = \"A B\"\n", "partition"),
            ("description = \"\u{1b}[2J\"\n", "control character in line 1"),
            ("# a\n# b\rc\n", "control character in line 2"),
            ("# \u{202e}a\n", "control character in line 1"),
        ] {
            let error = slurm(text).unwrap_err().to_string();
            assert!(error.contains(told), "{text}: {error}");
            assert_eq!(error.lines().count(), 1, "{error}");
        }
        assert_eq!(slurm(&"#".repeat(MAX_DOCUMENT + 1)), Err(DocumentError::TooLong));
        assert_eq!(slurm(&"\n".repeat(MAX_LINES + 1)), Err(DocumentError::TooManyLines));
        let shared = |n: usize| {
            let logins: String = (0..n).map(|i| format!("shared{i} = \"member\"\n")).collect();
            slurm(&format!("[shared_logins]\n{logins}"))
        };
        assert!(shared(16).is_ok());
        assert!(shared(17).unwrap_err().to_string().contains("more than 16 shared logins"));
    }
}
