//! Text for a terminal that nothing in it can take over, and the few colours.
//!
//! A [`Text`] is safe to write to a terminal: whatever goes into one has its control characters shown, not sent, and the
//! escape sequences of the colours are put around that afterwards, from a fixed list. So no name, reason or detail, whoever
//! chose it, can move a cursor, set a title, hide what stands before it or pretend to be a colour.

use crate::{app::protocol::Terminal, domain::is_unseen};
use anstyle::{AnsiColor, Style};
use std::borrow::Cow;

/// Where a text will be read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Screen {
    /// How wide it is; none where nobody sits: in a file or a pipe lines are as long as they are.
    pub(super) columns: Option<u16>,
    /// Whether it shows colours.
    pub(super) colours: bool,
}

/// No screen is taken to be narrower, in characters.
const NARROWEST: u16 = 20;

impl Screen {
    /// What is known of a terminal, or of none.
    pub(crate) fn of(terminal: Option<Terminal>) -> Self {
        terminal.map_or_else(Self::default, |terminal| Self {
            columns: Some(terminal.columns.max(NARROWEST)),
            colours: terminal.colours,
        })
    }
}

/// What a word means, which a screen with colours shows. The words say it without, too.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Tone {
    /// Nothing in particular.
    #[default]
    Plain,
    /// It names what stands below.
    Heading,
    /// As it should be.
    Good,
    /// Not as it should be, but on the way, or harmless.
    Warn,
    /// Not as it should be.
    Bad,
}

impl Tone {
    const fn style(self) -> Style {
        match self {
            Self::Plain => Style::new(),
            Self::Heading => Style::new().bold(),
            Self::Good => AnsiColor::Green.on_default(),
            Self::Warn => AnsiColor::Yellow.on_default(),
            Self::Bad => AnsiColor::Red.on_default().bold(),
        }
    }
}

/// Text that is safe to write to a terminal. Lines end with newlines; there is no other control character in it but those
/// of the colours, and tabs where a text is shown as it was written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Text(String);

impl Text {
    /// Words in a tone.
    pub(crate) fn toned(tone: Tone, words: &str, screen: Screen) -> Self {
        let mut text = Self::default();
        text.push_toned(tone, words, screen);
        text
    }

    /// As somebody wrote it, with the tabs that stand between words.
    pub(crate) fn written(text: &str) -> Self {
        Self(text.split('\t').map(|part| visible(part, true)).collect::<Vec<_>>().join("\t"))
    }

    /// Adds what is safe already, or is made so.
    pub(crate) fn push(&mut self, more: impl Into<Self>) {
        self.0.push_str(&more.into().0);
    }

    /// Adds words in a tone.
    pub(super) fn push_toned(&mut self, tone: Tone, words: &str, screen: Screen) {
        let words = visible(words, true);
        let style = if screen.colours && !words.is_empty() { tone.style() } else { Style::new() };
        // The style comes after the words were looked at, and is none of theirs.
        self.0.push_str(&format!("{style}{words}{style:#}"));
    }

    /// Whether there is nothing in it.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// As it is written.
    pub(crate) fn into_string(self) -> String {
        self.0
    }
}

impl From<&str> for Text {
    fn from(text: &str) -> Self {
        Self(visible(text, true).into_owned())
    }
}

impl From<String> for Text {
    fn from(text: String) -> Self {
        match visible(&text, true) {
            Cow::Borrowed(_) => Self(text),
            Cow::Owned(shown) => Self(shown),
        }
    }
}

/// Shows what would do something to a terminal (see [`is_unseen`]) as `\u001b`. JSON writes them the same way, so that JSON remains what it was. Newlines
/// stay where a text may have `lines`; in a cell they could pretend to be another row.
pub(super) fn visible(text: &str, lines: bool) -> Cow<'_, str> {
    let harmless = |c: char| (lines && c == '\n') || !is_unseen(c);
    if text.chars().all(harmless) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        if harmless(c) {
            shown.push(c);
        } else {
            for unit in c.encode_utf16(&mut [0; 2]) {
                shown.push_str(&format!("\\u{unit:04x}"));
            }
        }
    }
    Cow::Owned(shown)
}

/// `1 node`, `2 nodes`.
pub(crate) fn count(number: usize, what: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {what}{plural}")
}

/// What a question says of the sessions that end: ` 2 open sessions will end.`, or nothing.
pub(crate) fn ending(sessions: usize) -> String {
    match sessions {
        0 => String::new(),
        sessions => format!(" {} will end.", count(sessions, "open session")),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use proptest::prelude::*;

    pub(in crate::command) const COLOURED: Screen = Screen { columns: None, colours: true };

    /// The text without the colours that this module makes.
    pub(in crate::command) fn without_colours(text: &str) -> String {
        let mut plain = text.to_owned();
        // The longer one first: what is bad is bold as well.
        for tone in [Tone::Bad, Tone::Heading, Tone::Good, Tone::Warn] {
            let style = tone.style();
            for sequence in [format!("{style}"), format!("{style:#}")] {
                plain = plain.replace(&sequence, "");
            }
        }
        plain
    }

    #[test]
    fn control_characters_are_shown_not_sent() {
        assert_eq!(visible("plain é 漢\n", true), "plain é 漢\n");
        assert_eq!(visible("\u{1b}[2Jx\r\u{7}\u{9b}\t", true), "\\u001b[2Jx\\u000d\\u0007\\u009b\\u0009");
        assert_eq!(visible("one\ntwo", false), "one\\u000atwo");
        assert_eq!(Text::written("a\t\u{1b}b\n").into_string(), "a\t\\u001bb\n");
        // A name that reads from the right, and characters beyond 16 bits.
        assert_eq!(visible("a\u{202e}b\u{e0041}", true), "a\\u202eb\\udb40\\udc41");
    }

    #[test]
    fn what_is_shown_of_json_is_the_same_json() {
        let value = serde_json::json!({ "reason": "\u{1b}[31m\u{7f}\u{85}\u{202e}\u{e0041} é\n" });
        let shown = Text::from(format!("{value:#}")).into_string();
        assert!(!shown.contains(['\u{7f}', '\u{85}', '\u{202e}', '\u{e0041}']), "{shown:?}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&shown).unwrap(), value);
    }

    #[test]
    fn colours_are_for_screens_that_have_them() {
        assert_eq!(Text::toned(Tone::Good, "yes", Screen::default()).into_string(), "yes");
        assert_eq!(Text::toned(Tone::Plain, "yes", COLOURED).into_string(), "yes");
        assert_eq!(Text::toned(Tone::Good, "yes", COLOURED).into_string(), "\u{1b}[32myes\u{1b}[0m");
        // The end of a colour within the words ends nothing.
        let text = Text::toned(Tone::Bad, "no\u{1b}[0m\u{1b}[32myes", COLOURED).into_string();
        assert_eq!(text, "\u{1b}[1m\u{1b}[31mno\\u001b[0m\\u001b[32myes\u{1b}[0m");
    }

    proptest! {
        #[test]
        fn no_data_reaches_a_terminal_as_more_than_text(words in any::<String>(), more in "[\\x1b\\[0-9;mA-Z\u{9b}]*") {
            let mut text = Text::toned(Tone::Bad, &words, COLOURED);
            text.push(more);
            text.push(Text::toned(Tone::Heading, &words, COLOURED));
            let plain = without_colours(&text.into_string());
            prop_assert!(plain.chars().all(|c| c == '\n' || !c.is_control()), "{plain:?}");
        }
    }
}
