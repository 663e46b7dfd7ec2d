//! Help, and what is said of words that nobody understands: all of it made from the grammar.
//!
//! Two conventions make the grammar say more than clap knows: a description that ends with [`OPERATORS`] is not shown to
//! accounts, and the lines of a command's `after_help` are examples, without the program's name before them.

use super::{
    table::list,
    text::{Screen, Text, Tone},
};
use clap::{
    Command, Error,
    builder::StyledStr,
    error::{ContextKind, ContextValue, ErrorKind},
};

/// What ends the description of a command or option that is for operators.
const OPERATORS: &str = "(operators)";

/// The commands by what one wants to do. A command in none of these groups fails a test.
const GROUPS: &[(&str, &[&str])] = &[
    ("Connect", &["whoami", "config", "cert"]),
    ("Your account", &["key", "session", "certificate"]),
    ("Projects and people", &["project", "member", "service"]),
    ("Clusters, nodes and volumes", &["cluster", "node", "volume"]),
    ("See who can get in, and why", &["reach", "explain", "krl"]),
    ("Run the bastion (operators)", &["status", "org", "user", "apply", "dump", "audit", "backup", "restore", "ca"]),
    ("Set up (operators)", &["setup", "completions", "man"]),
];

/// What the exit status of every command means.
pub(crate) const EXIT_STATUS: &str = "\
0 done; 1 refused or failed, with the reason; 2 words that cannot be understood";

/// The width of help where nobody sits, in characters.
const WIDTH: u16 = 100;

/// Who reads the help.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reader<'a> {
    /// How they call this program.
    pub(crate) program: &'a str,
    /// Whether they are an operator.
    pub(crate) operator: bool,
    /// Where they read it.
    pub(crate) screen: Screen,
}

impl Reader<'_> {
    /// An example as they would type it. One that begins with `ssh BASTION` is for accounts only.
    fn example(&self, line: &str) -> String {
        match line.strip_prefix("ssh BASTION ") {
            Some(words) if !self.operator => format!("{} {words}", self.program),
            Some(_) => line.to_owned(),
            None => format!("{} {line}", self.program),
        }
    }

    /// The grammar as it concerns them.
    pub(crate) fn grammar(&self, grammar: Command) -> Command {
        let grammar = grammar
            .bin_name(self.program)
            .color(clap::ColorChoice::Never)
            .term_width(self.screen.columns.unwrap_or(WIDTH).into());
        self.command(grammar)
    }

    fn command(&self, command: Command) -> Command {
        let hidden = !self.operator && for_operators(command.get_about());
        let examples: Vec<String> = examples(&command)
            .iter()
            .filter(|line| self.operator || !names_option_of_operators(&command, line))
            .map(|line| self.example(line))
            .collect();
        let command = command.hide(hidden).mut_subcommands(|inner| self.command(inner)).mut_args(|arg| {
            let hidden = !self.operator && for_operators(arg.get_help());
            arg.hide(hidden)
        });
        if examples.is_empty() {
            return command;
        }
        let title = if examples.len() == 1 { "Example" } else { "Examples" };
        command.after_help(format!("{title}:\n  {}", examples.join("\n  ")))
    }

    /// All commands, by what one wants to do.
    pub(crate) fn overview(&self, grammar: Command) -> Text {
        let heading = |words: &str| Text::toned(Tone::Heading, words, self.screen);
        let mut text = Text::from(format!("{}\n\n", described(grammar.get_about())));
        text.push(heading("Usage:"));
        text.push(format!(" {} COMMAND … [--json]\n\n", self.program));
        for (title, entries) in grouped(&grammar) {
            if !entries.is_empty() {
                text.push(heading(&format!("{title}:")));
                text.push("\n");
                text.push(list(&entries, self.screen));
                text.push("\n");
            }
        }
        text.push(heading("Options:"));
        let options = grammar.help_template("{options}").render_help();
        let program = self.program;
        text.push(format!(
            "\n{}\n\n'{program} COMMAND --help' says more about each, with examples.\nExit status: {EXIT_STATUS}.\n",
            options.to_string().trim_end()
        ));
        text
    }

    /// The help of one command, as clap made it.
    pub(crate) fn of_command(&self, help: &str) -> Text {
        let mut text = Text::default();
        for line in help.lines() {
            let title = if line.starts_with("Usage:") { "Usage:" } else { line };
            match line.strip_prefix(title) {
                Some(rest) if title.ends_with(':') && !title.starts_with(' ') => {
                    text.push(Text::toned(Tone::Heading, title, self.screen));
                    text.push(rest);
                }
                _ => text.push(line),
            }
            text.push("\n");
        }
        text
    }

    /// What is wrong with some words, in a line with the closest that there is.
    pub(crate) fn complaint(&self, grammar: &Command, words: &[String], error: &Error) -> String {
        let (path, command) = followed(grammar, words);
        let found = |kind| said(error, kind);
        let what = match error.kind() {
            ErrorKind::InvalidSubcommand => {
                format!("there is no command {}", quoted(&found(ContextKind::InvalidSubcommand)))
            }
            ErrorKind::UnknownArgument => {
                let word = found(ContextKind::InvalidArg);
                let option = word.iter().any(|word| word.starts_with('-'));
                let what = if option { "there is no option" } else { "one word too many:" };
                format!("{what} {}", quoted(&word))
            }
            ErrorKind::MissingRequiredArgument => format!("missing: {}", found(ContextKind::InvalidArg).join(" ")),
            ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand | ErrorKind::MissingSubcommand => {
                let next: Vec<&str> = shown(command).map(Command::get_name).collect();
                format!("'{}' needs one more word: {}", path.join(" "), next.join(", "))
            }
            _ => plainly(&first_paragraph(&error.to_string())),
        };
        let suggested = [ContextKind::SuggestedSubcommand, ContextKind::SuggestedArg, ContextKind::SuggestedValue]
            .into_iter()
            .map(found)
            .find(|closest| !closest.is_empty())
            .map(|closest| format!("; did you mean {}?", quoted(&closest)));
        format!("{what}{} See: {}", suggested.as_deref().unwrap_or("."), self.help_of(&path))
    }

    /// What they type for help. An option can't be the first word after a host: ssh would take it for its own.
    fn help_of(&self, path: &[&str]) -> String {
        let words = if path.is_empty() { "help".to_owned() } else { format!("{} --help", path.join(" ")) };
        format!("{} {words}", self.program)
    }
}

/// What the standard library says of numbers and addresses, in words for people.
fn plainly(text: &str) -> String {
    let words = [
        ("invalid digit found in string", "not a number"),
        ("cannot parse integer from empty string", "not a number"),
        ("number too large to fit in target type", "the number is too large"),
        ("number too small to fit in target type", "the number is too small"),
        ("invalid IP address syntax", "not an IP address"),
    ];
    words.into_iter().fold(text.to_owned(), |text, (theirs, ours)| text.replace(theirs, ours))
}

/// `help`, `help member add` and `member help` as `--help`, wherever no name could stand instead.
pub(crate) fn asked(grammar: &Command, words: &[String]) -> Option<Vec<String>> {
    let (path, command) = followed(grammar, words);
    let rest: Vec<&String> = words.iter().filter(|word| !word.starts_with('-')).skip(path.len()).collect();
    let (first, rest) = rest.split_first()?;
    let asks = first.as_str() == "help" && command.has_subcommands();
    let path = path.into_iter().chain(rest.iter().map(|word| word.as_str())).chain(["--help"]);
    asks.then(|| path.map(str::to_owned).collect())
}

/// The commands that words name one after the other, and the last of them.
pub(crate) fn followed<'a>(grammar: &'a Command, words: &'a [String]) -> (Vec<&'a str>, &'a Command) {
    let (mut path, mut command) = (Vec::new(), grammar);
    for word in words.iter().filter(|word| !word.starts_with('-')) {
        let Some(inner) = command.find_subcommand(word) else { break };
        path.push(inner.get_name());
        command = inner;
    }
    (path, command)
}

/// The examples of a command, as they stand in the grammar.
pub(crate) fn examples(command: &Command) -> Vec<String> {
    let text = command.get_after_help().map(ToString::to_string).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

/// The groups with what there is to say of each command.
pub(crate) fn grouped(grammar: &Command) -> Vec<(&'static str, Vec<(String, String)>)> {
    let groups = GROUPS.iter().map(|(title, names)| {
        let commands = names.iter().filter_map(|name| shown(grammar).find(|command| command.get_name() == *name));
        let entries = commands.map(|command| {
            let about = described(command.get_about());
            // The title says it for all of them.
            let about = if title.ends_with(OPERATORS) { about.trim_end_matches(OPERATORS).trim_end() } else { &about };
            let verbs: Vec<&str> = shown(command).map(Command::get_name).collect();
            let verbs = if verbs.is_empty() { String::new() } else { format!(" ({})", verbs.join(", ")) };
            (command.get_name().to_owned(), format!("{about}{verbs}"))
        });
        (*title, entries.collect())
    });
    groups.collect()
}

fn shown(command: &Command) -> impl Iterator<Item = &Command> {
    command.get_subcommands().filter(|command| !command.is_hide_set())
}

fn described(about: Option<&StyledStr>) -> String {
    about.map(ToString::to_string).unwrap_or_default()
}

pub(crate) fn for_operators(about: Option<&StyledStr>) -> bool {
    described(about).ends_with(OPERATORS)
}

/// Whether an example has an option that only operators may give.
fn names_option_of_operators(command: &Command, line: &str) -> bool {
    let theirs = command.get_arguments().filter(|argument| for_operators(argument.get_help()));
    theirs.filter_map(clap::Arg::get_long).any(|long| line.split(' ').any(|word| word.strip_prefix("--") == Some(long)))
}

/// What clap found.
fn said(error: &Error, kind: ContextKind) -> Vec<String> {
    match error.get(kind) {
        Some(ContextValue::String(word)) => vec![word.clone()],
        Some(ContextValue::Strings(words)) => words.clone(),
        _ => vec![],
    }
}

fn quoted(words: &[String]) -> String {
    let words: Vec<String> = words.iter().map(|word| format!("'{word}'")).collect();
    words.join(" or ")
}

/// What clap says before the first empty line, in one line and without its 'error: '.
fn first_paragraph(text: &str) -> String {
    let lines: Vec<&str> = text.lines().map(str::trim).take_while(|line| !line.is_empty()).collect();
    lines.join(" ").trim_start_matches("error: ").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        app::protocol::{Output, Terminal},
        command::grammar::{grammar, parse},
        policy::{NEEDS, Need},
    };

    const ACCOUNT: Reader<'_> = Reader { program: "ssh bastion.example.com", operator: false, screen: PIPE };
    const OPERATOR: Reader<'_> = Reader { program: "certgate", operator: true, screen: PIPE };
    const PIPE: Screen = Screen { columns: None, colours: false };

    fn words(line: &str) -> Vec<String> {
        line.split_whitespace().map(str::to_owned).collect()
    }

    /// What these words print, if they do nothing else.
    fn printed(reader: Reader<'_>, line: &str) -> Output {
        parse(reader, grammar(), &words(line)).unwrap_err().into()
    }

    fn help(reader: Reader<'_>, line: &str) -> String {
        let Output { stdout, stderr, exit, .. } = printed(reader, line);
        assert_eq!((exit, stderr.as_str()), (0, ""), "{line}");
        stdout
    }

    #[test]
    fn every_command_is_in_one_group() {
        let grouped: Vec<&str> = GROUPS.iter().flat_map(|(_, names)| names.iter().copied()).collect();
        for command in grammar().get_subcommands() {
            let name = command.get_name();
            assert_eq!(
                grouped.iter().filter(|grouped| **grouped == name).count(),
                1,
                "'{name}' is in no group, or in two"
            );
        }
        for name in grouped {
            assert!(grammar().find_subcommand(name).is_some(), "there is no command '{name}'");
        }
    }

    /// Every command that does something, with its path.
    fn leaves(command: &Command, path: &[&str], found: &mut Vec<(String, Command)>) {
        for inner in command.get_subcommands() {
            let path = [path, &[inner.get_name()]].concat();
            if inner.has_subcommands() {
                leaves(inner, &path, found);
            } else {
                found.push((path.join(" "), inner.clone()));
            }
        }
    }

    #[test]
    fn every_command_has_an_example_that_it_understands() {
        let mut found = Vec::new();
        leaves(&grammar(), &[], &mut found);
        let wrong: Vec<String> = found.iter().filter_map(|(path, command)| unexplained(path, command)).collect();
        assert!(wrong.is_empty(), "examples are lines of #[command(after_help = \"…\")]:\n{}", wrong.join("\n"));
    }

    /// What a command lacks in its help.
    fn unexplained(path: &str, command: &Command) -> Option<String> {
        if command.get_about().is_none() {
            return Some(format!("'{path}' does not say what it is for"));
        }
        let (mut own, examples) = (false, examples(command));
        for example in &examples {
            let line = example.trim_start_matches("ssh BASTION ").replace("\"$(cat KEY.pub)\"", "KEY");
            // What follows is the shell's.
            let words: Vec<&str> = line.split(' ').take_while(|word| !matches!(*word, "<" | ">" | "|")).collect();
            let Ok(words) = shell_words::split(&words.join(" ")) else { return Some(format!("{example}: its quotes")) };
            if let Err(written) = parse(OPERATOR, grammar(), &words) {
                return Some(format!("{example}: {}", Output::from(written).stderr));
            }
            own |= followed(&grammar(), &words).0.join(" ") == path;
        }
        match examples.len() {
            0 => Some(format!("'{path}' has no example")),
            1..=3 if own => None,
            1..=3 => Some(format!("no example of '{path}' is one")),
            _ => Some(format!("'{path}' has more examples than anybody reads")),
        }
    }

    #[test]
    fn examples_are_what_the_reader_would_type() {
        let account = help(ACCOUNT, "key add --help");
        assert!(
            account.ends_with("\nExample:\n  ssh bastion.example.com key add < ~/.ssh/id_ed25519.pub\n"),
            "{account}"
        );
        let operator = help(OPERATOR, "key add --help");
        assert!(operator.contains("\n  ssh BASTION key add < "), "{operator}");
        assert!(operator.contains("\n  certgate key add --account user1@acme.example < "), "{operator}");
    }

    #[test]
    fn what_only_operators_may_is_said_to_be_theirs() {
        for (action, need) in NEEDS {
            let path: Vec<String> = action.as_str().split('.').map(str::to_owned).collect();
            let grammar = grammar();
            let (found, command) = followed(&grammar, &path);
            if found.len() < path.len() {
                continue;
            }
            let marked = for_operators(command.get_about())
                || grammar.find_subcommand(&path[0]).is_some_and(|noun| for_operators(noun.get_about()));
            assert_eq!(marked, *need == Need::Operator, "{}", path.join(" "));
        }
    }

    #[test]
    fn the_overview_groups_what_concerns_the_reader() {
        let account = help(ACCOUNT, "--help");
        assert!(account.contains("\nProjects and people:\n  project  "), "{account}");
        assert!(account.contains("  member "), "{account}");
        assert!(account.contains("Usage: ssh bastion.example.com COMMAND … [--json]\n"), "{account}");
        assert!(!account.contains("(operators)") && !account.contains("  org "), "{account}");
        let operator = help(OPERATOR, "--help");
        assert!(operator.contains("\nRun the bastion (operators):\n  status  "), "{operator}");
        assert_eq!(operator.matches("(operators)").count(), 2, "{operator}");
        // Options of commands as well.
        assert!(!help(ACCOUNT, "member remove --help").contains("--force"));
        assert!(help(OPERATOR, "member remove --help").contains("--force"));
    }

    #[test]
    fn people_ask_for_help_in_many_ways() {
        for (asked, asks) in [
            ("help", "--help"),
            ("-h", "--help"),
            ("--json help", "--help"),
            ("help member", "member --help"),
            ("member help", "member --help"),
            ("member help add", "member add --help"),
            ("help member add", "member add --help"),
            ("help reach", "reach --help"),
        ] {
            assert_eq!(help(ACCOUNT, asked), help(ACCOUNT, asks), "{asked}");
        }
        // Where a name can stand, help is a name.
        assert!(parse(OPERATOR, grammar(), &words("org create help")).is_ok());
        assert_eq!(printed(ACCOUNT, "help fly").exit, 2);
    }

    #[test]
    fn what_cannot_be_understood_is_one_line_with_the_closest_that_there_is() {
        let see = "See: ssh bastion.example.com";
        for (line, said) in [
            ("mebmer list", format!("there is no command 'mebmer'; did you mean 'member'? {see} help")),
            ("member ad", format!("there is no command 'ad'; did you mean 'add'? {see} member --help")),
            ("fly", format!("there is no command 'fly'. {see} help")),
            ("whoami now", format!("one word too many: 'now'. {see} whoami --help")),
            ("member", format!("'member' needs one more word: list, add, remove, role. {see} member --help")),
            ("member add acme/ml", format!("missing: <EMAIL>. {see} member add --help")),
            (
                "member add acme/ml a@acme.example --rol admin",
                format!("there is no option '--rol'; did you mean '--role'? {see} member add --help"),
            ),
            (
                "config known-host",
                format!(
                    "invalid value 'known-host' for '[WHAT]' [possible values: ssh, known-hosts]; did you mean \
                     'known-hosts'? {see} config --help"
                ),
            ),
        ] {
            let Output { stdout, stderr, exit, .. } = printed(ACCOUNT, line);
            assert_eq!((exit, stdout.as_str(), stderr), (2, "", format!("{said}\n")), "{line}");
        }
    }

    #[test]
    fn headings_are_bold_where_there_are_colours_and_help_fits_the_screen() {
        let screen = Screen::of(Some(Terminal { columns: 44, colours: true }));
        let reader = Reader { screen, ..ACCOUNT };
        let coloured = help(reader, "--help");
        assert!(coloured.contains("\u{1b}[1mConnect:\u{1b}[0m\n"), "{coloured:?}");
        assert!(help(reader, "member --help").contains("\u{1b}[1mUsage:\u{1b}[0m ssh "));
        let entries = coloured.split("Connect:").nth(1).unwrap().split("Options:").next().unwrap();
        let plain = crate::command::text::tests::without_colours(entries);
        assert!(plain.lines().all(|line| line.chars().count() <= 44), "{plain}");
    }
}
