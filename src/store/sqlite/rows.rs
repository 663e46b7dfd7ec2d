//! Rows as values: every column is parsed into its checked type, the same way for loading and for queries.

use crate::domain::{
    Account, AccountId, AccountKind, CertificateRecord, Cluster, ClusterId, Departure, Document, Fingerprint, Job,
    JoinToken, KeyEntry, Membership, Node, NodeCounts, NodeId, Org, OrgId, Project, ProjectId, ProvisionState,
    PublicKey, Resource, Revision, Serial, Size, Timestamp, TokenHash, Uid, Volume, VolumeId,
};
use rusqlite::{
    Error, Result, Row,
    types::{Type, ValueRef},
};
use serde::de::DeserializeOwned;
use std::{fmt::Display, str::FromStr, sync::Arc};

/// What a column holds is not what it should be.
fn bad(column: &str, what: impl Display) -> Error {
    Error::FromSqlConversionFailure(0, Type::Null, format!("column {column}: {what}").into())
}

pub(super) fn number(row: &Row<'_>, column: &str) -> Result<u64> {
    u64::try_from(row.get::<_, i64>(column)?).map_err(|_| bad(column, "a negative number"))
}

pub(super) fn time(row: &Row<'_>, column: &str) -> Result<Timestamp> {
    let millis = number(row, column)?;
    let time = Timestamp::from_millis(millis);
    // A time past the year 9999 was never written: it would come back as another one.
    if time.millis() == millis { Ok(time) } else { Err(bad(column, "not a time")) }
}

fn optional_time(row: &Row<'_>, column: &str) -> Result<Option<Timestamp>> {
    let millis: Option<i64> = row.get(column)?;
    millis.map(|_| time(row, column)).transpose()
}

fn text<T: FromStr<Err: Display>>(row: &Row<'_>, column: &str) -> Result<T> {
    row.get::<_, String>(column)?.parse().map_err(|error| bad(column, error))
}

pub(super) fn json<T: DeserializeOwned>(row: &Row<'_>, column: &str) -> Result<T> {
    serde_json::from_str(&row.get::<_, String>(column)?).map_err(|error| bad(column, error))
}

fn key(row: &Row<'_>, column: &str) -> Result<PublicKey> {
    PublicKey::from_wire(&row.get::<_, Vec<u8>>(column)?).map_err(|error| bad(column, error))
}

pub(super) fn org(row: &Row<'_>) -> Result<Org> {
    Ok(Org { id: OrgId(number(row, "id")?), name: text(row, "name")?, created: time(row, "created")? })
}

pub(super) fn account(row: &Row<'_>) -> Result<Account> {
    Ok(Account {
        id: AccountId(number(row, "id")?),
        org: OrgId(number(row, "org")?),
        email: text(row, "email")?,
        user: text(row, "user")?,
        uid: Uid(row.get("uid")?),
        state: text(row, "state")?,
        kind: match row.get_ref("service")? {
            ValueRef::Null => AccountKind::Person,
            _ => AccountKind::Service(json(row, "service")?),
        },
        created: time(row, "created")?,
    })
}

/// From `keys` and from `denied_keys`.
pub(super) fn key_entry(row: &Row<'_>) -> Result<KeyEntry> {
    let key = key(row, "key")?;
    if &row.get::<_, [u8; 32]>("fingerprint")? != key.fingerprint().as_bytes() {
        return Err(bad("fingerprint", "not that of the key beside it"));
    }
    Ok(KeyEntry { account: AccountId(number(row, "account")?), key, added: time(row, "added")? })
}

pub(super) fn project(row: &Row<'_>) -> Result<Project> {
    Ok(Project {
        id: ProjectId(number(row, "id")?),
        org: OrgId(number(row, "org")?),
        name: text(row, "name")?,
        gid: Uid(row.get("gid")?),
        admins_gid: Uid(row.get("admins_gid")?),
        limits: json(row, "limits")?,
        created: time(row, "created")?,
    })
}

/// From `clusters` with the document in force beside it.
pub(super) fn cluster(row: &Row<'_>) -> Result<Cluster> {
    let kind = text(row, "kind")?;
    let document = Document::parse(row.get_ref("document")?.as_str()?, kind).map_err(|error| bad("document", error))?;
    let wanted =
        NodeCounts { login: row.get("login")?, compute: row.get("compute")?, controller: row.get("controller")? };
    Ok(Cluster {
        id: ClusterId(number(row, "id")?),
        project: ProjectId(number(row, "project")?),
        name: text(row, "name")?,
        kind,
        document: Arc::new(document),
        revision: number(row, "revision")?,
        wanted,
        created: time(row, "created")?,
    })
}

pub(super) fn revision(row: &Row<'_>) -> Result<Revision> {
    Ok(Revision { revision: number(row, "revision")?, document: row.get("document")?, at: time(row, "at")? })
}

pub(super) fn volume(row: &Row<'_>) -> Result<Volume> {
    Ok(Volume {
        id: VolumeId(number(row, "id")?),
        project: ProjectId(number(row, "project")?),
        name: text(row, "name")?,
        size: Size::from_bytes(number(row, "size")?).ok_or_else(|| bad("size", "out of bounds"))?,
        mount: text(row, "mount")?,
        created: time(row, "created")?,
    })
}

pub(super) fn job(row: &Row<'_>) -> Result<Job> {
    let resource = number(row, "resource")?;
    Ok(Job {
        id: number(row, "id")?,
        resource: match row.get_ref("kind")?.as_str()? {
            "cluster" => Resource::Cluster(ClusterId(resource)),
            "volume" => Resource::Volume(VolumeId(resource)),
            _ => return Err(bad("kind", "neither cluster nor volume")),
        },
        action: text(row, "action")?,
        name: row.get("name")?,
        input: row.get("input")?,
        queued: time(row, "queued")?,
        attempts: row.get("attempts")?,
        next: time(row, "next")?,
        state: match row.get_ref("state")?.as_str()? {
            "ready" => ProvisionState::Ready,
            "pending" => ProvisionState::Pending,
            "failed" => ProvisionState::Failed(row.get("reason")?),
            _ => return Err(bad("state", "neither ready, pending nor failed")),
        },
    })
}

pub(super) fn node(row: &Row<'_>) -> Result<Node> {
    Ok(Node {
        id: NodeId(number(row, "id")?),
        cluster: ClusterId(number(row, "cluster")?),
        name: text(row, "name")?,
        role: text(row, "role")?,
        address: text(row, "address")?,
        port: row.get("port")?,
        host_key: key(row, "key")?,
        enrolled: time(row, "enrolled")?,
    })
}

pub(super) fn token(row: &Row<'_>) -> Result<JoinToken> {
    let address: Option<String> = row.get("address")?;
    Ok(JoinToken {
        hash: TokenHash(row.get("hash")?),
        cluster: ClusterId(number(row, "cluster")?),
        node: text(row, "node")?,
        role: text(row, "role")?,
        address: address.map(|_| text(row, "address")).transpose()?,
        port: row.get("port")?,
        by: json(row, "by")?,
        expires: time(row, "expires")?,
        used: optional_time(row, "used")?,
    })
}

pub(super) fn membership(row: &Row<'_>) -> Result<Membership> {
    Ok(Membership {
        project: ProjectId(number(row, "project")?),
        account: AccountId(number(row, "account")?),
        role: text(row, "role")?,
        since: time(row, "since")?,
        by: json(row, "by")?,
    })
}

pub(super) fn departure(row: &Row<'_>) -> Result<Departure> {
    Ok(Departure {
        project: ProjectId(number(row, "project")?),
        account: AccountId(number(row, "account")?),
        at: time(row, "at")?,
        by: json(row, "by")?,
        until: optional_time(row, "until")?,
    })
}

pub(super) fn certificate(row: &Row<'_>) -> Result<CertificateRecord> {
    Ok(CertificateRecord {
        serial: Serial(number(row, "serial")?),
        account: AccountId(number(row, "account")?),
        key: Fingerprint::from_bytes(row.get("key")?),
        principals: json(row, "principals")?,
        valid_after: time(row, "valid_after")?,
        valid_before: time(row, "valid_before")?,
        source: row.get("source")?,
        issued: time(row, "issued")?,
    })
}
