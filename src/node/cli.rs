//! The command line of `certgate-node`, and what surrounds its two commands: the runtime, the log, signals and
//! systemd.

use super::{
    accounts::Accounts,
    config::{self, NodeConfig},
    doctor::{self, DoctorArgs},
    join::{self, Places},
    leave,
    run::{self, Clock, Watch},
    sshd::Sshd,
};
use crate::app::protocol::Reach;
use clap::{Args, CommandFactory, Parser, Subcommand};
use std::{
    io::{self, Write},
    net::SocketAddr,
    path::PathBuf,
    process::ExitCode,
};
use tokio::signal::unix::{SignalKind, signal};

/// Makes this machine a node of a cluster, keeps it one, and ends that.
#[derive(Debug, Parser)]
#[command(name = "certgate-node", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make this machine a node, with the token that `node token` printed on the bastion
    Join(Box<JoinArgs>),
    /// Undo what `join` and the agent have done on this machine
    Leave(LeaveArgs),
    /// Be the node again that this machine was before `leave --for-now`
    ///
    /// Nothing happens if there was none.
    Resume(Placed),
    /// Run the agent: keep the access table as the authority says (what the service runs)
    Run(RunArgs),
    /// Look at this machine, and say what is wrong and what to do about it
    ///
    /// Nothing is changed. Exit status: 0 all is well; 1 warnings, or something that only root can see; 2 something that
    /// keeps people out or lets the wrong ones in.
    Doctor(DoctorArgs),
    /// Print a shell's completions
    Completions {
        /// For which shell
        shell: clap_complete::Shell,
    },
}

#[derive(Debug, Args)]
struct RunArgs {
    /// What `join` wrote
    #[arg(long, value_name = "FILE", default_value = "/etc/certgate/node.toml")]
    config: PathBuf,
}

/// Where `join` has put things, for the commands that come after it.
#[derive(Debug, Args)]
pub(super) struct Placed {
    /// What `join` wrote
    #[arg(long, value_name = "FILE", default_value = "/etc/certgate/node.toml")]
    pub(super) config: PathBuf,
    /// sshd itself, by its whole path
    #[arg(long, value_name = "FILE", default_value = "/usr/sbin/sshd")]
    pub(super) sshd: PathBuf,
    /// sshd's main configuration file
    #[arg(long, value_name = "FILE", default_value = "/etc/ssh/sshd_config")]
    pub(super) sshd_config: PathBuf,
    /// The sshd configuration file that `join` wrote
    #[arg(long, value_name = "FILE", default_value = "/etc/ssh/sshd_config.d/10-certgate.conf")]
    pub(super) drop_in: PathBuf,
}

#[derive(Debug, Args)]
struct LeaveArgs {
    #[command(flatten)]
    placed: Placed,
    /// Leave the accounts that the agent has made: files keep their owners' names
    #[arg(long)]
    keep_accounts: bool,
    /// Let `resume` undo it without a token: who this node is and what it knows stays (what removing the package does)
    #[arg(long)]
    for_now: bool,
}

impl Placed {
    fn places(self) -> leave::Places {
        let Self { config, sshd: program, sshd_config, drop_in } = self;
        let sshd = Sshd { program, config: sshd_config };
        leave::Places { config, sshd, drop_in, keep_accounts: false, for_now: false }
    }
}

#[derive(Debug, Args)]
struct JoinArgs {
    /// The join token; it begins with cgt1_
    token: String,
    /// Where to write what `run` reads
    #[arg(long, value_name = "FILE", default_value = "/etc/certgate/node.toml")]
    config: PathBuf,
    /// Where the bundle and the access table are kept
    #[arg(long, value_name = "DIR", default_value = "/var/lib/certgate-node")]
    state_dir: PathBuf,
    /// This machine's host private key: its identity as a node
    #[arg(long, value_name = "FILE", default_value = "/etc/ssh/ssh_host_ed25519_key")]
    host_key: PathBuf,
    /// sshd itself, by its whole path
    #[arg(long, value_name = "FILE", default_value = "/usr/sbin/sshd")]
    sshd: PathBuf,
    /// sshd's main configuration file, which must include the drop-in
    #[arg(long, value_name = "FILE", default_value = "/etc/ssh/sshd_config")]
    sshd_config: PathBuf,
    /// The sshd configuration file to write
    #[arg(long, value_name = "FILE", default_value = "/etc/ssh/sshd_config.d/10-certgate.conf")]
    drop_in: PathBuf,
    /// The helper that sshd asks on every login
    #[arg(long, value_name = "FILE", default_value = "/usr/lib/certgate/certgate-principals")]
    helper: PathBuf,
    /// The user as whom sshd runs the helper [default: certgate-principals, which the package makes, or nobody]
    #[arg(long, value_name = "USER")]
    helper_user: Option<String>,
    /// Let sshd itself refuse what was revoked, beside the helper (RevokedKeys); the agent keeps the list
    #[arg(long)]
    revoked_keys: bool,
    /// How gateways reach this machine's sshd: `direct` (they dial it) or `tunnel` (through the agent's own connection, so
    /// that nothing has to be open to them)
    #[arg(long, value_name = "HOW", default_value = "direct", value_parser = reach)]
    reach: Reach,
    /// Where sshd is for the agent, if reach is `tunnel`: an address of this machine
    #[arg(long, value_name = "ADDRESS:PORT", default_value_t = config::sshd_address())]
    sshd_address: SocketAddr,
    /// Who makes accounts for the people who may log in: `userdb` (the agent, as user records for nss-systemd) or `none`
    /// (the site) [default: userdb where nsswitch.conf(5) names systemd and no source but the machine's own files]
    #[arg(long, value_name = "WHO", value_parser = accounts)]
    accounts: Option<Accounts>,
    /// The command that makes sshd read its configuration again, without a shell
    /// [default: systemctl reload ssh, or sshd]
    #[arg(long, value_name = "COMMAND", value_parser = |text: &str| join::reload_words(text).map(Reload))]
    reload: Option<Reload>,
    /// Do not reload sshd, now or when the host certificate is renewed
    #[arg(long, conflicts_with = "reload")]
    no_reload: bool,
}

#[derive(Clone, Debug)]
struct Reload(Vec<String>);

/// A user that nothing else runs as, if there is one.
fn helper_user() -> &'static str {
    let own = "certgate-principals";
    let made = nix::unistd::User::from_name(own).ok().flatten().is_some();
    if made { own } else { "nobody" }
}

fn reach(text: &str) -> Result<Reach, &'static str> {
    match text {
        "direct" => Ok(Reach::Direct),
        "tunnel" => Ok(Reach::Tunnel),
        _ => Err("'direct' or 'tunnel'"),
    }
}

fn accounts(text: &str) -> Result<Accounts, &'static str> {
    match text {
        "userdb" => Ok(Accounts::Userdb),
        "none" => Ok(Accounts::None),
        _ => Err("'userdb' or 'none'"),
    }
}

impl JoinArgs {
    fn places(self) -> Places {
        let service = |name: &str| vec!["systemctl".to_owned(), "reload".to_owned(), name.to_owned()];
        let reload = match self.reload {
            _ if self.no_reload => vec![],
            Some(Reload(words)) => vec![words],
            // Debian calls the service ssh, others sshd.
            None => vec![service("ssh"), service("sshd")],
        };
        Places {
            config: self.config,
            state_dir: self.state_dir,
            host_key: self.host_key,
            sshd: Sshd { program: self.sshd, config: self.sshd_config },
            drop_in: self.drop_in,
            helper: self.helper,
            helper_user: self.helper_user.unwrap_or_else(|| helper_user().to_owned()),
            revoked_keys: self.revoked_keys,
            reach: self.reach,
            sshd_address: self.sshd_address,
            accounts: self.accounts,
            reload,
        }
    }
}

/// The command line itself, for man pages.
#[must_use]
pub fn grammar() -> clap::Command {
    Cli::command()
}

/// The whole program. Exit status 0, 1 (refused or failed) or 2 (usage).
#[must_use]
pub fn main(clock: Clock) -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let code = if error.use_stderr() { ExitCode::from(2) } else { ExitCode::SUCCESS };
            // A terminal that is gone has nobody to tell.
            let _ = error.print();
            return code;
        }
    };
    let runtime = match tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return failed(&error),
    };
    match cli.command {
        Command::Join(mut args) => {
            let token = std::mem::take(&mut args.token);
            let joined = runtime.block_on(join::join(&token, &args.places(), clock, say));
            joined.map_or_else(|error| failed(&error), |()| ExitCode::SUCCESS)
        }
        Command::Leave(args) => {
            let (keep_accounts, for_now) = (args.keep_accounts, args.for_now);
            let places = leave::Places { keep_accounts, for_now, ..args.placed.places() };
            leave::leave(&places, say).map_or_else(|error| failed(&error), |_| ExitCode::SUCCESS)
        }
        Command::Resume(placed) => {
            leave::resume(&placed.places(), say).map_or_else(|error| failed(&error), |_| ExitCode::SUCCESS)
        }
        Command::Run(args) => {
            let filter = tracing_subscriber::EnvFilter::try_from_default_env();
            let filter = filter.unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("warn,certgate=info"));
            tracing_subscriber::fmt().with_env_filter(filter).with_ansi(false).with_writer(io::stderr).init();
            let config = match NodeConfig::load(&args.config) {
                Ok(config) => config,
                Err(error) => return failed(&error),
            };
            runtime.block_on(serve(config, clock))
        }
        Command::Doctor(args) => {
            let code = runtime.block_on(doctor::doctor(args, clock));
            // What still hangs has been said, and is not waited for.
            runtime.shutdown_background();
            code
        }
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut grammar(), "certgate-node", &mut script);
            io::stdout().write_all(&script).map_or_else(|error| failed(&error), |()| ExitCode::SUCCESS)
        }
    }
}

async fn serve(config: NodeConfig, clock: Clock) -> ExitCode {
    let signals = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()));
    let (Ok(mut terminate), Ok(mut interrupt)) = signals else { return failed(&"signals cannot be received") };
    let stop = async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    };
    // Without systemd these do nothing.
    let tell = |state| drop(sd_notify::notify(&[state]));
    // Three times as often as it is wanted.
    let watch = Watch {
        every: sd_notify::watchdog_enabled().map(|within| within / 3).filter(|every| !every.is_zero()),
        tell: || drop(sd_notify::notify(&[sd_notify::NotifyState::Watchdog])),
    };
    let result = run::run(config, clock, || tell(sd_notify::NotifyState::Ready), watch, stop).await;
    tell(sd_notify::NotifyState::Stopping);
    result.map_or_else(|error| failed(&error), |()| ExitCode::SUCCESS)
}

fn say(line: &str) {
    // Progress for a person; nobody may be there.
    let _ = writeln!(io::stderr(), "{line}");
}

fn failed(error: &impl std::fmt::Display) -> ExitCode {
    say(&format!("certgate-node: {error}"));
    ExitCode::FAILURE
}
