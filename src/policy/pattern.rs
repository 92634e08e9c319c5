//! `*` and `?`.

/// `*` and `?` in an encoded pattern: bytes that UTF-8 never has.
pub(super) const ANY: u8 = 0xff;
pub(super) const ONE: u8 = 0xfe;

/// What policies write for the random suffix that AWS appends to a secret's ARN.
const SUFFIX: &str = "-??????";

/// Whether `pattern` has a wildcard at all.
pub(super) fn is_wild(pattern: &str) -> bool {
    pattern.contains(['*', '?'])
}

/// Whether `text` as a whole matches `pattern`: `*` is any run of characters, `?` any one character, everything
/// else itself. No allocation; at most pattern × text steps.
pub(super) fn glob(pattern: &str, text: &str) -> bool {
    run(pattern.as_bytes(), text.as_bytes(), (b'*', b'?'))
}

/// Whether two ARN patterns' segments (split at the first five colons) match one by one.
pub(super) fn glob_arn(pattern: &str, arn: &str) -> bool {
    let (mut p, mut a) = (pattern.splitn(6, ':'), arn.splitn(6, ':'));
    loop {
        match (p.next(), a.next()) {
            (None, None) => return true,
            (Some(p), Some(a)) if glob(p, a) => {}
            _ => return false,
        }
    }
}

/// As [`glob`], for a pattern whose wildcards are [`ANY`] and [`ONE`], and whose `*` and `?` are themselves.
pub(super) fn glob_encoded(pattern: &[u8], text: &str) -> bool {
    run(pattern, text.as_bytes(), (ANY, ONE))
}

/// As [`glob_arn`], for an encoded pattern.
pub(super) fn glob_arn_encoded(pattern: &[u8], arn: &str) -> bool {
    let mut p = pattern.splitn(6, |b| *b == b':');
    let mut a = arn.splitn(6, ':');
    loop {
        match (p.next(), a.next()) {
            (None, None) => return true,
            (Some(p), Some(a)) if glob_encoded(p, a) => {}
            _ => return false,
        }
    }
}

/// `text` without a literal `-??????` at its end, with which policies allow for AWS's random suffix.
pub(super) fn strip_suffix(text: &str) -> Option<&str> {
    text.strip_suffix(SUFFIX)
}

/// As [`strip_suffix`], of an encoded pattern.
pub(super) fn strip_suffix_encoded(pattern: &[u8]) -> Option<&[u8]> {
    pattern.strip_suffix(&[b'-', ONE, ONE, ONE, ONE, ONE, ONE])
}

/// Whether two texts are equal but for case.
pub(super) fn eq_ignore_case(a: &str, b: &str) -> bool {
    a.chars()
        .flat_map(char::to_lowercase)
        .eq(b.chars().flat_map(char::to_lowercase))
}

/// Whether some text matches both patterns, where the `*` of `b` stands for no colon.
pub(super) fn overlap(a: &str, b: &str) -> bool {
    let b: Vec<char> = b.chars().collect();
    // What of `b` can be matched by what of `a` was seen: by none of it, only stars.
    let mut reached: Vec<bool> = vec![true];
    reached.extend(b.iter().scan(true, |stars, c| {
        *stars &= *c == '*';
        Some(*stars)
    }));
    for c in a.chars() {
        let mut next = vec![c == '*' && reached[0]];
        for (j, d) in b.iter().enumerate() {
            next.push(match (c, *d) {
                ('*', _) => reached[j + 1] || next[j],
                (c, '*') => c != ':' && reached[j + 1] || next[j],
                ('?', _) | (_, '?') => reached[j],
                (c, d) => reached[j] && c == d,
            });
        }
        reached = next;
    }
    reached.last() == Some(&true)
}

/// The classic two-pointer match that returns to the last `*` on a mismatch.
fn run(pattern: &[u8], text: &[u8], (any, one): (u8, u8)) -> bool {
    let (mut p, mut t) = (0, 0);
    let mut back: Option<(usize, usize)> = None;
    loop {
        match pattern.get(p) {
            Some(&c) if c == any => {
                p += 1;
                back = Some((p, t));
                continue;
            }
            Some(&c) if c == one && t < text.len() => {
                p += 1;
                t = next_char(text, t);
                continue;
            }
            Some(&c) if t < text.len() && c == text[t] => {
                p += 1;
                t += 1;
                continue;
            }
            None if t == text.len() => return true,
            _ => {}
        }
        match back {
            Some((star, from)) if from < text.len() => {
                let from = next_char(text, from);
                back = Some((star, from));
                (p, t) = (star, from);
            }
            _ => return false,
        }
    }
}

/// The index after the character that begins at `i`.
fn next_char(text: &[u8], i: usize) -> usize {
    let mut i = i + 1;
    while text.get(i).is_some_and(|b| b & 0xc0 == 0x80) {
        i += 1;
    }
    i
}
