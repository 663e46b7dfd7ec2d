//! Man pages from the grammars: certgate(1) with a page for each command, and the other programs' in section 8. Those of
//! the configuration files, in section 5, are [`super::settings`]' matter.

use super::help::{self, EXIT_STATUS};
use clap::Command;
use clap_mangen::{
    Man,
    roff::{Roff, bold, roman},
};
use std::{collections::BTreeSet, io};

/// When this version was made, as the pages have it: the packages of a version are the same whoever builds them, and when.
pub(super) const DATE: &str = "2026-11-26";

/// A man page as a file.
#[derive(Clone, Debug)]
pub struct Page {
    /// Its name, such as `certgate-member-add.1`.
    pub name: String,
    /// Its text, for man(7).
    pub text: Vec<u8>,
}

/// The helper has no grammar: sshd calls it, and it parses nothing.
const HELPER: &str = include_str!("../../docs/certgate-principals.8");

/// All pages.
pub(super) fn pages(grammar: Command, programs: Vec<Command>) -> Vec<Page> {
    let mut found = vec![Page { name: "certgate-principals.8".into(), text: HELPER.replacen("\"\"", DATE, 1).into() }];
    let mut add = |command: Command, section: &str| {
        // Names the commands after their parents, and gives them the options that all have.
        let mut command = command.disable_help_subcommand(true);
        command.build();
        collect(&command, &[], section, false, &mut found);
    };
    add(grammar, "1");
    for program in programs {
        add(program, "8");
    }
    found.extend(super::settings::pages());
    found.sort_by(|a, b| a.name.cmp(&b.name));
    found
}

fn collect(command: &Command, parents: &[&str], section: &str, operators: bool, found: &mut Vec<Page>) {
    let operators = operators || help::for_operators(command.get_about());
    let path: Vec<&str> = parents.iter().copied().chain([command.get_name()]).collect();
    let page = Man::new(command.clone()).section(section);
    let mut text = Vec::new();
    // Writing into memory does not fail.
    let _ = write(command, &path, &page, section, operators, &mut text);
    found.push(Page { name: page.get_filename(), text: tidied(&path.join("-"), section, &text) });
    for inner in command.get_subcommands() {
        collect(inner, &path, section, operators, found);
    }
}

fn write(
    command: &Command,
    path: &[&str],
    page: &Man,
    section: &str,
    operators: bool,
    text: &mut Vec<u8>,
) -> io::Result<()> {
    page.render_name_section(text)?;
    page.render_synopsis_section(text)?;
    page.render_description_section(text)?;
    let (program, words) = path.split_first().unwrap_or((&"", &[]));
    if *program == "certgate" {
        ways_in(words, operators).to_writer(text)?;
    }
    if command.get_arguments().any(|argument| !argument.is_hide_set()) {
        page.render_options_section(text)?;
    }
    if *program == "certgate" && words.is_empty() {
        by_group(command).to_writer(text)?;
    } else if command.has_subcommands() {
        page.render_subcommands_section(text)?;
    }
    the_rest(command, program, path, section).to_writer(text)
}

/// With its title before it, and what clap_mangen puts before each section only once. The title is not clap_mangen's, which
/// leaves out an empty date, so that what follows takes its place.
fn tidied(name: &str, section: &str, text: &[u8]) -> Vec<u8> {
    let version = env!("CARGO_PKG_VERSION");
    let mut page = format!(".TH {name} {section} {DATE} \"certgate {version}\" certgate\n");
    let mut seen = BTreeSet::new();
    let text = String::from_utf8_lossy(text).replace(".br\n\n.br\n", ".sp\n");
    for line in text.lines() {
        let preamble = line.starts_with(".ie ") || line.starts_with(".el ");
        if !preamble || seen.insert(line.to_owned()) {
            page.push_str(line.trim_end());
            page.push('\n');
        }
    }
    page.into_bytes()
}

/// How the words of a command are given.
fn ways_in(words: &[&str], operators: bool) -> Roff {
    let mut roff = Roff::new();
    let words = if words.is_empty() { "COMMAND".to_owned() } else { words.join(" ") };
    roff.control("PP", []);
    let mut line = vec![roman("Operators type "), bold(format!("certgate {words}")), roman(" on the bastion")];
    if operators {
        line.push(roman("."));
    } else {
        line.extend([roman("; accounts type "), bold(format!("ssh BASTION {words}")), roman(" anywhere.")]);
    }
    roff.text(line);
    roff
}

/// The commands as the help groups them.
fn by_group(command: &Command) -> Roff {
    let mut roff = Roff::new();
    roff.control("SH", ["COMMANDS"]);
    for (title, entries) in help::grouped(command) {
        roff.control("SS", [title]);
        for (name, about) in entries {
            roff.control("TP", []);
            roff.text([bold(format!("certgate-{name}")), roman("(1)")]);
            roff.text([roman(about)]);
        }
    }
    roff
}

fn the_rest(command: &Command, program: &str, path: &[&str], section: &str) -> Roff {
    let mut roff = Roff::new();
    let examples = help::examples(command);
    if !examples.is_empty() {
        roff.control("SH", ["EXAMPLES"]);
        roff.control("nf", []);
        for line in examples {
            roff.text([roman(if line.starts_with("ssh ") { line } else { format!("{program} {line}") })]);
        }
        roff.control("fi", []);
    }
    if section == "1" {
        roff.control("SH", ["EXIT STATUS"]);
        roff.text([roman(format!("{EXIT_STATUS}."))]);
        roff.control("SH", ["JSON"]);
        roff.text([roman(
            "With --json standard output of a command that prints data is one JSON document: the data, or {\"error\": \
             {\"reason\": \"WORD\", \"message\": \"TEXT\"}} with exit status 1 or 2. Nobody is asked anything then: what needs a yes needs --yes.",
        )]);
    }
    let parents = path.split_last().map(|(_, parents)| parents.join("-")).filter(|parent| !parent.is_empty());
    let beside = ["certgate(1)", "certgated(8)", "certgate-node(8)", "certgate-principals(8)"];
    let own = format!("{}({section})", path.join("-"));
    let parent = parents.map(|parent| format!("{parent}({section})"));
    let mut others: Vec<&str> = parent.iter().map(String::as_str).collect();
    others.extend(beside.iter().copied().filter(|page| *page != own && Some(*page) != parent.as_deref()));
    roff.control("SH", ["SEE ALSO"]);
    roff.text([roman(others.join(", "))]);
    roff
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(name: &str) -> String {
        let program = Command::new("certgated").about("A daemon").subcommand(Command::new("authority").about("One"));
        let page = pages(super::super::grammar(), vec![program]).into_iter().find(|page| page.name == name);
        String::from_utf8(page.unwrap_or_else(|| panic!("there is no {name}")).text).unwrap()
    }

    #[test]
    fn every_command_has_a_page_that_says_how_it_is_given() {
        let add = text("certgate-member-add.1");
        let version = env!("CARGO_PKG_VERSION");
        assert!(
            add.starts_with(&format!(".TH certgate-member-add 1 {DATE} \"certgate {version}\" certgate\n")),
            "{add}"
        );
        assert!(add.contains("certgate\\-member\\-add \\- Add somebody to a project"), "{add}");
        assert!(add.contains("accounts type \\fBssh BASTION member add\\fR"), "{add}");
        assert!(
            add.contains(".SH EXAMPLES\n.nf\ncertgate member add acme/ml\\-training user1@acme.example\n"),
            "{add}"
        );
        assert!(add.contains(".SH \"SEE ALSO\"\ncertgate\\-member(1), certgate(1), "), "{add}");
        assert!(text("certgate-org-create.1").contains("\\fR on the bastion.\n"));
        let whole = text("certgate.1");
        assert!(whole.contains(".SS \"Projects and people\"\n"), "{whole}");
        assert!(whole.contains(".SH \"EXIT STATUS\"\n0 done; 1 refused"), "{whole}");
        assert!(text("certgated-authority.8").contains("certgated(8)"));
        assert!(text("certgate-principals.8").starts_with(".TH certgate-principals 8"));
    }
}
