//! Tables, as wide as the terminal at most.

use std::sync::atomic::{AtomicUsize, Ordering};

use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

/// Columns of the terminal; 0 where there is none, and a line may be as long as it is.
static COLUMNS: AtomicUsize = AtomicUsize::new(0);

/// From now on tables fit the terminal of standard output. COLUMNS says how wide that is, or the terminal itself.
pub fn fit_terminal() {
    let told = std::env::var("COLUMNS").ok().and_then(|c| c.parse().ok());
    let asked = || {
        Some(usize::from(
            terminal_size::terminal_size_of(std::io::stdout())?.0.0,
        ))
    };
    COLUMNS.store(told.or_else(asked).unwrap_or(0), Ordering::Relaxed);
}

/// Rows under a heading, in columns two spaces apart; no space at the end of a line. Where that is wider than the
/// terminal, each row is a paragraph.
pub fn table(head: &[&str], rows: &[Vec<String>]) -> String {
    within(head, rows, COLUMNS.load(Ordering::Relaxed))
}

fn within(head: &[&str], rows: &[Vec<String>], columns: usize) -> String {
    let mut widths: Vec<usize> = head.iter().map(|h| h.width()).collect();
    for row in rows {
        for (w, cell) in widths.iter_mut().zip(row) {
            *w = (*w).max(cell.width());
        }
    }
    let line = |cells: &mut dyn Iterator<Item = &str>| {
        let mut text = String::new();
        for (cell, w) in cells.zip(&widths) {
            text += cell;
            text.extend(std::iter::repeat_n(' ', w - cell.width() + 2));
        }
        text.trim_end().to_owned() + "\n"
    };
    let mut text = line(&mut head.iter().copied());
    for row in rows {
        text += &line(&mut row.iter().map(String::as_str));
    }
    match columns > 0 && text.lines().any(|l| l.width() > columns) {
        true => paragraphs(head, rows, columns),
        false => text,
    }
}

/// The first cell, and below it the others with their headings; what is too long goes on in the next line.
fn paragraphs(head: &[&str], rows: &[Vec<String>], columns: usize) -> String {
    let width = head.iter().skip(1).map(|h| h.width()).max().unwrap_or(0);
    let mut text = String::new();
    for row in rows {
        let cells = head.iter().zip(row).enumerate();
        for (i, (title, cell)) in cells.filter(|(_, (_, cell))| !cell.is_empty()) {
            let begin = match i {
                0 => String::new(),
                _ => format!(
                    "  {}{}  ",
                    title.to_lowercase(),
                    " ".repeat(width - title.width())
                ),
            };
            let indent = format!("\n{}", " ".repeat(begin.width().max(2)));
            // Room for the indent of the lines that follow the first.
            let room = columns.saturating_sub(begin.width().max(2)).max(8);
            text += &begin;
            text += &broken(cell, room).join(&indent);
            text.push('\n');
        }
    }
    text
}

/// Pieces of at most `width` columns, at spaces where there are any.
fn broken(text: &str, width: usize) -> Vec<String> {
    let (mut lines, mut line) = (Vec::new(), String::new());
    for word in text.split(' ') {
        if !line.is_empty() {
            match line.width() + 1 + word.width() <= width {
                true => line.push(' '),
                false => lines.push(std::mem::take(&mut line)),
            }
        }
        for c in word.chars() {
            if line.width() + c.width().unwrap_or(0) > width {
                lines.push(std::mem::take(&mut line));
            }
            line.push(c);
        }
    }
    lines.push(line);
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(rows: &[&[&str]]) -> Vec<Vec<String>> {
        let row = |r: &&[&str]| r.iter().map(ToString::to_string).collect();
        rows.iter().map(row).collect()
    }

    #[test]
    fn tables_line_up_and_end_without_spaces() {
        let rows = rows(&[&["a", "ü", "x"], &["long", "b", ""]]);
        assert_eq!(
            table(&["NAME", "V", "D"], &rows),
            "NAME  V  D\na     ü  x\nlong  b\n"
        );
    }

    #[test]
    fn wide_characters_take_two_columns() {
        let rows = rows(&[&["漢字", "x"], &["abc", "y"]]);
        assert_eq!(within(&["N", "V"], &rows, 0), "N     V\n漢字  x\nabc   y\n");
    }

    #[test]
    fn a_table_that_is_too_wide_becomes_paragraphs_that_fit() {
        let id = "0f0e3b0c-8a54-4f31-b7fd-1f4c0a8a1c11";
        let words = "words that go on and on 漢字漢字, more than a line";
        let rows = rows(&[&["app/a", id, words], &["b", id, ""]]);
        let head = ["NAME", "VERSION", "DESCRIPTION"];
        assert!(within(&head, &rows, 0).starts_with("NAME   VERSION"));
        for columns in [60, 40, 24] {
            let text = within(&head, &rows, columns);
            assert!(text.lines().all(|l| l.width() <= columns), "{columns}:\n{text}");
            let joined: String = text.split_whitespace().collect();
            assert!(
                joined.contains("morethanaline") && joined.contains(&id[..8]),
                "nothing is lost: {text}"
            );
        }
        assert!(within(&head, &rows, 60).starts_with("app/a\n  version      0f0e3b0c"));
    }
}
