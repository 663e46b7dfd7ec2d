//! What somebody at a terminal sees while an answer is long in coming. No clock: whoever waits says when a second is over.

/// A line that says that something is going on, written over itself.
#[derive(Clone, Copy, Debug, Default)]
pub struct Waiting {
    seconds: u32,
    /// How many columns of the terminal it takes.
    columns: usize,
}

impl Waiting {
    /// What to write when one more second is over.
    pub fn second(&mut self) -> String {
        self.seconds += 1;
        let line = format!("still working… {} s", self.seconds);
        self.columns = line.chars().count();
        format!("\r{line}")
    }

    /// What takes it away when the answer is there; nothing if that was within the first second.
    #[must_use]
    pub fn over(&self) -> String {
        // Spaces, which every terminal has, rather than an escape sequence.
        if self.columns == 0 { String::new() } else { format!("\r{}\r", " ".repeat(self.columns)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quick_answer_shows_nothing_and_a_slow_one_leaves_nothing() {
        let mut waiting = Waiting::default();
        assert_eq!(waiting.over(), "");
        assert_eq!(waiting.second(), "\rstill working… 1 s");
        let last = (1..10).map(|_| waiting.second()).last().unwrap();
        assert_eq!(last, "\rstill working… 10 s");
        assert_eq!(waiting.over(), format!("\r{}\r", " ".repeat(last.chars().count() - 1)));
    }
}
