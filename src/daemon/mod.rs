//! Wiring: configuration files, signals, systemd notification, the clock and the random numbers.

mod authority;
mod config;
mod gateway;
mod outside;
mod provisioner;
mod takeover;

pub use authority::run_authority;
pub use config::{AuthorityConfig, ConfigError, read_config};
pub use gateway::run_gateway;
pub use outside::{SystemClock, SystemEntropy};
pub use provisioner::run_provisioner;

use clap::{CommandFactory, Parser, Subcommand};
use std::{io::IsTerminal, path::PathBuf, process::ExitCode, time::Duration};
use tokio_util::sync::CancellationToken;

/// The daemons of a bastion.
#[derive(Debug, Parser)]
#[command(name = "certgated", version)]
pub struct Arguments {
    #[command(subcommand)]
    role: Role,
}

#[derive(Debug, Subcommand)]
enum Role {
    /// The authority: CA keys, directory, decisions, audit; no network
    Authority {
        /// Its configuration
        #[arg(long, default_value = "/etc/certgate/authority.toml")]
        config: PathBuf,
    },
    /// The gateway: what faces the network; no CA key, no directory
    Gateway {
        /// Its configuration
        #[arg(long, default_value = "/etc/certgate/gateway.toml")]
        config: PathBuf,
        /// Given by the process that hands over, never by hand
        #[arg(long, hide = true)]
        take_over: bool,
        /// Given with it, for a process that only starts the one that stays
        #[arg(long, hide = true, requires = "take_over")]
        orphan: bool,
    },
    /// The provisioner: runs the site's own program for clusters and volumes; no CA key, no directory
    Provisioner {
        /// The authority's configuration, of which it reads [provisioner]
        #[arg(long, default_value = "/etc/certgate/authority.toml")]
        config: PathBuf,
    },
}

/// The command line itself, for man pages.
#[must_use]
pub fn grammar() -> clap::Command {
    Arguments::command()
}

/// Runs the daemon that the command line asks for.
#[must_use]
pub fn main(arguments: Arguments) -> ExitCode {
    log();
    let outcome = match arguments.role {
        Role::Authority { config } => read_config(&config).map_err(Into::into).and_then(run_authority),
        Role::Gateway { config, take_over, orphan } => run_gateway(&config, take_over, orphan),
        Role::Provisioner { config } => read_config(&config).map_err(Into::into).and_then(run_provisioner),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// Logs to the journal under systemd, to standard error elsewhere; `CERTGATE_LOG` sets the level (`info`).
pub fn log() {
    use tracing_subscriber::{EnvFilter, layer::SubscriberExt, util::SubscriberInitExt};
    let filter = EnvFilter::try_from_env("CERTGATE_LOG").unwrap_or_else(|_| EnvFilter::new("info,russh=off"));
    // What goes into the audit log goes into the journal too, whatever level somebody has asked for.
    let filter = match format!("{}=info", crate::app::journal::TARGET).parse() {
        Ok(audit) => filter.add_directive(audit),
        // It is a target and a level.
        Err(_) => filter,
    };
    let registry = tracing_subscriber::registry().with(filter);
    let journal = std::env::var_os("JOURNAL_STREAM").and_then(|_| tracing_journald::layer().ok());
    match journal {
        Some(journal) => registry.with(journal).init(),
        None => {
            let colours = std::io::stderr().is_terminal();
            let layer = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_target(false);
            registry.with(layer.with_ansi(colours)).init();
        }
    }
}

/// Cancelled when the process is asked to stop.
fn stop_on_signals() -> std::io::Result<CancellationToken> {
    use tokio::signal::unix::{SignalKind, signal};
    let stop = CancellationToken::new();
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let cancelled = stop.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
        cancelled.cancel();
    });
    Ok(stop)
}

/// Tells systemd that the service is alive (`WatchdogSec=`), as long as `alive` says so, until `stop`: three times as often as
/// systemd wants to hear it. A process that has taken over (`inherited`) is watched as the one before it was, whose
/// number is in its environment still.
fn watch<F: Future<Output = bool> + Send + 'static>(
    inherited: bool,
    stop: CancellationToken,
    alive: impl Fn() -> F + Send + 'static,
) {
    let wanted = if inherited {
        let text = std::env::var("WATCHDOG_USEC").ok();
        text.and_then(|text| text.parse().ok()).map(Duration::from_micros)
    } else {
        sd_notify::watchdog_enabled()
    };
    let Some(every) = wanted.map(|within| within / 3).filter(|every| !every.is_zero()) else { return };
    tokio::spawn(async move {
        loop {
            // Not at once: of a process that has just taken over systemd may not know yet that it is the main one.
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(every) => {}
            }
            if alive().await {
                let _ = sd_notify::notify(&[sd_notify::NotifyState::Watchdog]);
            } else {
                tracing::error!("what serves does not answer; systemd will restart this process if it stays so");
            }
        }
    });
}

/// Says to systemd, if it is there, that the service is ready.
fn ready() {
    if let Err(error) = sd_notify::notify(&[sd_notify::NotifyState::Ready]) {
        tracing::warn!(%error, "systemd could not be told that the service is ready");
    }
}
