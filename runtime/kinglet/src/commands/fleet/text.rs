//! What devices say, fit for a terminal: it may be anything.

use std::time::Duration;

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// A line of at most `most` characters without anything that a terminal would act on.
pub(crate) fn plain(text: &str, most: usize) -> String {
    let shown = |c: char| if acts(c) { '\u{fffd}' } else { c };
    let mut line: String = text.chars().take(most).map(shown).collect();
    if text.chars().nth(most).is_some() {
        line.pop();
        line.push('…');
    }
    line
}

/// Control characters, and those that change the direction of writing.
fn acts(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// How long ago this RFC 3339 time was; none if it is none. What is to come is now: clocks differ.
pub(crate) fn since(at: &str, now: OffsetDateTime) -> Option<Duration> {
    let at = OffsetDateTime::parse(at, &Rfc3339).ok()?;
    Some((now - at).try_into().unwrap_or_default())
}

/// A length of time in the unit that suits it.
pub(crate) fn length(time: Duration) -> String {
    let seconds = time.as_secs();
    match seconds {
        0..10 => format!("{:.1} s", time.as_secs_f64()),
        10..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        7200..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} d", seconds / 86_400),
    }
}

/// Columns, as wide as they must be; the first row is the head.
pub(crate) fn columns(rows: &[Vec<String>]) -> Vec<String> {
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let most = rows.iter().map(Vec::len).max().unwrap_or(0);
    let widths: Vec<usize> = (0..most).map(width).collect();
    let line = |row: &Vec<String>| {
        let cells = row.iter().zip(&widths);
        let padded: Vec<String> = cells.map(|(cell, w)| format!("{cell:w$}")).collect();
        padded.join("  ").trim_end().to_owned()
    };
    rows.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_a_terminal_acts_on_gets_through() {
        assert_eq!(
            plain("\u{1b}[2Jred\n\u{202e}x", 99),
            "\u{fffd}[2Jred\u{fffd}\u{fffd}x"
        );
        assert_eq!(plain("a red circle", 5), "a re…");
        assert_eq!(plain("a red", 5), "a red");
    }

    #[test]
    fn times_that_are_none_or_to_come_do_no_harm() {
        let now = OffsetDateTime::UNIX_EPOCH + Duration::from_secs(90);
        let length_of = |at| since(at, now).map(length);
        assert_eq!(length_of("1970-01-01T00:00:00Z").as_deref(), Some("90 s"));
        assert_eq!(length_of("1999-01-01T00:00:00Z").as_deref(), Some("0.0 s"));
        assert_eq!(length_of("yesterday"), None);
    }
}
