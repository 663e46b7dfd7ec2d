//! The shape of the code: which module may use which, that each says what it is for, and that no file grows too long.
//!
//! The table here is the one of ARCHITECTURE.md. The checker reads sources as text, tests in them included; that it
//! sees a violation when there is one is tested below with small made-up sources.

// A test that cannot read its own files has failed.
#![allow(clippy::unwrap_used)]

use std::{
    fs,
    path::{Path, PathBuf},
};

/// From the bottom up. A module may use the modules of the layers below its own, and nothing beside it.
const LAYERS: &[&[&str]] = &[
    &["domain"],
    &["policy", "krl", "bundle", "audit"],
    &["store", "ca", "backup", "archive"],
    &["app"],
    &["command"],
    &["gateway", "api", "cli", "node", "provisioner"],
    &["daemon"],
];

/// No file is longer.
const MAX_LINES: usize = 600;

/// No binary is longer: they are thin.
const MAX_BINARY_LINES: usize = 30;

/// What is linked into the program that sshd runs on every login: a file, or a directory, or both.
const HELPER: &[&str] = &["node/helper", "bundle/table"];

/// What the helper may use of the crate itself.
const HELPER_MAY_USE: &[&[&str]] = &[&["bundle", "table"], &["node", "helper"]];

/// What the helper may use of other crates, beside the standard library.
const HELPER_CRATES: &[&str] = &["libc"];

/// A source file: its path below `src`, with `/`, and its text.
struct Source {
    path: String,
    text: String,
}

impl Source {
    fn is_binary(&self) -> bool {
        self.path.starts_with("bin/") || self.path == "main.rs"
    }

    fn is_helper(&self) -> bool {
        let path = self.path.trim_end_matches(".rs");
        HELPER
            .iter()
            .any(|helper| path.strip_prefix(helper).is_some_and(|rest| rest.is_empty() || rest.starts_with('/')))
    }

    /// The module that the file is.
    fn module(&self) -> Vec<String> {
        let mut path: Vec<String> = self.path.trim_end_matches(".rs").split('/').map(str::to_owned).collect();
        if matches!(path.last().map(String::as_str), Some("mod" | "lib")) {
            path.pop();
        }
        path
    }
}

/// A word, `::`, or a single character; and its line.
#[derive(Clone, Debug, PartialEq)]
struct Token {
    text: String,
    line: usize,
}

/// Where the text that begins at `start` with a comment or a literal ends; `start` itself if it begins with neither.
fn skip(text: &[u8], start: usize) -> usize {
    let rest = &text[start..];
    let find = |from: usize, what: &[u8]| {
        let found = rest[from..].windows(what.len()).position(|window| window == what);
        found.map_or(text.len(), |at| start + from + at + what.len())
    };
    match rest {
        [b'/', b'/', ..] => find(2, b"\n") - 1,
        [b'/', b'*', ..] => find(2, b"*/"),
        [b'"', ..] => {
            let mut at = start + 1;
            while at < text.len() && text[at] != b'"' {
                at += if text[at] == b'\\' { 2 } else { 1 };
            }
            at + 1
        }
        // A raw string, which ends with as many '#' as it began with.
        [b'r', b'"' | b'#', ..] => {
            let hashes = rest[1..].iter().take_while(|b| **b == b'#').count();
            if rest.get(1 + hashes) != Some(&b'"') {
                return start;
            }
            let end: Vec<u8> = std::iter::once(b'"').chain(std::iter::repeat_n(b'#', hashes)).collect();
            find(2 + hashes, &end)
        }
        [b'\'', b'\\', ..] => find(3, b"'"),
        // Otherwise it is a lifetime.
        [b'\'', _, b'\'', ..] => start + 3,
        _ => start,
    }
}

fn tokens(text: &str) -> Vec<Token> {
    let bytes = text.as_bytes();
    let (mut at, mut line, mut found) = (0, 1, Vec::new());
    while at < bytes.len() {
        let end = skip(bytes, at).min(bytes.len());
        if end > at {
            line += bytes[at..end].iter().filter(|b| **b == b'\n').count();
            at = end;
            continue;
        }
        let word = bytes[at..].iter().take_while(|b| b.is_ascii_alphanumeric() || **b == b'_').count();
        let len = if word > 0 {
            word
        } else if bytes[at..].starts_with(b"::") {
            2
        } else {
            1
        };
        if !bytes[at].is_ascii_whitespace() {
            found.push(Token { text: String::from_utf8_lossy(&bytes[at..at + len]).into_owned(), line });
        }
        line += usize::from(bytes[at] == b'\n');
        at += len;
    }
    found
}

/// A path in the source, resolved from the crate's root; paths into other crates begin with `::`.
#[derive(Debug, PartialEq)]
struct Reference {
    path: Vec<String>,
    line: usize,
    in_test: bool,
}

/// Reads a path, or a tree of them as in `use`, that begins at token `at`; gives where it ends. `base` is what stands
/// before it, if anything does.
fn read_tree(
    tokens: &[Token],
    at: usize,
    base: Option<&[String]>,
    module: &[String],
    out: &mut Vec<Vec<String>>,
) -> usize {
    let mut path = base.map(<[String]>::to_vec);
    let mut at = at;
    loop {
        let word = tokens.get(at).map_or("", |token| token.text.as_str());
        let here = path.take();
        path = Some(match word {
            "crate" => vec![],
            "self" => here.unwrap_or_else(|| module.to_vec()),
            "super" => {
                let mut from = here.unwrap_or_else(|| module.to_vec());
                from.pop();
                from
            }
            "{" => {
                at += 1;
                while at < tokens.len() && tokens[at].text != "}" {
                    // Whatever is not a path (a comma) is passed over.
                    at = read_tree(tokens, at, here.as_deref(), module, out).max(at + 1);
                    // So is the new name.
                    at += if tokens.get(at).is_some_and(|token| token.text == "as") { 2 } else { 0 };
                }
                return at + 1;
            }
            _ if word.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_' || c == '*') => {
                let mut path = here.unwrap_or_default();
                path.push(word.to_owned());
                path
            }
            _ => return at,
        });
        at += 1;
        if tokens.get(at).is_none_or(|token| token.text != "::") {
            out.extend(path);
            return at;
        }
        at += 1;
    }
}

/// Every path that the source names from the crate's root, and the first word of every other path.
fn references(source: &Source) -> Vec<Reference> {
    let tokens = tokens(&source.text);
    let (mut found, mut at) = (Vec::new(), 0);
    let mut module = source.module();
    // For each open brace, whether it is that of a module, and whether that module is a test.
    let mut braces: Vec<(bool, bool)> = Vec::new();
    let word = |at: usize| tokens.get(at).map_or("", |token| token.text.as_str());
    while at < tokens.len() {
        let (here, line) = (word(at), tokens[at].line);
        let in_test = braces.iter().any(|(_, test)| *test);
        let begins_path = word(at + 1) == "::" && (at == 0 || word(at - 1) != "::");
        if here == "mod" && word(at + 2) == "{" {
            module.push(word(at + 1).to_owned());
            let attributes: Vec<&str> = (at.saturating_sub(7)..at).map(word).collect();
            braces.push((true, attributes.join("").contains("#[cfg(test)]")));
            at += 3;
        } else if here == "{" {
            braces.push((false, false));
            at += 1;
        } else if here == "}" {
            if let Some((true, _)) = braces.pop() {
                module.pop();
            }
            at += 1;
        } else if begins_path && matches!(here, "crate" | "super" | "self") {
            let mut paths = Vec::new();
            at = read_tree(&tokens, at, None, &module, &mut paths);
            found.extend(paths.into_iter().map(|path| Reference { path, line, in_test }));
        } else {
            if begins_path || (here == "use" && word(at + 2) == ";") {
                let name = if here == "use" { word(at + 1) } else { here };
                found.push(Reference { path: vec!["::".into(), name.to_owned()], line, in_test });
            }
            at += 1;
        }
    }
    found
}

fn layer(module: &str) -> Option<usize> {
    LAYERS.iter().position(|layer| layer.contains(&module))
}

/// Why the module `from` may not use the module `to`.
fn forbidden(from: &str, to: &str) -> Option<String> {
    if from == to {
        return None;
    }
    let Some(low) = layer(to) else { return Some(format!("'{to}' is in no layer: name it in LAYERS")) };
    let Some(high) = layer(from) else { return Some(format!("'{from}' is in no layer: name it in LAYERS")) };
    (low >= high).then(|| format!("'{from}' may not use '{to}': imports only go down"))
}

/// What is wrong with a file, one line each.
fn problems(source: &Source, dependencies: &[String]) -> Vec<String> {
    let mut found = Vec::new();
    let lines = source.text.lines().count();
    let limit = if source.is_binary() { MAX_BINARY_LINES } else { MAX_LINES };
    if lines > limit {
        found.push(format!("{}: {lines} lines; the limit is {limit}", source.path));
    }
    if !source.text.starts_with("//! ") {
        found.push(format!("{}: does not begin with '//!' and what lives there", source.path));
    }
    if source.is_binary() {
        return found;
    }
    for Reference { path, line, in_test } in references(source) {
        let problem = match path.as_slice() {
            [root, name] if root == "::" => {
                let foreign = dependencies.contains(name) && !HELPER_CRATES.contains(&name.as_str());
                (source.is_helper() && !in_test && foreign)
                    .then(|| format!("the helper may not use the crate '{name}'"))
            }
            _ if source.is_helper() && !in_test && !HELPER_MAY_USE.iter().any(|may| begins_with(&path, may)) => {
                Some(format!("the helper may not use 'crate::{}'", path.join("::")))
            }
            [to, ..] => source.module().first().and_then(|from| forbidden(from, to)),
            [] => None,
        };
        found.extend(problem.map(|problem| format!("{}:{line}: {problem}", source.path)));
    }
    found
}

fn begins_with(path: &[String], prefix: &[&str]) -> bool {
    path.len() >= prefix.len() && path.iter().zip(prefix).all(|(a, b)| a == b)
}

fn collect(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// Names of the crates that Cargo.toml names, as the code writes them.
fn dependencies() -> Vec<String> {
    let manifest = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml")).unwrap();
    let manifest: toml::Table = manifest.parse().unwrap();
    manifest["dependencies"].as_table().unwrap().keys().map(|name| name.replace('-', "_")).collect()
}

#[test]
fn the_code_has_the_shape_that_architecture_md_describes() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    collect(&root, &mut files);
    files.sort();
    let sources: Vec<Source> = files
        .iter()
        .map(|file| Source {
            path: file.strip_prefix(&root).unwrap().to_str().unwrap().to_owned(),
            text: fs::read_to_string(file).unwrap(),
        })
        .collect();
    let (binaries, modules): (Vec<_>, Vec<_>) = sources.iter().partition(|source| source.is_binary());
    assert_eq!(binaries.len(), 4, "the four binaries");
    assert!(modules.iter().any(|source| source.is_helper()), "the helper is not where HELPER says");
    let dependencies = dependencies();
    let found: Vec<String> = sources.iter().flat_map(|source| problems(source, &dependencies)).collect();
    assert!(found.is_empty(), "\n{}\n", found.join("\n"));
}

fn check(path: &str, body: &str) -> Vec<String> {
    let source = Source { path: path.to_owned(), text: format!("//! Docs.\n{body}\n") };
    problems(&source, &["serde".into(), "libc".into()])
}

#[test]
fn imports_that_go_down_are_fine() {
    assert_eq!(check("app/core.rs", "use crate::{domain::Name, store::{Store, self}, ca as signing};"), [""; 0]);
    assert_eq!(check("gateway/mod.rs", "fn f(x: crate::app::protocol::Call) { super::gateway::g() }"), [""; 0]);
    assert_eq!(
        check("app/core.rs", "use super::protocol::Call;\nmod tests { use super::super::token::Token; }"),
        [""; 0]
    );
    assert_eq!(check("daemon/mod.rs", "use crate::{api, cli, gateway, node};"), [""; 0]);
}

#[test]
fn imports_that_go_up_are_seen_however_they_are_written() {
    for body in [
        "use crate::app::Core;",
        "use crate::{domain::Name, app::{Core}};",
        "use crate::{\n    app as a,\n};",
        "pub(crate) use crate::app;",
        "fn f() { crate::app::run() }",
        "fn f() { super::app::run() }",
        "use super::app::*;",
        "use super::{app::Core};",
        "mod inner { use super::super::app::Core; }",
        "mod inner { use super::{super::app::Core}; }",
        "const Q: char = '\"'; use crate::app; const R: char = '\"';",
        "fn f<'a>(x: &'a str) -> crate::app::Core { x }",
    ] {
        assert_eq!(check("store/mod.rs", body).len(), 1, "{body}");
    }
}

#[test]
fn neighbours_and_strangers_are_seen() {
    assert!(check("gateway/mod.rs", "use crate::api::Client;")[0].contains("'gateway' may not use 'api'"));
    assert!(check("store/sqlite.rs", "use crate::ca::Signer;")[0].contains("imports only go down"));
    assert!(check("app/mod.rs", "use crate::util::x;")[0].contains("'util' is in no layer"));
    assert!(check("util/mod.rs", "use crate::domain::x;")[0].contains("'util' is in no layer"));
}

#[test]
fn what_is_only_written_about_is_not_an_import() {
    let body = "/// See [`crate::app::Core`].\n// crate::app::x\n/* crate::app::y */\nconst S: &str = \"crate::app::z\";\n\
                const T: &str = r#\"crate::app\"::q\"#;";
    assert_eq!(check("domain/mod.rs", body), [""; 0]);
}

#[test]
fn the_helper_is_std_and_libc_and_the_table() {
    let fine = "use crate::bundle::table::Table;\nuse std::fs;\nfn f() { libc::mmap() }\n\
                #[cfg(test)]\nmod tests { use crate::domain::Name; use serde::Serialize; }";
    assert_eq!(check("node/helper.rs", fine), [""; 0]);
    for body in [
        "use crate::domain::Name;",
        "use crate::bundle::SignedBundle;",
        "use super::config::NodeConfig;",
        "use serde::Serialize;",
        "fn f() { serde::x() }",
        "use serde;",
        "mod inner { use serde::Serialize; }",
    ] {
        assert_eq!(check("node/helper.rs", body).len(), 1, "{body}");
    }
    assert_eq!(check("node/helper/map.rs", "use super::super::config::NodeConfig;").len(), 1);
    assert_eq!(check("node/helpers.rs", "use serde::Serialize;"), [""; 0]);
}

#[test]
fn long_files_and_silent_ones_are_seen() {
    assert_eq!(check("app/mod.rs", &"\n".repeat(MAX_LINES - 2)), [""; 0]);
    assert_eq!(check("app/mod.rs", &"\n".repeat(MAX_LINES)).len(), 1);
    assert_eq!(check("bin/certgate.rs", &"\n".repeat(MAX_BINARY_LINES)).len(), 1);
    let silent = Source { path: "app/mod.rs".into(), text: "use std::fs;\n".into() };
    assert!(problems(&silent, &[])[0].contains("does not begin with '//!'"));
}
