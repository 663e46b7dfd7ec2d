//! The words: nouns first, then what to do.

use super::{
    access, apply, audit, backup, ca, cert, certificate, cluster, config,
    help::{self, Reader},
    key, krl, local, member, node, org, project,
    reply::Written,
    service, session, setup, user, volume,
};
use crate::app::protocol::wants_json;
use clap::{CommandFactory, FromArgMatches, Parser, Subcommand, error::ErrorKind};
use std::sync::{Mutex, PoisonError};

/// The most words of a command line, and so the most that the parser has to look at.
const MAX_WORDS: usize = 256;

/// Access to the GPU clusters of your projects.
#[derive(Debug, Parser)]
#[command(name = "certgate", version, disable_help_subcommand = true)]
pub(crate) struct CommandLine {
    /// Print data as JSON, with stable field names and RFC 3339 times
    #[arg(long, global = true)]
    pub(crate) json: bool,
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Who you are, what you can reach, and what to do next (also without any word)
    #[command(after_help = "whoami\nwhoami --json")]
    Whoami,
    /// Get a certificate, on standard output
    Cert(cert::Args),
    /// Print a complete OpenSSH configuration
    Config(config::Args),
    /// SSH keys of an account
    #[command(subcommand)]
    Key(key::Command),
    /// Projects: the boundary of access
    #[command(subcommand)]
    Project(project::Command),
    /// Who is in a project
    #[command(subcommand)]
    Member(member::Command),
    /// Accounts for automation, bound to networks and if you like to one command
    #[command(subcommand)]
    Service(service::Command),
    /// Clusters of your projects
    #[command(subcommand)]
    Cluster(cluster::Command),
    /// Volumes of your projects
    #[command(subcommand)]
    Volume(volume::Command),
    /// Nodes of a cluster
    #[command(subcommand)]
    Node(node::Command),
    /// Certificates that have not run out
    #[command(subcommand)]
    Certificate(certificate::Command),
    /// Connections that are open through a gateway
    #[command(subcommand)]
    Session(session::Command),
    /// Why somebody can get into a node, or why not
    Explain(access::Explain),
    /// Who can get into a node or cluster
    Reach(access::Reach),
    /// A key revocation list, for sshds that do not run the helper
    Krl(krl::Args),
    /// Organizations (operators)
    #[command(subcommand)]
    Org(org::Command),
    /// Accounts (operators)
    #[command(subcommand)]
    User(user::Command),
    /// Bring the directory to what a file describes: organizations, accounts, projects and what is in them (operators)
    Apply(apply::Apply),
    /// Print the directory as a file that can be applied (operators)
    Dump(apply::Dump),
    /// The audit log (operators)
    #[command(subcommand)]
    Audit(audit::Command),
    /// The CA's public keys (operators)
    #[command(subcommand)]
    Ca(ca::Command),
    /// How everything is, and what needs attention: exit status 1 if anything does (operators)
    #[command(after_help = "status\nstatus --json")]
    Status,
    Backup(backup::Backup),
    Restore(backup::Restore),
    /// Set up this machine as a bastion: configuration, CA, services, and the first account (operators)
    Setup(Box<setup::Setup>),
    /// Print a shell's completions for this program (operators)
    Completions(local::Completions),
    /// Write the man pages into a directory (operators)
    Man(local::Man),
}

impl Command {
    /// Whether it only looks at the directory, and so has the processor to wait for: with many accounts, long.
    pub(crate) fn looks(&self) -> bool {
        match self {
            Self::Whoami | Self::Config(_) | Self::Explain(_) | Self::Reach(_) | Self::Krl(_) | Self::Status => true,
            Self::Key(command) => matches!(command, key::Command::List { .. }),
            Self::Project(command) => matches!(command, project::Command::List | project::Command::Show { .. }),
            Self::Member(command) => matches!(command, member::Command::List { .. }),
            Self::Service(command) => matches!(
                command,
                service::Command::List { .. }
                    | service::Command::Show { .. }
                    | service::Command::Key(service::KeyCommand::List { .. })
            ),
            Self::Cluster(command) => matches!(command, cluster::Command::List | cluster::Command::Show { .. }),
            Self::Volume(command) => matches!(command, volume::Command::List | volume::Command::Show { .. }),
            Self::Node(command) => matches!(
                command,
                node::Command::List { .. } | node::Command::Show { .. } | node::Command::Tokens { .. }
            ),
            Self::Certificate(command) => {
                matches!(command, certificate::Command::List | certificate::Command::Show { .. })
            }
            Self::Session(command) => matches!(command, session::Command::List),
            Self::Org(command) => matches!(command, org::Command::List),
            Self::User(command) => matches!(command, user::Command::List | user::Command::Show { .. }),
            // What is long in them is done beside the threads by the use case, or is the store's to do.
            Self::Cert(_)
            | Self::Apply(_)
            | Self::Dump(_)
            | Self::Audit(_)
            | Self::Ca(_)
            | Self::Backup(_)
            | Self::Restore(_)
            | Self::Setup(_)
            | Self::Completions(_)
            | Self::Man(_) => false,
        }
    }
}

/// The grammar itself, for completions and man pages.
#[must_use]
pub fn grammar() -> clap::Command {
    taking_hyphens(CommandLine::command())
}

/// What follows an option that wants a value is that value, so that `--size -5G` is a wrong size and not the option `-5`.
fn taking_hyphens(command: clap::Command) -> clap::Command {
    command.mut_subcommands(taking_hyphens).mut_args(|arg| {
        let value = !arg.is_positional() && arg.get_action().takes_values();
        if value { arg.allow_hyphen_values(true) } else { arg }
    })
}

/// Reads the words with the grammar itself, as an authority does that has many lines to read.
pub(crate) fn read(reader: Reader<'_>, words: &[String]) -> Result<CommandLine, Written> {
    refuse(words)?;
    understood(words).map_or_else(|| parse(reader, grammar(), words), Ok)
}

/// Reads the words. The error is what to print instead: help with status 0, what is wrong with them with status 2.
pub(crate) fn parse(reader: Reader<'_>, grammar: clap::Command, words: &[String]) -> Result<CommandLine, Written> {
    refuse(words)?;
    let json = wants_json(words.iter().map(String::as_str));
    let grammar = reader.grammar(grammar.no_binary_name(true));
    let words = help::asked(&grammar, words).unwrap_or_else(|| words.to_vec());
    let parsed = grammar.clone().try_get_matches_from(&words);
    let error = match parsed.and_then(|matches| CommandLine::from_arg_matches(&matches)) {
        Ok(line) => return Ok(line),
        Err(error) => error,
    };
    if error.use_stderr() {
        return Err(Written::failure("usage", &reader.complaint(&grammar, &words, &error), 2, json));
    }
    let overview = error.kind() == ErrorKind::DisplayHelp && help::followed(&grammar, &words).0.is_empty();
    let stdout = if overview { reader.overview(grammar) } else { reader.of_command(&error.to_string()) };
    Err(Written { stdout, ..Written::default() })
}

/// What no parser may see.
fn refuse(words: &[String]) -> Result<(), Written> {
    let json = wants_json(words.iter().map(String::as_str));
    if words.len() > MAX_WORDS {
        return Err(Written::failure("usage", &format!("more than {MAX_WORDS} words"), 2, json));
    }
    // Before the parser, which repeats what it does not understand.
    if words.join(" ").contains("PRIVATE KEY") {
        return Err(Written::failure("invalid", &crate::domain::KeyError::Private.to_string(), 1, json));
    }
    Ok(())
}

/// Grammars that are built already and not in use: to build one takes far longer than to read a line with it. There are
/// never more than threads that read at the same time.
static BUILT: Mutex<Vec<clap::Command>> = Mutex::new(Vec::new());

/// Reads words that the grammar understands as they are: not those of anybody who asks for help or has it wrong, for
/// whom the grammar says more than this.
fn understood(words: &[String]) -> Option<CommandLine> {
    let built = || BUILT.lock().unwrap_or_else(PoisonError::into_inner);
    let kept = built().pop();
    let mut grammar = kept.unwrap_or_else(|| grammar().no_binary_name(true));
    let matches = grammar.try_get_matches_from_mut(words);
    built().push(grammar);
    CommandLine::from_arg_matches(&matches.ok()?).ok()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests {
    use super::*;

    #[test]
    fn the_grammar_is_sound() {
        grammar().debug_assert();
    }

    /// What others asked before must not show: nothing of their words, and nothing of what was wrong with them.
    #[test]
    fn a_grammar_that_was_used_reads_as_a_new_one() {
        let lines = [
            "cert --project acme/ml --ttl 5m",
            "cert",
            "cert --cluster h100.acme --project acme/ml",
            "member add acme/ml user1@acme.example --role admin",
            "member add acme/ml",
            "",
            "--json whoami",
            "help member add",
            "member help",
            "member --help",
            "no such command",
            "project list --json",
        ];
        for line in lines.iter().chain(lines.iter().rev()) {
            let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
            let fresh = grammar().no_binary_name(true).try_get_matches_from(&words);
            let fresh = fresh.and_then(|matches| CommandLine::from_arg_matches(&matches)).ok();
            assert_eq!(format!("{:?}", understood(&words)), format!("{fresh:?}"), "{line}");
        }
    }

    /// The examples of every command: which command it is an example of, and whether that looks.
    fn examples(command: &clap::Command, found: &mut Vec<(String, bool)>) {
        command.get_subcommands().for_each(|inner| examples(inner, found));
        for example in help::examples(command) {
            let line = example.trim_start_matches("ssh BASTION ").replace("\"$(cat KEY.pub)\"", "KEY");
            let words = line.split(' ').take_while(|word| !matches!(*word, "<" | ">" | "|"));
            let words = shell_words::split(&words.collect::<Vec<_>>().join(" ")).unwrap();
            let path = help::followed(&grammar(), &words).0.join(" ");
            let line = understood(&words).unwrap_or_else(|| panic!("{example}"));
            found.push((path, line.command.is_none_or(|command| command.looks())));
        }
    }

    #[test]
    fn lists_are_known_to_be_long() {
        let mut found = Vec::new();
        examples(&grammar(), &mut found);
        let (looking, others): (Vec<_>, Vec<_>) = found.into_iter().partition(|(_, looks)| *looks);
        assert!(looking.len() > 20 && others.len() > 30, "{looking:?} {others:?}");
        for (path, _) in looking {
            let (noun, verb) = path.rsplit_once(' ').unwrap_or((&path, ""));
            let overview = ["whoami", "status", "config", "explain", "reach", "krl"].contains(&noun);
            assert!(overview || ["list", "show", "tokens"].contains(&verb), "'{path}' does more than look");
        }
        for (path, _) in others {
            let (noun, verb) = path.rsplit_once(' ').unwrap_or((&path, ""));
            assert!(["audit", "ca"].contains(&noun) || !["list", "show", "tokens"].contains(&verb), "'{path}' looks");
        }
    }
}
