//! What commands look like to people at terminals of any width and to programs, whatever is behind them.
#![allow(clippy::unwrap_used, clippy::panic)]

#[allow(dead_code, unreachable_pub, reason = "each test file uses its part of it")]
mod authority_support;

use authority_support::{World, key, output};
use certgate::app::{
    Asker,
    protocol::{Output, Terminal},
};
use serde_json::Value;

const OPERATOR: Asker = Asker::Operator { uid: 0 };

async fn at(world: &World, asker: &Asker, line: &str, columns: u16, colours: bool) -> Output {
    output(world.answer(asker, line, Some(Terminal { columns, colours }), None).await)
}

fn json(output: &Output, line: &str) -> Value {
    serde_json::from_str(&output.stdout).unwrap_or_else(|error| panic!("{line}: {error}: {}", output.stdout))
}

#[tokio::test]
async fn a_program_that_is_refused_gets_the_reason_as_json() {
    let world = World::story().await;
    let user = world.asker(3).await;
    for (asker, line, exit, reason, said) in [
        (&user, "project show acme/ml --json", 1, "not-found", "no such project: acme/ml"),
        (&user, "org list --json", 1, "operators-only", "for operators"),
        (&user, "--json whoami now", 2, "usage", "now"),
        (&user, "--json whomai", 2, "usage", "whoami"),
        (&user, "member add --json acme/ml", 2, "usage", "EMAIL"),
        (&user, "cert 'open --json", 2, "usage", "quote"),
        (&OPERATOR, "cert --json", 1, "invalid", "through the gateway"),
        (&OPERATOR, "org create acme --json", 1, "conflict", "already"),
        (&OPERATOR, "project delete acme/ml --json", 1, "unconfirmed", "--yes"),
        (&OPERATOR, "user create a@acme.example --org acme --name a --json --key nonsense", 1, "invalid", "public key"),
    ] {
        let answer = output(world.answer(asker, line, None, None).await);
        let error = &json(&answer, line)["error"];
        assert_eq!((answer.exit, error["reason"].as_str()), (exit, Some(reason)), "{line}: {error}");
        let message = error["message"].as_str().unwrap();
        assert!(message.contains(said), "{line}: {message}");
        assert_eq!(answer.stderr, format!("{message}\n"), "people read the same");
        // Without --json standard output stays free of it.
        let plain = output(world.answer(asker, &line.replace("--json", ""), None, None).await);
        assert_eq!((plain.exit, plain.stdout.as_str()), (exit, ""), "{line}");
        assert!(plain.stderr.contains(said), "{line}: {}", plain.stderr);
    }
}

#[tokio::test]
async fn a_program_is_never_asked() {
    for line in [
        "member remove acme/ml user1@acme.example",
        "cluster delete h100.acme",
        "project delete acme/ml",
        &format!("key remove {} --account user1@acme.example", key(2).fingerprint()),
    ] {
        let world = World::story().await;
        // Also at a terminal, and whatever was typed.
        let terminal = Some(Terminal { columns: 80, colours: false });
        let answer = output(world.answer(&OPERATOR, &format!("{line} --json"), terminal, Some("y\n")).await);
        assert_eq!(json(&answer, line)["error"]["reason"], "unconfirmed", "{line}");
        let done = world.operator(&format!("{line} --json --yes")).await;
        assert!(json(&done, line)["error"].is_null(), "{line}: {}", done.stdout);
    }
}

/// Lists with long names, and what they look like.
async fn lists() -> (World, Vec<&'static str>) {
    let world = World::new().await;
    world.operator("org create acme").await;
    for (number, name) in [(1, "admin1"), (2, "somebody-with-a-long-name")] {
        let line = format!("user create {name}@acme.example --org acme --name {name} --key '{}'", key(number));
        world.operator(&line).await;
    }
    for line in [
        "project create acme/ml-training --admin admin1@acme.example",
        "cluster create acme/ml-training h100-cluster-1",
        "volume create acme/ml-training training-data --size 10T",
        "member add acme/ml-training somebody-with-a-long-name@acme.example",
        "user suspend somebody-with-a-long-name@acme.example",
    ] {
        world.operator(line).await;
    }
    let _stream = world.gateway(vec![]);
    world.node("login-0.h100-cluster-1.acme", 50).await;
    world.open(1, 1, "login-0.h100-cluster-1.acme").await.unwrap();
    world.user(1, "cert").await;
    let lists = vec![
        "member list acme/ml-training",
        "node list h100-cluster-1.acme",
        "key list --account admin1@acme.example",
        "project list",
        "project show acme/ml-training",
        "cluster list",
        "volume list",
        "session list",
        "certificate list",
        "user list",
        "org list",
        "audit list",
        "reach h100-cluster-1.acme",
        "explain somebody-with-a-long-name@acme.example login-0.h100-cluster-1.acme",
    ];
    (world, lists)
}

/// The text without the colours, which are the only escape sequences there may be.
fn without_colours(text: &str) -> String {
    let mut plain = String::new();
    let mut parts = text.split("\u{1b}[");
    plain.push_str(parts.next().unwrap());
    for part in parts {
        let (code, rest) = part.split_once('m').unwrap_or_else(|| panic!("{part:?} is no colour"));
        assert!(matches!(code, "0" | "1" | "31" | "32" | "33"), "{code:?} is none of the colours");
        plain.push_str(rest);
    }
    plain
}

#[tokio::test]
async fn no_list_is_wider_than_the_terminal_and_no_name_is_broken_that_fits() {
    let (world, lists) = lists().await;
    for line in lists {
        for columns in [20, 33, 40, 60, 80, 100, 132, 200] {
            for colours in [false, true] {
                let answer = at(&world, &OPERATOR, line, columns, colours).await;
                assert_eq!(answer.stdout.contains('\u{1b}'), colours, "{line}");
                let plain = without_colours(&answer.stdout);
                // The last line of an explanation is a sentence.
                for shown in plain.lines().filter(|shown| !shown.starts_with("no: ")) {
                    assert!(shown.chars().count() <= columns.into(), "{line} at {columns}: {shown}");
                    assert!(!shown.contains(char::is_control), "{line}: {shown:?}");
                }
                if columns >= 60 && line.starts_with("member") {
                    assert!(plain.contains("somebody-with-a-long-name@acme.example"), "{columns}: {plain}");
                }
            }
        }
        // In a pipe each row is one line, and two spaces separate its cells.
        let piped = output(world.answer(&OPERATOR, line, None, None).await);
        let (header, rows) = piped.stdout.split_once('\n').unwrap();
        assert!(header.contains("  ") && !rows.contains('\u{1b}'), "{line}: {}", piped.stdout);
    }
}

#[tokio::test]
async fn people_read_times_and_programs_parse_them() {
    let (world, _) = lists().await;
    world.pass(std::time::Duration::from_secs(200));
    let read = async |line: &str| output(world.answer(&OPERATOR, line, None, None).await).stdout;
    assert!(read("session list").await.contains("  3 min ago\n"));
    assert!(read("member list acme/ml-training").await.contains("  2027-01-15 08:00 UTC  "));
    assert!(read("status").await.contains("running since 2027-01-15 08:00 UTC"));
    let note = world.user(1, "cert --ttl 4m").await.stderr;
    assert!(note.contains("until 08:07 UTC (in 4 min), as admin1@acme/ml-training"), "{note}");
    let sessions = read("session list --json").await;
    assert!(sessions.contains("\"since\": \"2027-01-15T08:00:00Z\""), "{sessions}");
}

/// Every example of the help, as words.
fn examples(command: &clap::Command, found: &mut Vec<String>) {
    let lines = command.get_after_help().map(ToString::to_string).unwrap_or_default();
    for line in lines.lines() {
        let words = line.trim_start_matches("ssh BASTION ").split([' '; 1]);
        // What follows is the shell's.
        found.push(words.take_while(|word| !matches!(*word, "<" | ">" | "|")).collect::<Vec<_>>().join(" "));
    }
    for inner in command.get_subcommands() {
        examples(inner, found);
    }
}

#[tokio::test]
async fn whatever_is_asked_with_json_is_answered_with_one_json_document() {
    let mut lines = Vec::new();
    examples(&certgate::command::grammar(), &mut lines);
    assert!(lines.len() > 40, "{lines:?}");
    // What is answered elsewhere, and what would wait for a node that only plays one.
    let elsewhere = ["completions", "man", "setup"];
    lines.retain(|line| !elsewhere.contains(&line.split(' ').next().unwrap()) && !line.ends_with("--wait"));
    let mut done = 0;
    for operator in [true, false] {
        let (world, _) = lists().await;
        world.operator(&format!("user create user1@acme.example --org acme --name user1 --key '{}'", key(3))).await;
        let asker = if operator { OPERATOR } else { world.asker(1).await };
        for line in &lines {
            let line = if line.contains("--json") { line.clone() } else { format!("{line} --json") };
            let key = key(60).to_string();
            let answer = output(world.answer(&asker, &line, None, Some(&key)).await);
            let error = &json(&answer, &line)["error"];
            assert_eq!(error.is_object() && answer.exit != 0, error["reason"].is_string(), "{line}: {}", answer.stdout);
            assert!(error.is_null() || error["message"].as_str().is_some_and(|text| !text.is_empty()), "{line}");
            done += usize::from(error.is_null());
        }
    }
    assert!(done > lines.len() / 2, "most examples are refused: {done} of {} done", 2 * lines.len());
}

fn certgate(arguments: &[&str]) -> std::process::Command {
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_certgate"));
    command.args(arguments).env("CERTGATE_SOCKET", "/nonexistent/admin.sock").stdin(std::process::Stdio::null());
    command
}

#[test]
fn an_authority_that_is_away_is_said_to_be_with_what_to_do() {
    let output = certgate(&["status"]).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!((output.status.code(), output.stdout.len()), (Some(1), 0), "{said}");
    assert!(said.contains("/nonexistent/admin.sock") && said.contains("systemctl status certgate-authority"), "{said}");
    let output = certgate(&["status", "--json"]).output().unwrap();
    let error: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((output.status.code(), &error["error"]["reason"]), (Some(1), &Value::from("unavailable")));
    // Help and what is wrong with the words need no authority.
    assert_eq!(certgate(&["member", "--help"]).output().unwrap().status.code(), Some(0));
    let output = certgate(&["mebmer"]).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!((output.status.code(), said.lines().count()), (Some(2), 1), "{said}");
}

#[test]
fn a_reader_that_goes_away_is_no_news_but_a_full_disk_is() {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let output = certgate(&["--help"]).stdout(writer).output().unwrap();
    assert_eq!((output.status.code(), output.stderr), (Some(1), vec![]));
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let output = certgate(&["--help"]).stdout(full).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.code() == Some(1) && said.starts_with("certgate: standard output: "), "{said}");
}

#[test]
fn man_pages_are_written_for_every_program_and_mandoc_reads_them() {
    let dir = tempfile::tempdir().unwrap();
    let pages = dir.path().join("new/man");
    let output = certgate(&["man", pages.to_str().unwrap()]).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    let mut names: Vec<_> = std::fs::read_dir(&pages).unwrap().map(|entry| entry.unwrap().path()).collect();
    names.sort();
    for name in [
        "certgate.1",
        "certgate-member-add.1",
        "certgated.8",
        "certgate-node-join.8",
        "certgate-principals.8",
        "certgate-authority.toml.5",
        "certgate-gateway.toml.5",
        "certgate-node.toml.5",
    ] {
        assert!(names.contains(&pages.join(name)), "{name} is missing");
    }
    let lint =
        std::process::Command::new("mandoc").args(["-T", "lint", "-W", "warning"]).args(&names).output().unwrap();
    assert!(lint.status.success(), "{}", String::from_utf8_lossy(&lint.stdout));
}
