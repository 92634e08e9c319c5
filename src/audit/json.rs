//! Hand-written JSON: what a record is made of, without allocation and without a way to forge a line.

use crate::clock::Timestamp;
use crate::id::is_invisible;

/// Appends `n` in decimal.
pub(super) fn number(out: &mut Vec<u8>, mut n: u64) {
    let mut digits = [0u8; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (n % 10) as u8;
        n /= 10;
        if n == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

/// Appends `text` as a JSON string. What could end the string, and what is invisible, is escaped.
pub(super) fn string(out: &mut Vec<u8>, text: &str) {
    out.push(b'"');
    let bytes = text.as_bytes();
    if bytes.iter().all(|&b| plain(b)) {
        out.extend_from_slice(bytes);
    } else {
        for c in text.chars() {
            character(out, c);
        }
    }
    out.push(b'"');
}

/// As [`string`], of at most `most` bytes between the quotes: a longer one is cut between two characters, and ends in
/// [`CUT`].
pub(super) fn clipped(out: &mut Vec<u8>, text: &str, most: usize) {
    if text.len() <= most && text.bytes().all(plain) {
        return string(out, text);
    }
    out.push(b'"');
    let start = out.len();
    let mut kept = start;
    for c in text.chars() {
        character(out, c);
        let len = out.len() - start;
        if len > most {
            out.truncate(kept);
            out.extend_from_slice(CUT.as_bytes());
            break;
        }
        if len + CUT.len() <= most {
            kept = out.len();
        }
    }
    out.push(b'"');
}

/// Where a text was cut.
pub(super) const CUT: &str = "\u{2026}[cut]";

/// Appends any bytes as a JSON string; what is not UTF-8 becomes U+FFFD.
pub(super) fn bytes(out: &mut Vec<u8>, text: &[u8]) {
    if text.iter().all(|&b| plain(b)) {
        out.push(b'"');
        out.extend_from_slice(text);
        out.push(b'"');
        return;
    }
    out.push(b'"');
    for chunk in text.utf8_chunks() {
        for c in chunk.valid().chars() {
            character(out, c);
        }
        if !chunk.invalid().is_empty() {
            character(out, char::REPLACEMENT_CHARACTER);
        }
    }
    out.push(b'"');
}

fn plain(b: u8) -> bool {
    (0x20..0x7f).contains(&b) && b != b'"' && b != b'\\'
}

fn character(out: &mut Vec<u8>, c: char) {
    match c {
        '"' => out.extend_from_slice(b"\\\""),
        '\\' => out.extend_from_slice(b"\\\\"),
        '\n' => out.extend_from_slice(b"\\n"),
        '\t' => out.extend_from_slice(b"\\t"),
        c if is_invisible(c) => {
            for unit in c.encode_utf16(&mut [0; 2]) {
                escape(out, *unit);
            }
        }
        c => out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
    }
}

fn escape(out: &mut Vec<u8>, code: u16) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    out.extend_from_slice(b"\\u");
    for shift in [12, 8, 4, 0] {
        out.push(HEX[usize::from(code >> shift) & 15]);
    }
}

/// RFC 3339 in UTC with microseconds; the text of the second is kept, because records come many to a second.
#[derive(Default)]
pub(super) struct TimeText {
    second: i64,
    /// `2026-11-25T08:30:00.`, or empty.
    text: String,
}

impl TimeText {
    /// Appends `time`, without quotes.
    pub(super) fn write(&mut self, out: &mut Vec<u8>, time: Timestamp) {
        let second = time.0.div_euclid(1_000_000);
        if self.second != second || self.text.is_empty() {
            let whole = Timestamp(second * 1_000_000).to_string();
            match whole.strip_suffix("000000Z") {
                Some(prefix) => self.text = prefix.into(),
                // Beyond the years that have a calendar.
                None => return out.extend_from_slice(whole.as_bytes()),
            }
            self.second = second;
        }
        out.extend_from_slice(self.text.as_bytes());
        let mut micros = time.0.rem_euclid(1_000_000) as u32;
        let mut digits = *b"000000Z";
        for digit in digits[..6].iter_mut().rev() {
            *digit = b'0' + (micros % 10) as u8;
            micros /= 10;
        }
        out.extend_from_slice(&digits);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_text_comes_back_and_stays_on_its_line() {
        for text in [
            "",
            "plain",
            "a\"b\\c",
            "\n\r\t\0\x1b[2J\x7f",
            "\u{85}\u{2028}\u{202e}é漢🦀",
            "\u{feff}\u{200b}\u{e0041}",
        ] {
            let mut out = Vec::new();
            string(&mut out, text);
            let shown = String::from_utf8(out.clone()).unwrap();
            assert!(
                !shown
                    .chars()
                    .any(|c| is_invisible(c) || ('\u{2028}'..='\u{202e}').contains(&c)),
                "{shown}"
            );
            assert_eq!(serde_json::from_slice::<String>(&out).unwrap(), text);
            out.clear();
            bytes(&mut out, text.as_bytes());
            assert_eq!(serde_json::from_slice::<String>(&out).unwrap(), text);
        }
        let mut out = Vec::new();
        bytes(&mut out, b"a\xff\xc3\nb");
        assert_eq!(out, "\"a\u{fffd}\u{fffd}\\nb\"".as_bytes());
    }

    #[test]
    fn numbers_and_times_are_written_as_the_library_writes_them() {
        let mut cache = TimeText::default();
        for n in [0, 9, 10, u64::MAX] {
            let mut out = Vec::new();
            number(&mut out, n);
            assert_eq!(out, n.to_string().as_bytes());
        }
        for t in [
            0,
            1,
            999_999,
            1_000_000,
            1_795_595_400_123_456,
            1_795_595_400_000_001,
            -1,
            -1_000_001,
        ] {
            let mut out = Vec::new();
            cache.write(&mut out, Timestamp(t));
            assert_eq!(String::from_utf8(out).unwrap(), Timestamp(t).to_string());
        }
        let mut out = Vec::new();
        cache.write(&mut out, Timestamp(i64::MAX));
        assert!(out.ends_with(b"us"));
    }
}
