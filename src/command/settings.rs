//! Man pages of configuration files, from the files themselves as they are shipped: what stands there beside a setting is
//! what its page says. That each setting of the program stands there, and none that is not one, is tested beside the
//! programs' own types (`daemon::config`).

use super::manual::{DATE, Page};
use clap_mangen::roff::{Roff, bold, italic, roman};

/// A configuration file with a page.
struct Shipped {
    /// The page's name, without the section.
    page: &'static str,
    about: &'static str,
    path: &'static str,
    /// The file as it is shipped.
    text: &'static str,
    /// What is said beside it.
    note: &'static str,
    see_also: &'static str,
}

const SHIPPED: [Shipped; 3] = [
    Shipped {
        page: "certgate-authority.toml",
        about: "configuration of certgate's authority and provisioner",
        path: "/etc/certgate/authority.toml",
        text: include_str!("../../config/authority.toml"),
        note: "Read by certgated authority when it starts, and by certgated provisioner, which takes [provisioner] from it.",
        see_also: "certgated-authority(8), certgated-provisioner(8), certgate(1)",
    },
    Shipped {
        page: "certgate-gateway.toml",
        about: "configuration of certgate's gateway",
        path: "/etc/certgate/gateway.toml",
        text: include_str!("../../config/gateway.toml"),
        note: "Read by certgated gateway when it starts, and by the process that takes over from another (systemctl reload).",
        see_also: "certgated-gateway(8), certgate(1)",
    },
    Shipped {
        page: "certgate-node.toml",
        about: "configuration of a node of certgate's",
        path: "/etc/certgate/node.toml",
        text: include_str!("../../config/node.toml"),
        note: "Written by certgate-node join, read by certgate-node run when it starts. It must be root's alone to change.",
        see_also: "certgate-node(8), certgate-node-join(8), sshd_config(5)",
    },
];

/// A setting as the file shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    /// The table that it is in, such as `limits`; empty at the top.
    pub table: String,
    /// Its name.
    pub name: String,
    /// The value that is shown.
    pub value: String,
}

/// What stands together: text, and the settings that it is about.
#[derive(Default)]
struct Block {
    text: Vec<String>,
    settings: Vec<Setting>,
}

/// A table of a file.
#[derive(Default)]
struct Table {
    name: String,
    blocks: Vec<Block>,
}

/// The settings that a shipped file shows, in comments or not.
#[must_use]
pub fn shown(file: &str) -> Vec<Setting> {
    read(file).into_iter().flat_map(|table| table.blocks).flat_map(|block| block.settings).collect()
}

/// The pages.
pub(super) fn pages() -> Vec<Page> {
    SHIPPED.iter().map(page).collect()
}

/// A setting, in a comment or not: `name = value`.
fn setting(line: &str) -> Option<(&str, &str)> {
    let (name, value) = line.strip_prefix("# ").unwrap_or(line).split_once(" = ")?;
    let named =
        !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_');
    named.then_some((name, value))
}

/// The beginning of a table, in a comment or not: `[name]`.
fn beginning(line: &str) -> Option<&str> {
    line.strip_prefix("# ").unwrap_or(line).strip_prefix('[')?.strip_suffix(']')
}

fn read(file: &str) -> Vec<Table> {
    let mut tables = vec![Table::default()];
    let mut block = Block::default();
    for line in file.lines() {
        let Some(table) = tables.last_mut() else { break };
        if let Some(name) = beginning(line) {
            // What stands right before it is about the table.
            let about = std::mem::take(&mut block);
            tables.push(Table { name: name.to_owned(), blocks: vec![about] });
        } else if let Some((name, value)) = setting(line) {
            let (table, name, value) = (table.name.clone(), name.to_owned(), value.to_owned());
            block.settings.push(Setting { table, name, value });
        } else {
            let text = line.strip_prefix('#').map(str::trim);
            if text.is_none() || !block.settings.is_empty() {
                table.blocks.push(std::mem::take(&mut block));
            }
            block.text.extend(text.map(str::to_owned));
        }
    }
    if let Some(table) = tables.last_mut() {
        table.blocks.push(block);
    }
    tables
}

fn page(shipped: &Shipped) -> Page {
    let mut roff = Roff::new();
    roff.control("SH", ["NAME"]);
    roff.text([roman(format!("{} - {}", shipped.page, shipped.about))]);
    roff.control("SH", ["SYNOPSIS"]);
    roff.text([italic(shipped.path)]);
    roff.control("SH", ["DESCRIPTION"]);
    roff.text([roman(shipped.note)]);
    roff.control("PP", []);
    roff.text([roman(
        "The format is TOML. A setting that does not exist is refused, with its line. Each is shown with its default, or \
         with an example where it has none; lengths of time are written like \"90s\", \"5m\", \"12h\" or \"30d\".",
    )]);
    for table in read(shipped.text) {
        if table.name.is_empty() {
            roff.control("SH", ["SETTINGS"]);
        } else {
            roff.control("SH", [format!("[{}]", table.name).as_str()]);
        }
        let mut begun = false;
        for block in table.blocks {
            begun |= entry(&mut roff, &block, begun);
        }
    }
    roff.control("SH", ["SEE ALSO"]);
    roff.text([roman(shipped.see_also)]);
    let version = env!("CARGO_PKG_VERSION");
    let title = format!(".TH {} 5 {DATE} \"certgate {version}\" certgate\n", shipped.page);
    Page { name: format!("{}.5", shipped.page), text: format!("{title}{}", roff.to_roff()).into_bytes() }
}

/// Whether there was anything to say; `again` if there was before.
fn entry(roff: &mut Roff, block: &Block, again: bool) -> bool {
    let text = block.text.join(" ");
    for (index, setting) in block.settings.iter().enumerate() {
        roff.control(if index == 0 { "TP" } else { "TQ" }, []);
        roff.text([bold(&*setting.name), roman(format!(" = {}", setting.value))]);
    }
    if text.is_empty() {
        return !block.settings.is_empty();
    }
    if block.settings.is_empty() && again {
        roff.control("PP", []);
    }
    roff.text([roman(text)]);
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_says_what_the_file_says_of_each_setting() {
        let file = "# About it.\n\n# Two of\n# them.\none = 1\n# two = \"x\"\n# Another.\nthree = []\n\n# Of the table.\n# [a.b]\n# four = 4\n";
        let at = |table: &str, name: &str, value: &str| Setting {
            table: table.into(),
            name: name.into(),
            value: value.into(),
        };
        assert_eq!(
            shown(file),
            [at("", "one", "1"), at("", "two", "\"x\""), at("", "three", "[]"), at("a.b", "four", "4")]
        );
        let shipped = Shipped { text: file, ..SHIPPED.into_iter().next().unwrap() };
        let text = String::from_utf8(page(&shipped).text).unwrap();
        for part in [
            ".SH SETTINGS\nAbout it.\n",
            ".TP\n\\fBone\\fR = 1\n.TQ\n\\fBtwo\\fR = \"x\"\nTwo of them.\n.TP\n\\fBthree\\fR = []\nAnother.\n",
            ".SH [a.b]\nOf the table.\n.TP\n\\fBfour\\fR = 4\n",
        ] {
            assert!(text.contains(part), "{part}\n{text}");
        }
    }
}
