//! What the documentation says to type is understood by the programs: every line of a block, and every command that stands in
//! a sentence; and every link leads somewhere.
#![allow(clippy::unwrap_used)]

use clap::{Command, error::ErrorKind};
use std::{
    fs,
    path::{Path, PathBuf},
};

/// What stands for something in the documentation, and what could stand there.
const PLACEHOLDERS: &[(&str, &str)] = &[
    ("ORG/PROJECT", "acme/ml"),
    ("NODE.CLUSTER.ORG", "n0.h100.acme"),
    ("CLUSTER.ORG", "h100.acme"),
    ("NODE|CLUSTER", "h100.acme"),
    ("EMAIL", "user1@acme.example"),
    ("NODE", "n0.h100.acme"),
    ("SERIAL", "7"),
    ("ID", "0123456789abcdef0123456789abcdef"),
    ("TOKEN", "cgt1_x"),
    ("NUMBER:HASH", "1:0000000000000000000000000000000000000000000000000000000000000000"),
    ("DIR", "dir"),
    ("NAME", "name1"),
    ("\"$(cat KEY.pub)\"", "KEY"),
];

/// Every page.
fn pages() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut pages = vec![root.join("README.md"), root.join("ARCHITECTURE.md")];
    let mut folders = vec![root.join("docs")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "md") {
                pages.push(path);
            }
        }
    }
    pages
}

/// A command, and whether all of it is there: in a sentence it may be its name alone.
struct Said {
    line: String,
    whole: bool,
}

/// The commands of a page.
fn said(text: &str) -> Vec<Said> {
    let mut found = Vec::new();
    let mut fenced = false;
    let mut sentences = String::new();
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
        } else if fenced || line.starts_with("    ") {
            found.push(Said { line: line.trim().trim_start_matches(['$', '#']).trim().to_owned(), whole: true });
        } else {
            sentences.push_str(line);
            sentences.push(' ');
        }
    }
    let spans = sentences.split('`').skip(1).step_by(2);
    found.extend(spans.map(|line| Said { line: line.to_owned(), whole: false }));
    found
}

/// The grammar that a line is for, and its words.
fn words(line: &str) -> Option<(Command, Vec<String>)> {
    let line = PLACEHOLDERS
        .iter()
        .fold(format!("{line} "), |line, (name, value)| line.replace(&format!(" {name} "), &format!(" {value} ")));
    let of = [
        ("certgate ", certgate::command::grammar as fn() -> Command),
        ("ssh BASTION ", certgate::command::grammar),
        ("ssh bastion.acme.example ", certgate::command::grammar),
        ("ssh bastion.example.com ", certgate::command::grammar),
        ("certgate-node ", certgate::node::cli::grammar),
        ("certgated ", certgate::daemon::grammar),
    ];
    let (rest, grammar) = of.iter().find_map(|(program, grammar)| Some((line.strip_prefix(program)?, grammar)))?;
    // What follows is the shell's.
    let own = rest.split(' ').take_while(|word| !["<", ">", ">>", "|", "&&", ";", "#", "||"].contains(word));
    let own: Vec<&str> = own.take_while(|word| !word.starts_with('>')).filter(|word| !word.is_empty()).collect();
    // What the formats begin with, which are no commands.
    if own.last() == Some(&"v1") {
        return None;
    }
    let mut words = shell_words::split(&own.join(" ")).unwrap_or_else(|_| vec!["a quote that is not closed".into()]);
    // One of several.
    for word in &mut words {
        word.truncate(word.find('|').unwrap_or(word.len()));
    }
    Some((grammar().no_binary_name(true), words))
}

/// What is wrong with a command, if anything is.
fn wrong(said: &Said) -> Option<String> {
    let (mut grammar, mut words) = words(&said.line)?;
    // `ssh BASTION …`: any of them; `--head 41:53f2…`: whatever.
    let dots = words.iter().position(|word| word.contains('…') || ["COMMAND", "WORDS"].contains(&&**word));
    if let Some(dots) = dots {
        words.truncate(dots);
        words.pop_if(|word| word.starts_with("--"));
    }
    let shortened = dots.is_some() || !said.whole;
    let error = grammar.try_get_matches_from_mut(&words).err()?;
    let fine = match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => true,
        // `ssh BASTION help`, which the parser does not see.
        ErrorKind::InvalidSubcommand => words.first().is_some_and(|word| word == "help"),
        ErrorKind::MissingRequiredArgument
        | ErrorKind::MissingSubcommand
        | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand
        | ErrorKind::InvalidValue => shortened,
        _ => false,
    };
    (!fine).then(|| error.to_string().lines().next().unwrap_or_default().to_owned())
}

#[test]
fn every_command_in_the_documentation_is_one() {
    let (mut found, mut looked) = (Vec::new(), 0);
    for page in pages() {
        let text = fs::read_to_string(&page).unwrap();
        for said in said(&text).iter().filter(|said| words(&said.line).is_some()) {
            looked += 1;
            found.extend(wrong(said).map(|why| format!("{}: {}: {why}", page.display(), said.line)));
        }
    }
    assert!(looked > 100, "only {looked} commands were found");
    assert!(found.is_empty(), "\n{}\n", found.join("\n"));
}

#[test]
fn what_is_no_command_is_seen() {
    let whole = |line: &str| wrong(&Said { line: line.into(), whole: true }).is_some();
    let name = |line: &str| wrong(&Said { line: line.into(), whole: false }).is_some();
    for bad in ["certgate fly", "certgate member ad", "certgate status --now", "certgate-node dance", "ssh BASTION fly"]
    {
        assert!(whole(bad) && name(bad), "{bad}");
    }
    assert!(whole("certgate member add acme/ml") && !name("certgate member add"));
    for good in
        ["certgate help", "ssh BASTION …", "certgate status | head", "ls -l", "certgate node token NODE --role login"]
    {
        assert!(!whole(good), "{good}");
    }
}

/// As GitHub makes them of headings.
fn anchors(text: &str) -> Vec<String> {
    let headings = text.lines().filter(|line| line.starts_with('#'));
    headings
        .map(|line| {
            let title = line.trim_start_matches('#').trim().to_lowercase().replace(' ', "-");
            title.chars().filter(|c| c.is_alphanumeric() || *c == '-' || *c == '_').collect()
        })
        .collect()
}

#[test]
fn every_link_leads_somewhere() {
    let (mut found, mut looked) = (Vec::new(), 0);
    for page in pages() {
        let text = fs::read_to_string(&page).unwrap();
        for link in text.split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(link, _)| link) {
            if link.contains("://") {
                continue;
            }
            looked += 1;
            let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
            let target = if file.is_empty() { page.clone() } else { page.parent().unwrap().join(file) };
            let there = match fs::read_to_string(&target) {
                Ok(text) => anchor.is_empty() || anchors(&text).contains(&anchor.to_owned()),
                Err(_) => target.is_dir(),
            };
            if !there {
                found.push(format!("{}: {link}", page.display()));
            }
        }
    }
    assert!(looked > 30, "only {looked} links were found");
    assert!(found.is_empty(), "\n{}\n", found.join("\n"));
}
