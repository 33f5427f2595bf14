//! The program's output: text on standard output, and on a terminal a progress bar on standard
//! error.

use std::{
    fmt::Display,
    io::{self, IsTerminal, Write},
    path::Path,
    time::Duration,
};

use indicatif::{ProgressBar, ProgressStyle};

use tilewise::{
    error::{Error, Result},
    printable,
};

/// How often a bar is redrawn at most.
const TICK: Duration = Duration::from_millis(100);

/// Longest error or warning that is shown, in characters.
const MAX_MESSAGE_CHARS: usize = 8000;
/// Longest name or value from a file that is shown.
const MAX_NAME_CHARS: usize = 256;
/// Longest path that is shown; Linux has none that is longer.
const MAX_PATH_CHARS: usize = 4096;

/// Writes lines to standard output; a reader that closed it early is not an error. Control characters
/// from a file or a file name are escaped, as in JSON.
///
/// # Errors
/// [`Error::Io`] if standard output cannot be written.
pub(super) fn print(text: &str) -> Result<()> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(printable::lines(text).as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Error::io("write to", "standard output")(error))
        }
        _ => Ok(()),
    }
}

/// Writes an error to standard error, as one line.
pub(super) fn error(error: impl Display) {
    complain(&format_args!("error: {}", printable::inline(&error.to_string(), MAX_MESSAGE_CHARS)));
}

/// Writes a line to standard error. An error is ignored, as after a terminal was closed: the program
/// must still finish its work.
pub(super) fn complain(message: &dyn Display) {
    let _ = writeln!(io::stderr(), "{message}");
}

/// Writes a warning to standard error, as one line.
pub(super) fn warn(warning: impl Display) {
    complain(&format_args!(
        "warning: {}",
        printable::inline(&warning.to_string(), MAX_MESSAGE_CHARS)
    ));
}

/// A name or a value from a file as part of a line: of a class, a run, a setting.
pub(super) fn name(text: &str) -> String {
    printable::inline(text, MAX_NAME_CHARS)
}

/// A path as part of a line.
pub(super) fn path(path: &Path) -> String {
    printable::inline(&path.to_string_lossy(), MAX_PATH_CHARS)
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

    /// Starts a bar for `images` images, if standard error is a terminal.
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

    /// Moves the bar to `images` images; `message` is only called for a bar.
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

/// A number with `places` decimal places, or with an exponent if it is large.
pub(super) fn decimal(number: f64, places: usize) -> String {
    if number.is_finite() && number.abs() >= 1e6 {
        format!("{number:.3e}")
    } else {
        format!("{number:.places$}")
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
    fn large_numbers_have_exponents() {
        let cases = [(0.12345, "0.1235"), (-999_999.5, "-999999.5000"), (1e6, "1.000e6")];
        for (number, text) in cases.into_iter().chain([(-1e300, "-1.000e300"), (f64::NAN, "NaN")]) {
            assert_eq!(decimal(number, 4), text);
        }
    }

    #[test]
    fn thousands_have_commas() {
        let cases = [(0.0, "0"), (999.4, "999"), (999.6, "1,000"), (1234567.0, "1,234,567")];
        for (number, text) in cases {
            assert_eq!(thousands(number), text);
        }
    }
}
