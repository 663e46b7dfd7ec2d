//! Transcripts: what is typed and what is answered, to the letter, in files below `tests/transcripts/`. They are played on
//! the authority in memory, at a clock that stands still; what people see is part of the product, so a change of it shows
//! up as a change of a file. `SNAPSHOTS=overwrite cargo test --test transcripts` writes what is answered now into them.
//!
//! A file has these lines:
//!
//! - `## TEXT`: for whoever reads it;
//! - `operator# WORDS` and `NAME$ WORDS`: what an operator types after `certgate`, and what an account types after
//!   `ssh BASTION`; `{key:N}` stands for the public key of number N. With ` <<< TEXT` at its end, TEXT is on standard
//!   input, or is typed when something is asked;
//! - `@ WORDS`: what else happens: `terminal COLUMNS|none`, `pass SECONDS`, `node NODE N` (joins with the key N),
//!   `open NAME NODE`, `settle` (what nobody waited for is on record);
//! - everything else is what is answered: standard output, then standard error, then the exit status if it is not 0.
//!
//! What is different each time (signatures, secrets) is written as `⟨…⟩`.
#![allow(clippy::unwrap_used, clippy::panic)]

#[allow(dead_code, unreachable_pub, reason = "each test file uses its part of it")]
mod authority_support;

use authority_support::{World, key};
use certgate::{
    app::{
        Asker,
        protocol::{CommandAnswer, Terminal},
    },
    command,
};
use snapbox::{Assert, Data};
use std::{fmt::Write, fs, path::Path, time::Duration};

/// Who has which key.
const PEOPLE: [(&str, u8); 5] = [("admin1", 1), ("user1", 2), ("user2", 3), ("user3", 4), ("bot", 5)];

/// A transcript as it is played.
struct Play {
    world: World,
    terminal: Option<Terminal>,
    sessions: u128,
    /// Keeps the gateway connected.
    _gateway: certgate::app::Stream,
}

impl Play {
    async fn begin() -> Self {
        let world = World::story().await;
        let gateway = world.gateway(vec![]);
        Self { world, terminal: None, sessions: 0, _gateway: gateway }
    }

    async fn asker(&self, who: &str) -> Asker {
        match PEOPLE.iter().find(|(name, _)| *name == who) {
            Some((_, number)) => self.world.asker(*number).await,
            None => panic!("nobody is called {who}: see PEOPLE"),
        }
    }

    async fn happens(&mut self, what: &str) {
        match what.split(' ').collect::<Vec<_>>()[..] {
            ["terminal", "none"] => self.terminal = None,
            ["terminal", columns] => self.terminal = Some(terminal(columns.parse().unwrap())),
            ["settle"] => self.world.settle().await,
            ["pass", seconds] => self.world.pass(Duration::from_secs(seconds.parse().unwrap())),
            ["node", node, number] => {
                self.world.node(node, number.parse().unwrap()).await;
            }
            ["open", who, node] => {
                let number = PEOPLE.iter().find(|(name, _)| *name == who).unwrap().1;
                self.sessions += 1;
                self.world.open(number, self.sessions, node).await.unwrap();
            }
            _ => panic!("what is '@ {what}'?"),
        }
    }

    /// Types a line; everything that it answers.
    async fn types(&self, asker: &Asker, typed: &str) -> String {
        let (line, given) = match typed.split_once(" <<< ") {
            Some((line, given)) => (line, Some(keys(given))),
            None => (typed, None),
        };
        let (mut said, mut inputs, mut shown) = (String::new(), Vec::new(), None);
        loop {
            let answer =
                command::run_line(&self.world.app, asker, &keys(line), self.terminal, inputs.clone(), shown).await;
            match answer {
                CommandAnswer::Input { prompt, context, .. } => {
                    assert!(inputs.len() < 3, "{typed}: it asks and asks");
                    if !prompt.is_empty() {
                        let _ = writeln!(said, "{}", prompt.trim_end());
                    }
                    inputs.push(given.clone().unwrap_or_default());
                    shown = context;
                }
                CommandAnswer::Output(output) => {
                    said.push_str(&output.stdout);
                    said.push_str(&output.stderr);
                    if output.exit != 0 {
                        let _ = writeln!(said, "(exit status {})", output.exit);
                    }
                    return said.lines().map(steady).collect();
                }
            }
        }
    }
}

fn terminal(columns: u16) -> Terminal {
    Terminal { columns, colours: false }
}

/// With the public keys that are named.
fn keys(text: &str) -> String {
    let mut text = text.to_owned();
    for number in 0..=255 {
        let name = format!("{{key:{number}}}");
        if text.contains(&name) {
            text = text.replace(&name, &key(number).to_string());
        }
    }
    text
}

/// A line without what is different each time: long words of base64 (certificates, tokens), and what comes when it comes.
fn steady(line: &str) -> String {
    let secret = |word: &&str| word.len() > 100 && word.bytes().all(|b| b.is_ascii_graphic());
    let mut line = line.to_owned() + "\n";
    while let Some(word) = line.split_whitespace().find(secret) {
        line = line.replace(word, "⟨…⟩");
    }
    // The version that a node should have, known when the publisher has come to it.
    match line.trim_start().strip_prefix("\"wanted\": ") {
        Some(rest) if rest.trim_end().trim_end_matches(',').parse::<u64>().is_ok_and(|version| version > 0) => {
            line.replace(rest.trim_end().trim_end_matches(','), "⟨…⟩")
        }
        _ => line,
    }
}

async fn play(script: &str) -> String {
    let mut play = Play::begin().await;
    let mut played = String::new();
    for line in script.lines() {
        let typed = line.split_once(['#', '$']).and_then(|(who, rest)| Some((who, rest.strip_prefix(' ')?)));
        match (line.split_once(' '), typed) {
            (Some(("@", what)), _) => {
                play.happens(what).await;
                let _ = writeln!(played, "{line}\n");
            }
            (Some(("##", _)), _) => {
                let _ = writeln!(played, "{line}\n");
            }
            (_, Some((who, typed))) if who == "operator" || PEOPLE.iter().any(|(name, _)| *name == who) => {
                let asker = if who == "operator" { Asker::Operator { uid: 0 } } else { play.asker(who).await };
                let _ = writeln!(played, "{line}\n{}", play.types(&asker, typed).await);
            }
            // What was answered when the file was written.
            _ => {}
        }
    }
    played.trim_end().to_owned() + "\n"
}

#[test]
fn every_transcript_is_what_is_answered() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/transcripts");
    let mut files: Vec<_> = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!(!files.is_empty());
    // All of them are compared, and written if that is asked for, before the first difference ends it.
    let assert = Assert::new().action_env("SNAPSHOTS");
    let different: Vec<String> = files
        .iter()
        .filter_map(|file| {
            let script = fs::read_to_string(file).unwrap();
            let played = runtime.block_on(play(&script));
            assert.try_eq(Some(&file.display()), played.into(), Data::read_from(file, None)).err()
        })
        .map(|difference| difference.to_string())
        .collect();
    assert!(different.is_empty(), "{}", different.join("\n"));
}

#[test]
fn the_fields_of_everything_that_is_shown_are_in_a_transcript() {
    fn leaves(command: &clap::Command, words: &str, found: &mut Vec<String>) {
        for inner in command.get_subcommands().filter(|inner| inner.get_name() != "help") {
            let words = format!("{words} {}", inner.get_name());
            if inner.has_subcommands() { leaves(inner, &words, found) } else { found.push(words.trim().to_owned()) }
        }
    }
    let mut found = Vec::new();
    leaves(&command::grammar(), "", &mut found);
    // What is not here has keys or signatures that are new each time: audit_document.rs and audit_tamper.rs read those.
    let shows = |words: &&String| {
        let last = words.split(' ').next_back().unwrap();
        let alone = ["whoami", "cert", "explain", "reach", "krl", "status", "dump", "export"];
        words.as_str() != "ca show" && (["list", "show", "tokens", "token"].contains(&last) || alone.contains(&last))
    };
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/transcripts/json.term");
    let script = fs::read_to_string(file).unwrap();
    let typed: Vec<&str> = script.lines().filter_map(|line| Some(line.split_once(['#', '$'])?.1.trim())).collect();
    let is_there = |words: &str| typed.iter().any(|line| line.starts_with(words) && line.ends_with(" --json"));
    let missing: Vec<_> = found.iter().filter(shows).filter(|words| !is_there(words)).collect();
    assert!(missing.is_empty() && found.iter().filter(shows).count() > 25, "{missing:?}");
}
