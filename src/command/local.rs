//! What the operator's `certgate` answers by itself, without the authority: help, what is wrong with the words, completions
//! and man pages; and what it does by itself.

use super::{
    Stop, audit,
    backup::{Backup, Restore},
    grammar::{self, Command},
    help::Reader,
    manual::{self, Page},
    setup::Setup,
    text::Screen,
};
use crate::{
    app::protocol::{BackupRequest, Output, Terminal},
    domain::{Fingerprint, PublicKey},
};
use clap::{Arg, ValueEnum};
use std::path::PathBuf;

/// Print a shell's completions
#[derive(Debug, clap::Args)]
#[command(after_help = "completions bash > /usr/share/bash-completion/completions/certgate")]
pub(crate) struct Completions {
    /// For which shell
    shell: Shell,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Shell {
    Bash,
    Zsh,
    Fish,
}

/// Write man pages
#[derive(Debug, clap::Args)]
#[command(after_help = "man /usr/local/share/man/man1")]
pub(crate) struct Man {
    /// Into which directory; it is made if it is not there
    directory: PathBuf,
}

/// What some words come to on the operator's side of the socket.
#[derive(Debug)]
pub enum Local {
    /// The authority has to be asked.
    Ask,
    /// This, and nothing else.
    Answered(Output),
    /// This machine is to become a bastion.
    Setup(Box<Setup>),
    /// These files in this directory.
    Pages {
        /// Where.
        directory: PathBuf,
        /// What.
        pages: Vec<Page>,
    },
    /// This backup, into this file; `-` is standard output.
    Backup {
        /// What to ask the authority for.
        request: BackupRequest,
        /// Where it goes.
        file: PathBuf,
    },
    /// Files of the audit log's archive, in order, to be checked with this key.
    Archives {
        /// The files.
        files: Vec<PathBuf>,
        /// The key; none: the one that they name.
        key: Option<PublicKey>,
    },
    /// An authority from a backup.
    Restore(RestoreOrder),
}

/// What is to be restored, and how.
#[derive(Clone, Debug)]
pub struct RestoreOrder {
    /// The backup.
    pub file: PathBuf,
    /// The file with the secret key that it was made for.
    pub identity: PathBuf,
    /// The state directory.
    pub into: PathBuf,
    /// The key that it must be signed with, if that is known.
    pub audit_key: Option<Fingerprint>,
    /// Nothing but what it is.
    pub dry_run: bool,
    /// It was said already that it shall be done.
    pub yes: bool,
}

/// Answers words that need no authority. `programs` are the command lines of the other programs.
pub fn locally(words: &[String], terminal: Option<Terminal>, programs: impl FnOnce() -> Vec<clap::Command>) -> Local {
    let reader = Reader { program: "certgate", operator: true, screen: Screen::of(terminal) };
    match grammar::parse(reader, local_grammar(), words) {
        Err(written) => Local::Answered(written.into()),
        Ok(line) => match line.command {
            Some(Command::Completions(Completions { shell })) => {
                Local::Answered(Output { stdout: completions(shell), ..Output::default() })
            }
            Some(Command::Man(Man { directory })) => {
                Local::Pages { directory, pages: manual::pages(local_grammar(), programs()) }
            }
            Some(Command::Setup(setup)) => Local::Setup(setup),
            Some(Command::Backup(Backup { file, to, with_ca_keys })) => {
                Local::Backup { request: BackupRequest { to, with_ca_keys }, file }
            }
            Some(Command::Restore(Restore { file, identity, into, audit_key, dry_run, yes })) => {
                Local::Restore(RestoreOrder { file, identity, into, audit_key, dry_run, yes })
            }
            Some(Command::Audit(audit::Command::Verify { archive, key, .. })) if !archive.is_empty() => {
                Local::Archives { files: archive, key }
            }
            _ => Local::Ask,
        },
    }
}

/// What the authority says of what has to do with files and shells, of which it has none.
pub(crate) fn elsewhere() -> Stop {
    Stop::Refused("this is done by the certgate program itself, on the bastion".into())
}

/// The grammar with what the program takes for itself. It is taken away before the words are looked at; here it is for help.
fn local_grammar() -> clap::Command {
    let help = "The authority's admin socket, if not at the usual place or in $CERTGATE_SOCKET; stands first";
    grammar::grammar().arg(Arg::new("socket").long("socket").value_name("PATH").help(help))
}

fn completions(shell: Shell) -> String {
    use clap_complete::Shell as Of;
    let shell = match shell {
        Shell::Bash => Of::Bash,
        Shell::Zsh => Of::Zsh,
        Shell::Fish => Of::Fish,
    };
    let mut script = Vec::new();
    // Not a Reader's grammar: examples and hidden commands are none of a shell's business.
    clap_complete::generate(shell, &mut local_grammar(), "certgate", &mut script);
    String::from_utf8_lossy(&script).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command as Process;

    fn answered(line: &str) -> Output {
        let words: Vec<String> = line.split(' ').map(str::to_owned).collect();
        match locally(&words, None, Vec::new) {
            Local::Answered(output) => output,
            other => panic!("{line}: {other:?}"),
        }
    }

    #[test]
    fn what_needs_no_authority_asks_none() {
        assert!(answered("--help").stdout.contains("--socket <PATH>"));
        assert_eq!(answered("fly").exit, 2);
        assert!(matches!(locally(&["status".into()], None, Vec::new), Local::Ask));
        assert!(matches!(locally(&[], None, Vec::new), Local::Ask));
    }

    /// What bash offers after a line.
    fn offered(line: &str) -> Vec<String> {
        let dir = tempfile::tempdir().unwrap();
        let script = dir.path().join("certgate");
        std::fs::write(&script, answered("completions bash").stdout).unwrap();
        let ask = "source \"$1\"; shift; COMP_WORDS=(\"$@\"); COMP_CWORD=$(($# - 1)); \
                   _certgate certgate \"${COMP_WORDS[COMP_CWORD]}\"; printf '%s\\n' \"${COMPREPLY[@]}\"";
        let words = line.split(' ');
        let bash = Process::new("bash").args(["-c", ask, "bash"]).arg(&script).args(words).output().unwrap();
        assert!(bash.stderr.is_empty(), "{}", String::from_utf8_lossy(&bash.stderr));
        String::from_utf8(bash.stdout).unwrap().lines().map(str::to_owned).collect()
    }

    #[test]
    fn bash_completes_commands_and_options() {
        assert!(offered("certgate me").contains(&"member".into()));
        assert_eq!(offered("certgate member ad"), ["add"]);
        assert!(offered("certgate member add --").contains(&"--role".into()));
        assert_eq!(offered("certgate completions f"), ["fish"]);
        for (shell, says) in [("zsh", "#compdef certgate"), ("fish", "complete -c certgate")] {
            assert!(answered(&format!("completions {shell}")).stdout.contains(says), "{shell}");
        }
    }
}
