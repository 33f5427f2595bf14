//! Makes text from a file safe to print: terminals execute control characters, and directional
//! characters change the order in which a line is displayed.

use std::borrow::Cow;

/// The text on one line: control and directional characters as `\u001b`, and after `max_chars`
/// characters of the text only the number of the rest.
///
/// The escapes are those of JSON, so that escaping a whole JSON document leaves it valid.
pub fn inline(text: &str, max_chars: usize) -> String {
    let (shown, cut) = match text.char_indices().nth(max_chars) {
        Some((end, _)) => text.split_at(end),
        None => (text, ""),
    };
    let mut safe = escape(shown, is_unsafe).into_owned();
    if !cut.is_empty() {
        safe.push_str(&format!("... ({} more characters)", cut.chars().count()));
    }
    safe
}

/// The text with its line breaks and tabs, and everything else that [`inline`] escapes escaped.
pub fn lines(text: &str) -> Cow<'_, str> {
    escape(text, |c| is_unsafe(c) && !matches!(c, '\n' | '\t'))
}

fn escape(text: &str, is_unsafe: impl Fn(char) -> bool) -> Cow<'_, str> {
    if !text.contains(&is_unsafe) {
        return Cow::Borrowed(text);
    }
    let mut safe = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if is_unsafe(c) {
            safe.push_str(&format!("\\u{:04x}", u32::from(c)));
        } else {
            safe.push(c);
        }
    }
    Cow::Owned(safe)
}

/// Control characters (C0, DEL and C1), separators of lines and paragraphs, and the marks,
/// embeddings, overrides and isolates of Unicode's bidirectional algorithm.
fn is_unsafe(c: char) -> bool {
    c.is_control()
        || matches!(
            c,
            '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}'
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_terminal_would_obey_is_escaped() {
        for (text, safe) in [
            ("größer 猫 \"a\\b\"", "größer 猫 \"a\\b\""),
            ("\x1b[31mred\x07", "\\u001b[31mred\\u0007"),
            ("a\r\nb\tc\x7f", "a\\u000d\\u000ab\\u0009c\\u007f"),
            ("\u{9b}2J\u{85}", "\\u009b2J\\u0085"),
            ("\u{202e}txt\u{2066}\u{200f}", "\\u202etxt\\u2066\\u200f"),
            ("\u{2028}\u{2029}\u{61c}", "\\u2028\\u2029\\u061c"),
        ] {
            assert_eq!(inline(text, 100), safe);
        }
    }

    #[test]
    fn long_text_is_cut_between_characters() {
        assert_eq!(inline("größer", 6), "größer");
        assert_eq!(inline("größer", 3), "grö... (3 more characters)");
        assert_eq!(inline(&"x".repeat(70_000), 0), "... (70000 more characters)");
    }

    #[test]
    fn lines_stay_lines_and_json_stays_json() {
        assert_eq!(lines("a\tb\n\x1bc\r\n"), "a\tb\n\\u001bc\\u000d\n");
        let value = serde_json::json!({ "name": "\u{202e}\u{9b}\x1b\n" });
        let text = lines(&value.to_string()).into_owned();
        assert!(!text.contains(['\u{202e}', '\u{9b}', '\x1b']), "{text}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&text).unwrap(), value);
    }
}
