//! The real programs: `certgated authority` behind its socket, `certgate` with a file, a pipe and a terminal.

use crate::process_support::Site;
use std::{
    fs,
    io::{Read, Write},
    process::{Child, Command, Stdio},
};

const PEOPLE: &str = "[[organizations]]\nname = \"acme\"\n[[accounts]]\nemail = \"user1@acme.example\"\norg = \"acme\"\n\
                      user = \"user1\"\n";

impl Site {
    fn file(&self, text: &str) -> String {
        let path = self.dir.path().join("people.toml");
        fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    }

    /// `certgate` at a terminal, which util-linux' `script` makes.
    fn at_a_terminal(&self, words: &str) -> Terminal {
        let line = format!("exec {} --socket {} {words}", env!("CARGO_BIN_EXE_certgate"), self.socket().display());
        let mut script = Command::new("script");
        script.args(["-q", "-e", "-c", &line, "/dev/null"]);
        let script = script.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        Terminal { script, shown: String::new() }
    }

    fn accounts(&self) -> String {
        text(&self.certgate(&["dump"], "").stdout).split_once("format").unwrap().1.to_owned()
    }
}

struct Terminal {
    script: Child,
    shown: String,
}

impl Terminal {
    /// Reads until this was shown.
    fn until(&mut self, what: &str) {
        let mut byte = [0];
        while !self.shown.ends_with(what) {
            let read = self.script.stdout.as_mut().unwrap().read(&mut byte).unwrap();
            assert_eq!(read, 1, "it ended with: {}", self.shown);
            self.shown.push(char::from(byte[0]));
        }
    }

    fn types(&mut self, what: &str) {
        self.script.stdin.as_mut().unwrap().write_all(what.as_bytes()).unwrap();
    }

    fn ends(mut self) -> (String, Option<i32>) {
        self.script.stdout.as_mut().unwrap().read_to_string(&mut self.shown).unwrap();
        (self.shown.clone(), self.script.wait().unwrap().code())
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.script.kill();
        let _ = self.script.wait();
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[test]
fn files_pipes_and_people_are_read() {
    let site = Site::start();
    let file = site.file(PEOPLE);
    let empty = site.accounts();

    // A pipe can say no more than --yes.
    let output = site.certgate(&["apply", "-"], PEOPLE);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("add --yes"), "{}", text(&output.stderr));

    // Somebody looks, and says no; somebody looks, and is gone.
    for answer in ["n\n", "\n", "\u{4}"] {
        let mut terminal = site.at_a_terminal(&format!("apply {file}"));
        terminal.until("Apply this? [y/N] ");
        assert!(terminal.shown.contains("+ account user1@acme.example\r\n"), "{}", terminal.shown);
        terminal.types(answer);
        let (shown, exit) = terminal.ends();
        assert!(shown.contains("not confirmed; nothing was changed"), "{shown}");
        assert_eq!(exit, Some(1));
    }
    let mut terminal = site.at_a_terminal(&format!("apply {file}"));
    terminal.until("Apply this? [y/N] ");
    drop(terminal);
    assert_eq!(site.accounts(), empty);

    // Somebody looks, and says yes.
    let mut terminal = site.at_a_terminal(&format!("apply {file}"));
    terminal.until("Apply this? [y/N] ");
    terminal.types("y\n");
    let (shown, exit) = terminal.ends();
    assert!(shown.contains("applied: 2 added, 0 changed, 0 removed"), "{shown}");
    assert_eq!(exit, Some(0));
    let full = site.accounts();
    assert!(full.contains("user1@acme.example"));

    // What was dumped is what is there.
    let dump = text(&site.certgate(&["dump"], "").stdout);
    let output = site.certgate(&["apply", "-", "--yes"], &dump);
    assert_eq!(text(&output.stderr), "nothing to do: the directory is as described\n");
    let output = site.certgate(&["apply", &file, "--dry-run", "--exit-code"], "");
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
}

#[test]
fn what_is_no_description_is_said_to_be_none() {
    let site = Site::start();
    let empty = site.accounts();
    let refused = |words: &[&str], input: &str| {
        let output = site.certgate(words, input);
        assert_eq!((output.status.code(), text(&output.stdout).as_str()), (Some(1), ""));
        text(&output.stderr)
    };
    assert_eq!(
        refused(&["apply", "-", "--yes"], &"x".repeat(1 << 20)),
        "line 1: not TOML: key with no value, expected `=`\n1 mistake; nothing was changed\n"
    );
    let many = refused(&["apply", "-", "--yes"], &"x = \n".repeat(1 << 17));
    assert_eq!(many.lines().count(), 101);
    assert!(many.ends_with("mistakes, of which these are 100; nothing was changed\n"), "{many}");
    // The first half of a file that somebody has stopped sending: the program reads to the end, which is in a string.
    let half = &PEOPLE[..PEOPLE.len() - 5];
    let told = refused(&["apply", "-", "--yes"], half);
    assert!(told.starts_with("line 6: not TOML: "), "{told}");
    // Whoever sends half a question asks nothing.
    let mut socket = std::os::unix::net::UnixStream::connect(site.socket()).unwrap();
    let body = format!("{{\"words\":[\"apply\",\"-\",\"--yes\"],\"inputs\":[{:?}]}}", PEOPLE);
    let head = format!(
        "POST /v1/command HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    socket.write_all(head.as_bytes()).unwrap();
    socket.write_all(&body.as_bytes()[..body.len() - 1]).unwrap();
    drop(socket);
    let missing = site.dir.path().join("none.toml");
    let told = refused(&["apply", missing.to_str().unwrap(), "--yes"], "");
    assert!(told.contains("none.toml: No such file or directory"), "{told}");
    assert_eq!(told.lines().count(), 1);
    let told = refused(&["apply", site.dir.path().to_str().unwrap(), "--yes"], "");
    assert_eq!(told.lines().count(), 1);
    let large = site.file(&"#".repeat((32 << 20) + 1));
    let told = refused(&["apply", &large, "--yes"], "");
    assert!(told.contains("more than 33554432 bytes"), "{told}");
    // As large as it may be is read, also if every second byte has to be escaped on the way.
    let large = site.file(&"#\"\n".repeat((32 << 20) / 3));
    let output = site.certgate(&["apply", &large, "--yes"], "");
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("this is too much to be read at once"), "{}", text(&output.stderr));
    assert_eq!(site.accounts(), empty);
}
