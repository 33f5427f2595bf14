//! What the program tells people: text on standard output, and on a terminal a progress bar on
//! standard error.

use std::{
    fmt::Display,
    io::{self, IsTerminal, Write},
    time::Duration,
};

use indicatif::{ProgressBar, ProgressStyle};

use tilewise::error::{Error, Result};

/// How often a bar is redrawn at most.
const TICK: Duration = Duration::from_millis(100);

/// Writes to standard output; a reader that closed it early is no error.
///
/// # Errors
/// [`Error::Io`] if standard output cannot be written.
pub(super) fn print(text: &str) -> Result<()> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Error::io("write to", "standard output")(error))
        }
        _ => Ok(()),
    }
}

/// Lines about a long piece of work, and a bar that counts its items.
pub(super) struct Console {
    quiet: bool,
    bar: Option<ProgressBar>,
}

impl Console {
    /// Lines, unless `quiet`.
    pub(super) fn new(quiet: bool) -> Self {
        Self { quiet, bar: None }
    }

    /// Starts a bar for `images` pictures, if standard error is a terminal.
    pub(super) fn start_bar(&mut self, images: u64) {
        if self.quiet || !io::stderr().is_terminal() {
            return;
        }
        let bar = ProgressBar::new(images);
        let template = "{msg} {wide_bar:.cyan/blue} {percent:>3} %  {per_sec} images/s  {eta} left";
        if let Ok(style) = ProgressStyle::with_template(template) {
            let per_second = |state: &indicatif::ProgressState, text: &mut dyn std::fmt::Write| {
                // A bar that cannot be drawn is not worth an error.
                let _ = text.write_str(&thousands(state.per_sec()));
            };
            bar.set_style(style.with_key("per_sec", per_second));
        }
        bar.enable_steady_tick(TICK);
        self.bar = Some(bar);
    }

    /// Moves the bar to `images` pictures; `message` is only called for a bar.
    pub(super) fn progress<M: Display>(&self, images: u64, message: impl FnOnce() -> M) {
        if let Some(bar) = &self.bar {
            bar.set_position(images);
            bar.set_message(message().to_string());
        }
    }

    /// Removes the bar.
    pub(super) fn finish_bar(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }

    /// Prints a line, unless quiet.
    ///
    /// # Errors
    /// [`Error::Io`] if standard output cannot be written.
    pub(super) fn line(&self, line: impl Display) -> Result<()> {
        if self.quiet {
            return Ok(());
        }
        let print = || print(&format!("{line}\n"));
        match &self.bar {
            Some(bar) => bar.suspend(print),
            None => print(),
        }
    }
}

/// A whole number with commas between the thousands: 12,345.
pub(super) fn thousands(number: f64) -> String {
    let digits = format!("{number:.0}");
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thousands_have_commas() {
        let cases = [(0.0, "0"), (999.4, "999"), (999.6, "1,000"), (1234567.0, "1,234,567")];
        for (number, text) in cases {
            assert_eq!(thousands(number), text);
        }
    }
}
