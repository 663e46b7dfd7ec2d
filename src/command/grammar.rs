//! The words: nouns first, then what to do.

use super::{
    access, audit, ca, cert, certificate, cluster, config, key, member, node, org, project, session, user, volume,
};
use crate::app::protocol::Output;
use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

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
    /// Organizations (operators)
    #[command(subcommand)]
    Org(org::Command),
    /// Accounts (operators)
    #[command(subcommand)]
    User(user::Command),
    /// The audit log (operators)
    #[command(subcommand)]
    Audit(audit::Command),
    /// The CA's public keys (operators)
    #[command(subcommand)]
    Ca(ca::Command),
    /// How everything is; exit status 1 while no gateway is connected (operators)
    Status,
}

/// The grammar itself, for completions and man pages.
#[must_use]
pub fn grammar() -> clap::Command {
    CommandLine::command()
}

/// Reads the words. The error is what to print: help with status 0, usage with status 2.
pub(crate) fn parse(program: &str, words: &[String]) -> Result<CommandLine, Output> {
    let grammar = grammar().no_binary_name(true).bin_name(program).color(clap::ColorChoice::Never);
    let parsed = grammar.try_get_matches_from(words).and_then(|matches| CommandLine::from_arg_matches(&matches));
    parsed.map_err(|error| {
        let text = error.to_string();
        if error.use_stderr() {
            Output { stderr: text, exit: 2, ..Output::default() }
        } else {
            Output { stdout: text, ..Output::default() }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_grammar_is_sound() {
        grammar().debug_assert();
    }

    #[test]
    fn wrong_words_are_usage_and_help_is_not() {
        let words = |line: &str| line.split(' ').map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(parse("x", &words("fly away")).unwrap_err().exit, 2);
        assert_eq!(parse("x", &words("member add")).unwrap_err().exit, 2);
        let help = parse("ssh bastion", &words("member --help")).unwrap_err();
        assert_eq!((help.exit, help.stdout.contains("ssh bastion member")), (0, true));
    }
}
