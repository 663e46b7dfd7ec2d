//! A step as SQL: what each mutation changes in which tables, and the certificate and audit entries beside it.

use super::audit;
use crate::{
    domain::{
        Account, AccountKind, Actor, CertificateRecord, Cluster, ClusterId, Document, Job, JoinToken, KeyEntry,
        Membership, Mutation, Node, NodeCounts, NodeId, Project, ProjectId, ProvisionState, Resource, Timestamp, Uid,
        Volume,
    },
    store::step::{State, Step},
};
use rusqlite::{Connection, ErrorCode, Params, params};
use serde::Serialize;
use thiserror::Error;

/// Why a step was not written.
#[derive(Debug, Error)]
pub(super) enum WriteError {
    /// SQLite says no.
    #[error("{0}")]
    Sql(#[from] rusqlite::Error),
    /// What is to be changed is not there: the database has not what the directory has.
    #[error("the database contradicts the directory: {0}")]
    Diverged(&'static str),
    /// A number beyond SQLite's 63 bits.
    #[error("{0} is too large a number for the database")]
    TooLarge(u64),
}

impl WriteError {
    /// Whether only this step is at fault, so that others of the same transaction can go on.
    pub(super) fn is_of_this_step_alone(&self) -> bool {
        match self {
            Self::Sql(error) => error.sqlite_error_code() == Some(ErrorCode::ConstraintViolation),
            Self::Diverged(_) | Self::TooLarge(_) => true,
        }
    }
}

pub(super) type Written = Result<(), WriteError>;

pub(super) fn int(number: u64) -> Result<i64, WriteError> {
    i64::try_from(number).map_err(|_| WriteError::TooLarge(number))
}

pub(super) fn time(at: Timestamp) -> Result<i64, WriteError> {
    int(at.millis())
}

/// An actor, a list of strings, the bounds of a service account: none has a map or a fallible serializer, so this has no
/// error case. An empty text would not load.
pub(super) fn json(value: &impl Serialize) -> String {
    serde_json::to_string(value).unwrap_or_default()
}

pub(super) fn run(connection: &Connection, sql: &str, params: impl Params) -> Result<usize, WriteError> {
    Ok(connection.prepare_cached(sql)?.execute(params)?)
}

/// Runs what must change exactly one row.
pub(super) fn run_one(connection: &Connection, what: &'static str, sql: &str, params: impl Params) -> Written {
    match run(connection, sql, params)? {
        1 => Ok(()),
        _ => Err(WriteError::Diverged(what)),
    }
}

/// Writes all of a step but the version and the next serial number, which [`meta`] writes once a transaction.
pub(super) fn step(connection: &Connection, step: &Step) -> Written {
    for change in &step.mutations {
        mutation(connection, change)?;
    }
    if let Some(record) = &step.certificate {
        certificate(connection, record)?;
    }
    step.entries.iter().try_for_each(|entry| audit::write_entry(connection, entry))?;
    step.signed.iter().try_for_each(|signed| audit::write_head(connection, signed))?;
    step.forget.iter().try_for_each(|start| audit::begin_after(connection, *start))
}

/// Writes where a transaction ends.
pub(super) fn meta(connection: &Connection, state: &State) -> Written {
    let (version, next_serial) = (int(state.directory.version().0)?, int(state.next_serial.0)?);
    run_one(
        connection,
        "no row in meta",
        "UPDATE meta SET version = ?1, next_serial = ?2",
        params![version, next_serial],
    )
}

fn certificate(connection: &Connection, record: &CertificateRecord) -> Written {
    let principals = json(&record.principals);
    run_one(
        connection,
        "certificate",
        "INSERT INTO certificates (serial, account, key, principals, valid_after, valid_before, source, issued)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
        params![
            int(record.serial.0)?,
            int(record.account.0)?,
            record.key.as_bytes(),
            principals,
            time(record.valid_after)?,
            time(record.valid_before)?,
            record.source,
            time(record.issued)?
        ],
    )
}

fn mutation(connection: &Connection, mutation: &Mutation) -> Written {
    match mutation {
        Mutation::OrgCreated(org) => run_one(
            connection,
            "organization",
            "INSERT INTO orgs (id, name, created) VALUES (?1, ?2, ?3)",
            params![int(org.id.0)?, org.name.as_str(), time(org.created)?],
        ),
        Mutation::AccountCreated(new) => account(connection, new),
        Mutation::AccountStateSet { account, state, at, by } => run_one(
            connection,
            "no such account",
            "UPDATE accounts SET state = ?2, state_at = ?3, state_by = ?4 WHERE id = ?1",
            params![int(account.0)?, state.as_str(), time(*at)?, json(by)],
        ),
        Mutation::ServiceTermsSet { account, terms } => run_one(
            connection,
            "no such service account",
            "UPDATE accounts SET service = ?2 WHERE id = ?1 AND service IS NOT NULL",
            params![int(account.0)?, json(terms)],
        ),
        Mutation::KeyAdded(entry) => add_key(connection, entry),
        Mutation::KeyRemoved { account, key, denied_until } => {
            let key = params![key.as_bytes(), int(account.0)?, time(*denied_until)?];
            run_one(
                connection,
                "no such key",
                "INSERT OR REPLACE INTO denied_keys (fingerprint, account, key, added, until)
                 SELECT fingerprint, account, key, added, ?3 FROM keys WHERE fingerprint = ?1 AND account = ?2",
                key,
            )?;
            run_one(connection, "no such key", "DELETE FROM keys WHERE fingerprint = ?1", &key[..1])
        }
        Mutation::ProjectCreated(new) => project(connection, new),
        Mutation::ProjectLimited { project, limits } => run_one(
            connection,
            "no such project",
            "UPDATE projects SET limits = ?2 WHERE id = ?1 AND deleted_at IS NULL",
            params![int(project.0)?, json(limits)],
        ),
        Mutation::ProjectDeleted { project, at, by } => delete_project(connection, *project, *at, by),
        Mutation::ClusterCreated(new) => cluster(connection, new),
        Mutation::ClusterConfigured { cluster, document, at } => configure_cluster(connection, *cluster, document, *at),
        Mutation::ClusterScaled { cluster, wanted: NodeCounts { login, compute, controller } } => run_one(
            connection,
            "no such cluster",
            "UPDATE clusters SET login = ?2, compute = ?3, controller = ?4 WHERE id = ?1 AND deleted_at IS NULL",
            params![int(cluster.0)?, login, compute, controller],
        ),
        Mutation::ClusterDeleted { cluster, at, by } => delete_cluster(connection, *cluster, *at, by),
        Mutation::VolumeCreated(new) => volume(connection, new),
        Mutation::VolumeChanged { volume, size, mount } => run_one(
            connection,
            "no such volume",
            "UPDATE volumes SET size = ?2, mount = ?3 WHERE id = ?1 AND deleted_at IS NULL",
            params![int(volume.0)?, int(size.bytes())?, mount.as_str()],
        ),
        Mutation::VolumeDeleted { volume, at } => run_one(
            connection,
            "no such volume",
            "UPDATE volumes SET deleted_at = ?2 WHERE id = ?1 AND deleted_at IS NULL",
            params![int(volume.0)?, time(*at)?],
        ),
        Mutation::JobSet(new) => job(connection, new),
        Mutation::TokenCreated(new) => token(connection, new),
        Mutation::TokenUsed { hash, at } => run_one(
            connection,
            "no such token",
            "UPDATE tokens SET used = ?2 WHERE hash = ?1",
            params![hash.0, time(*at)?],
        ),
        Mutation::NodeEnrolled(new) => node(connection, new),
        Mutation::NodeRemoved { node, at } => remove_node(connection, *node, *at),
        Mutation::MemberAdded(new) => add_member(connection, new),
        Mutation::MemberRemoved(departure) => {
            let (project, account) = (int(departure.project.0)?, int(departure.account.0)?);
            run_one(
                connection,
                "no such membership",
                "DELETE FROM memberships WHERE project = ?1 AND account = ?2",
                params![project, account],
            )?;
            run_one(
                connection,
                "departure",
                "INSERT OR REPLACE INTO departures (project, account, at, by, until) VALUES (?1, ?2, ?3, ?4, ?5)",
                params![
                    project,
                    account,
                    time(departure.at)?,
                    json(&departure.by),
                    departure.until.map(time).transpose()?
                ],
            )
        }
        Mutation::RoleSet { project, account, role } => run_one(
            connection,
            "no such membership",
            "UPDATE memberships SET role = ?3 WHERE project = ?1 AND account = ?2",
            params![int(project.0)?, int(account.0)?, role.as_str()],
        ),
        Mutation::SerialDenied { serial, account, until } => run_one(
            connection,
            "denied serial",
            "INSERT OR REPLACE INTO denied_serials (serial, account, until) VALUES (?1, ?2, ?3)",
            params![int(serial.0)?, int(account.0)?, time(*until)?],
        ),
    }
}

fn account(connection: &Connection, account: &Account) -> Written {
    let Account { id, org, email, user, uid: Uid(uid), state, kind, created } = account;
    let service = match kind {
        AccountKind::Person => None,
        AccountKind::Service(terms) => Some(json(terms)),
    };
    run_one(
        connection,
        "account",
        "INSERT INTO accounts (id, org, email, user, uid, state, created, service)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
        params![int(id.0)?, int(org.0)?, email.as_str(), user.as_str(), uid, state.as_str(), time(*created)?, service],
    )
}

fn add_key(connection: &Connection, entry: &KeyEntry) -> Written {
    let fingerprint = entry.key.fingerprint();
    run(connection, "DELETE FROM denied_keys WHERE fingerprint = ?1", params![fingerprint.as_bytes()])?;
    run_one(
        connection,
        "key",
        "INSERT INTO keys (fingerprint, account, key, added) VALUES (?1, ?2, ?3, ?4)",
        params![fingerprint.as_bytes(), int(entry.account.0)?, entry.key.to_wire(), time(entry.added)?],
    )
}

fn project(connection: &Connection, project: &Project) -> Written {
    let Project { id, org, name, gid: Uid(gid), admins_gid: Uid(admins_gid), limits, created } = project;
    run_one(
        connection,
        "project",
        "INSERT INTO projects (id, org, name, gid, admins_gid, limits, created) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
        params![int(id.0)?, int(org.0)?, name.as_str(), gid, admins_gid, json(limits), time(*created)?],
    )
}

fn delete_project(connection: &Connection, project: ProjectId, at: Timestamp, by: &Actor) -> Written {
    let what = params![int(project.0)?, time(at)?, json(by)];
    for sql in [
        "UPDATE nodes SET deleted_at = ?2
         WHERE deleted_at IS NULL AND cluster IN (SELECT id FROM clusters WHERE project = ?1)",
        "UPDATE volumes SET deleted_at = ?2 WHERE deleted_at IS NULL AND project = ?1",
    ] {
        run(connection, sql, &what[..2])?;
    }
    for sql in [
        "UPDATE clusters SET deleted_at = ?2, deleted_by = ?3 WHERE deleted_at IS NULL AND project = ?1",
        "INSERT INTO departures (project, account, at, by)
         SELECT project, account, ?2, ?3 FROM memberships WHERE project = ?1",
    ] {
        run(connection, sql, what)?;
    }
    run(connection, "DELETE FROM memberships WHERE project = ?1", &what[..1])?;
    run_one(
        connection,
        "no such project",
        "UPDATE projects SET deleted_at = ?2, deleted_by = ?3 WHERE id = ?1 AND deleted_at IS NULL",
        what,
    )
}

fn cluster(connection: &Connection, cluster: &Cluster) -> Written {
    let Cluster { id, project, name, kind, document, revision, wanted, created } = cluster;
    let NodeCounts { login, compute, controller } = wanted;
    let (id, revision, created) = (int(id.0)?, int(*revision)?, time(*created)?);
    run_one(
        connection,
        "no such project",
        "INSERT INTO clusters (id, project, org, name, kind, revision, login, compute, controller, created)
         SELECT ?1, id, org, ?3, ?4, ?5, ?6, ?7, ?8, ?9 FROM projects WHERE id = ?2",
        params![id, int(project.0)?, name.as_str(), kind.as_str(), revision, login, compute, controller, created],
    )?;
    run_one(
        connection,
        "document",
        "INSERT INTO documents (cluster, revision, document, at) VALUES (?1, ?2, ?3, ?4)",
        params![id, revision, document.text(), created],
    )
}

fn configure_cluster(connection: &Connection, cluster: ClusterId, document: &Document, at: Timestamp) -> Written {
    let cluster = int(cluster.0)?;
    run_one(
        connection,
        "no such cluster",
        "UPDATE clusters SET revision = revision + 1 WHERE id = ?1 AND deleted_at IS NULL",
        params![cluster],
    )?;
    run_one(
        connection,
        "document",
        "INSERT INTO documents (cluster, revision, document, at) SELECT id, revision, ?2, ?3 FROM clusters WHERE id = ?1",
        params![cluster, document.text(), time(at)?],
    )
}

fn volume(connection: &Connection, volume: &Volume) -> Written {
    let Volume { id, project, name, size, mount, created } = volume;
    run_one(
        connection,
        "volume",
        "INSERT INTO volumes (id, project, name, size, mount, created) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
        params![int(id.0)?, int(project.0)?, name.as_str(), int(size.bytes())?, mount.as_str(), time(*created)?],
    )
}

fn job(connection: &Connection, job: &Job) -> Written {
    let Job { id, resource, action, name, input, queued, attempts, next, state } = job;
    let (kind, resource) = match resource {
        Resource::Cluster(id) => ("cluster", id.0),
        Resource::Volume(id) => ("volume", id.0),
    };
    let (state, reason) = match state {
        ProvisionState::Ready => ("ready", None),
        ProvisionState::Pending => ("pending", None),
        ProvisionState::Failed(reason) => ("failed", Some(reason)),
    };
    run_one(
        connection,
        "job",
        "INSERT OR REPLACE INTO jobs (kind, resource, id, action, name, input, queued, attempts, next, state, reason)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)",
        params![
            kind,
            int(resource)?,
            int(*id)?,
            action.as_str(),
            name,
            input,
            time(*queued)?,
            attempts,
            time(*next)?,
            state,
            reason
        ],
    )
}

fn delete_cluster(connection: &Connection, cluster: ClusterId, at: Timestamp, by: &Actor) -> Written {
    let what = params![int(cluster.0)?, time(at)?, json(by)];
    run(connection, "UPDATE nodes SET deleted_at = ?2 WHERE cluster = ?1 AND deleted_at IS NULL", &what[..2])?;
    run_one(
        connection,
        "no such cluster",
        "UPDATE clusters SET deleted_at = ?2, deleted_by = ?3 WHERE id = ?1 AND deleted_at IS NULL",
        what,
    )
}

fn token(connection: &Connection, token: &JoinToken) -> Written {
    let JoinToken { hash, cluster, node, role, address, port, by, expires, used } = token;
    run_one(
        connection,
        "token",
        "INSERT INTO tokens (hash, cluster, node, role, address, port, by, expires, used)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
        params![
            hash.0,
            int(cluster.0)?,
            node.as_str(),
            role.as_str(),
            address.map(|address| address.to_string()),
            port,
            json(by),
            time(*expires)?,
            used.map(time).transpose()?
        ],
    )
}

/// A node that joins under a name takes the place of the one that had it.
fn node(connection: &Connection, node: &Node) -> Written {
    let Node { id, cluster, name, role, address, port, host_key, enrolled } = node;
    run(
        connection,
        "UPDATE nodes SET deleted_at = ?3 WHERE cluster = ?1 AND name = ?2 AND deleted_at IS NULL",
        params![int(cluster.0)?, name.as_str(), time(*enrolled)?],
    )?;
    run_one(
        connection,
        "node",
        "INSERT INTO nodes (id, cluster, name, role, address, port, key, enrolled)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
        params![
            int(id.0)?,
            int(cluster.0)?,
            name.as_str(),
            role.as_str(),
            address.to_string(),
            port,
            host_key.to_wire(),
            time(*enrolled)?
        ],
    )
}

fn remove_node(connection: &Connection, node: NodeId, at: Timestamp) -> Written {
    run_one(
        connection,
        "no such node",
        "UPDATE nodes SET deleted_at = ?2 WHERE id = ?1 AND deleted_at IS NULL",
        params![int(node.0)?, time(at)?],
    )
}

fn add_member(connection: &Connection, membership: &Membership) -> Written {
    let (project, account) = (int(membership.project.0)?, int(membership.account.0)?);
    run(connection, "DELETE FROM departures WHERE project = ?1 AND account = ?2", params![project, account])?;
    run_one(
        connection,
        "membership",
        "INSERT INTO memberships (project, account, role, since, by) VALUES (?1, ?2, ?3, ?4, ?5)",
        params![project, account, membership.role.as_str(), time(membership.since)?, json(&membership.by)],
    )
}
