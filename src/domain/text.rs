//! What text may hold that people will read.

/// Whether a character does something to a terminal instead of being seen on it: control characters, and those that are
/// not seen or that turn the direction of what follows (CVE-2021-42574).
#[must_use]
pub fn is_unseen(c: char) -> bool {
    // Most text is ASCII, which is seen from the space on.
    if c.is_ascii() { c.is_ascii_control() } else { c.is_control() || is_format(c) }
}

/// Characters of Unicode's category Cf (format), and the separators of lines and paragraphs.
fn is_format(c: char) -> bool {
    matches!(c,
        '\u{ad}' | '\u{600}'..='\u{605}' | '\u{61c}' | '\u{6dd}' | '\u{70f}' | '\u{890}'..='\u{891}' | '\u{8e2}'
        | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}'
        | '\u{fff9}'..='\u{fffb}' | '\u{110bd}' | '\u{110cd}' | '\u{13430}'..='\u{1343f}' | '\u{1bca0}'..='\u{1bca3}'
        | '\u{1d173}'..='\u{1d17a}' | '\u{e0001}' | '\u{e0020}'..='\u{e007f}'
    )
}

/// Words that somebody else chose as one line of so many characters at most: what is unseen becomes a space, and so do
/// several spaces.
#[must_use]
pub fn one_line(text: &str, limit: usize) -> String {
    let seen: String = text.chars().map(|c| if is_unseen(c) { ' ' } else { c }).collect();
    let words = seen.split_whitespace().collect::<Vec<_>>().join(" ");
    match words.char_indices().nth(limit) {
        Some((end, _)) => format!("{}…", words[..end].trim_end()),
        None => words,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_is_what_becomes_of_anything() {
        assert_eq!(one_line(" quota\texceeded:\r\n\u{1b}[31m\u{202e}40 of 32\0", 100), "quota exceeded: [31m 40 of 32");
        assert_eq!(one_line("\n\u{7}", 100), "");
        assert_eq!(one_line("ééé ééé", 3), "ééé…");
        assert_eq!(one_line("ééé ééé", 4), "ééé…");
        assert_eq!(one_line("ééé ééé", 7), "ééé ééé");
    }
}
