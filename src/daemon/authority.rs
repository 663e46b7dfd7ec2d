//! The authority's process.

use super::{
    config::{AuthorityConfig, user_number},
    outside::{SystemClock, SystemEntropy},
    ready, stop_on_signals, watch,
};
use crate::{
    api::server::{Allowed, serve_admin, serve_gateway, serve_provisioner},
    app::{App, Retention, Site, Upkeep},
    ca::CaKeys,
    domain::Ttl,
    provisioner,
    store::{SqliteStore, Store},
};
use rustix::fs::Mode;
use std::{
    error::Error,
    iter,
    os::unix::fs::{DirBuilderExt, MetadataExt},
    path::{Path, PathBuf},
    sync::Arc,
};
use tokio::{net::UnixListener, sync::mpsc, task::JoinSet};
use tokio_util::sync::CancellationToken;

/// Runs the authority until it is asked to stop.
///
/// # Errors
/// Another authority has the state directory, the database is damaged, a key is missing or unsafe, a socket cannot be
/// made; one line that says which file and what to do.
pub fn run_authority(config: AuthorityConfig) -> Result<(), Box<dyn Error>> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(run(config))
}

async fn run(config: AuthorityConfig) -> Result<(), Box<dyn Error>> {
    let stop = stop_on_signals()?;
    let gateway_users = config.gateway_user.iter().map(|name| user_number("gateway_user", name));
    let gateway_users = Allowed { uids: gateway_users.collect::<Result<_, _>>()? };
    let machinery = config.provisioner.map(|raw| {
        let users = raw.user.iter().map(|name| user_number("provisioner.user", name));
        let allowed = Allowed { uids: users.collect::<Result<_, _>>()? };
        Ok::<_, Box<dyn Error>>((provisioner::Config::try_from(raw)?.socket, allowed))
    });
    let machinery = machinery.transpose()?;
    let operators = config.operators.iter().map(|name| user_number("operators", name));
    let operators = Allowed { uids: operators.collect::<Result<_, _>>()? };

    prepare_state_dir(&config.state_dir)?;
    let database = SqliteStore::database(&config.state_dir);
    let fresh = database.symlink_metadata().is_err();
    // systemd's: credentials(7).
    let credentials = std::env::var_os("CREDENTIALS_DIRECTORY").map(PathBuf::from);
    if fresh && iter::once(&config.state_dir).chain(&credentials).any(|dir| CaKeys::present(dir)) {
        return Err(format!(
            "{} is missing, but there are CA keys beside it or among the credentials. An empty directory is never made under an old CA: serials \
             and user numbers would be given out twice. Restore the file from a backup; if this authority was never \
             used, begin again with an empty state directory",
            database.display()
        )
        .into());
    }
    if fresh && config.state_dir.join(crate::cli::UNFINISHED).symlink_metadata().is_ok() {
        return Err(format!(
            "{}: a backup is being restored here, or that was cut short. Nothing was begun; restore it again, or take away \
             {}",
            config.state_dir.display(),
            crate::cli::UNFINISHED
        )
        .into());
    }
    let (commits, committed) = mpsc::unbounded_channel();
    let store = SqliteStore::open(&config.state_dir, commits)?;
    // The store is locked now: of two that start at once on an empty directory only one comes so far.
    if fresh {
        CaKeys::make(&config.state_dir)?;
    } else if store.last_signed_head().await?.is_none()
        && !credentials.as_deref().is_some_and(CaKeys::present_audit)
        && let Some(path) = CaKeys::add_audit_key(&config.state_dir)?
    {
        tracing::warn!(
            path = %path.display(),
            "this state directory is from before the audit log was signed: a key for it was made; put it into your \
             backups, and keep its public half elsewhere ('certgate ca show')"
        );
    }
    let keys = CaKeys::load_with(&config.state_dir, credentials.as_deref(), &database)?;
    for path in credentials.iter().flat_map(|credentials| CaKeys::in_both(&config.state_dir, credentials)) {
        tracing::warn!(path = %path.display(), "this key is taken from systemd's credentials; the file is not read, and should go");
    }
    if let Some(last) = store.last_signed_head().await?
        && !last.is_by(&keys.audit.verifying_key())
    {
        tracing::warn!(
            number = last.number,
            "the audit log was signed by another key than the audit key here: unless that key was replaced on purpose, this is \
             not the directory that belongs to these keys, and may be somebody's forgery of it (restore with --audit-key)"
        );
    }
    let (clock, entropy) = (Arc::new(SystemClock), Arc::new(SystemEntropy));
    let day = std::time::Duration::from_secs(86_400);
    let archive = config.audit.archive_dir.unwrap_or_else(|| config.state_dir.join("audit"));
    let upkeep = Upkeep {
        retention: config.audit.keep_days.map(|days| Retention { keep: day * u32::from(days.get()), archive }),
        backup_every: config.backup.max_age.map(Ttl::duration),
    };
    let site = Site {
        bastion: config.bastion,
        certificates: config.certificates,
        node_networks: config.node_networks,
        provisioner: machinery.is_some(),
        upkeep,
    };
    let app = App::start(Arc::new(store), keys, site, clock, entropy).await?;

    let admin = listen(&config.admin_socket, &operators)?;
    let gateway = listen(&config.gateway_socket, &gateway_users)?;
    let mut sockets = vec![config.admin_socket, config.gateway_socket];
    let mut serving = JoinSet::new();
    if let Some((socket, allowed)) = machinery {
        let listener = listen(&socket, &allowed)?;
        serving.spawn(serve_provisioner(app.clone(), listener, allowed, stop.clone()));
        sockets.push(socket);
    }
    let (stop_publishing, stop_keeping) = (CancellationToken::new(), CancellationToken::new());
    let stop_upkeep = CancellationToken::new();
    let mut publishing = tokio::spawn(app.clone().publish(committed, stop_publishing.clone()));
    let mut upkeep = tokio::spawn(app.clone().keep_up(stop_upkeep.clone()));
    let retaining = tokio::spawn(app.clone().keep_archive(stop_upkeep.clone()));
    let mut keeping = tokio::spawn(app.clone().keep_audit(stop_keeping.clone()));
    serving.spawn(serve_admin(app.clone(), admin, operators, stop.clone()));
    serving.spawn(serve_gateway(app.clone(), gateway, gateway_users, stop.clone()));
    // One decision that changes nothing and one query: what would be waited for is what everybody waits for.
    let asked = app.clone();
    watch(false, stop_upkeep.clone(), move || {
        let app = asked.clone();
        async move { app.is_alive().await }
    });
    tracing::info!(state_dir = %config.state_dir.display(), version = %app.directory().version(), "the authority is ready");
    ready();

    // Without the one that acts on changes a removal would be a promise that nobody keeps, without the one that keeps the
    // journal nobody would hear of it: better to stop, and be started again, when every gateway and node says what it has.
    let failed = tokio::select! {
        () = stop.cancelled() => None,
        ended = &mut publishing => Some(("what acts on changes", ended)),
        ended = &mut keeping => Some(("what keeps the journal", ended)),
        ended = &mut upkeep => Some(("what does what is due", ended)),
    };
    stop.cancel();
    stop_upkeep.cancel();
    // It can be begun again at any point of it.
    retaining.abort();
    if !upkeep.is_finished() {
        // One that has panicked meanwhile has nothing more to do.
        let _ = upkeep.await;
    }
    // One that has panicked is an error, after the others have finished.
    let mut served = Ok(());
    while let Some(ended) = serving.join_next().await {
        served = served.and(ended);
    }
    served?;
    if let Some((what, ended)) = failed {
        ended?;
        return Err(format!("{what} has ended").into());
    }
    // Nobody decides anything any more. What was decided is acted upon; then it is all in the journal, and the end of the
    // log is signed.
    stop_publishing.cancel();
    publishing.await?;
    stop_keeping.cancel();
    keeping.await?;
    for socket in &sockets {
        let _ = std::fs::remove_file(socket);
    }
    tracing::info!("the authority has stopped");
    Ok(())
}

/// Makes the state directory, for this user alone; refuses one that others can get at.
fn prepare_state_dir(path: &Path) -> Result<(), Box<dyn Error>> {
    match std::fs::DirBuilder::new().mode(0o700).create(path) {
        Ok(()) => return Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(format!("{}: {error}", path.display()).into()),
    }
    let metadata = std::fs::symlink_metadata(path)?;
    let (mode, owner) = (metadata.mode() & 0o7777, metadata.uid());
    if !metadata.is_dir() || mode & 0o077 != 0 || owner != rustix::process::geteuid().as_raw() {
        return Err(format!(
            "{}: it must be a directory of mode 0700 that belongs to the user that the authority runs as; its mode is \
             {mode:04o}, its owner {owner}",
            path.display()
        )
        .into());
    }
    Ok(())
}

/// Listens on a socket. Its mode keeps everybody out who is not meant; where other users are, the kernel's word on who
/// knocks decides for each connection. A socket that a former process left is replaced; one that answers is not.
fn listen(path: &Path, allowed: &Allowed) -> Result<UnixListener, Box<dyn Error>> {
    if path.symlink_metadata().is_ok() {
        if std::os::unix::net::UnixStream::connect(path).is_ok() {
            return Err(format!("{}: another process serves this socket", path.display()).into());
        }
        std::fs::remove_file(path)?;
    }
    let listener = UnixListener::bind(path).map_err(|error| format!("{}: {error}", path.display()))?;
    let mode = if allowed.uids.is_empty() { 0o600 } else { 0o666 };
    rustix::fs::chmod(path, Mode::from_raw_mode(mode))?;
    Ok(listener)
}
