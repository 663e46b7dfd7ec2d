//! One line typed at a terminal: which bytes become the line, and what is echoed. No I/O.

/// What a byte did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Typed {
    /// Go on.
    More,
    /// The line is complete.
    Done,
    /// Ctrl-C.
    Interrupted,
}

/// A line as it is typed.
pub(super) struct LineEditor {
    line: Vec<u8>,
    limit: usize,
    echo: Vec<u8>,
}

impl LineEditor {
    /// At most `limit` bytes; what is typed beyond is neither kept nor echoed.
    pub(super) fn new(limit: usize) -> Self {
        Self { line: Vec::new(), limit, echo: Vec::new() }
    }

    /// Takes one byte.
    pub(super) fn byte(&mut self, byte: u8) -> Typed {
        match byte {
            b'\r' | b'\n' => {
                self.echo.extend_from_slice(b"\r\n");
                Typed::Done
            }
            // Ctrl-C.
            3 => {
                self.echo.extend_from_slice(b"^C\r\n");
                Typed::Interrupted
            }
            // Ctrl-D ends the input, as in a terminal's canonical mode.
            4 => Typed::Done,
            8 | 127 => {
                self.erase();
                Typed::More
            }
            // Ctrl-U.
            21 => {
                while !self.line.is_empty() {
                    self.erase();
                }
                Typed::More
            }
            // Other control characters would move the cursor.
            0..=31 => Typed::More,
            _ => {
                if self.line.len() < self.limit {
                    self.line.push(byte);
                    self.echo.push(byte);
                }
                Typed::More
            }
        }
    }

    /// Erases one character: a byte with all UTF-8 continuation bytes after it.
    fn erase(&mut self) {
        let before = self.line.len();
        while self.line.pop().is_some_and(|b| b & 0xc0 == 0x80) {}
        if self.line.len() < before {
            self.echo.extend_from_slice(b"\x08 \x08");
        }
    }

    /// What has to be written to the terminal now.
    pub(super) fn take_echo(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.echo)
    }

    /// The line.
    pub(super) fn into_line(self) -> Vec<u8> {
        self.line
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn type_in(limit: usize, keys: &str) -> (Typed, String, String) {
        let mut editor = LineEditor::new(limit);
        let mut last = Typed::More;
        for byte in keys.bytes() {
            last = editor.byte(byte);
            if last != Typed::More {
                break;
            }
        }
        let echo = String::from_utf8(editor.take_echo()).unwrap();
        (last, String::from_utf8(editor.into_line()).unwrap(), echo)
    }

    #[test]
    fn typing_is_echoed_and_can_be_corrected() {
        assert_eq!(type_in(9, "yes\r"), (Typed::Done, "yes".into(), "yes\r\n".into()));
        assert_eq!(type_in(9, "né\x7fo\n").1, "no");
        assert_eq!(type_in(9, "\x7f\x7fok\r").2, "ok\r\n");
        assert_eq!(type_in(9, "wrong\x15ok\r").1, "ok");
        assert_eq!(type_in(3, "12345\r").1, "123");
        assert_eq!(type_in(9, "y\x1b[A\r").1, "y[A", "escape sequences do not reach the terminal as such");
        assert_eq!(type_in(9, "y\x03").0, Typed::Interrupted);
        assert_eq!(type_in(9, "\x04"), (Typed::Done, String::new(), String::new()));
    }
}
