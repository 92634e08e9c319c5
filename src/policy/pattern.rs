//! `*` and `?`.

/// Stands in a subject for one character of the random suffix that AWS appends to a secret's ARN.
const RANDOM: u8 = 0;

/// Characters of that suffix, after its hyphen.
const SUFFIX: usize = 6;

/// Whether `pattern` has a wildcard at all.
pub(super) fn is_wild(pattern: &str) -> bool {
    pattern.contains(['*', '?'])
}

/// Whether `text` as a whole matches `pattern`: `*` is any run of characters, `?` any one character, everything
/// else itself. No allocation; at most pattern × text steps.
pub(super) fn glob(pattern: &str, text: &str) -> bool {
    run(pattern.as_bytes(), text.as_bytes(), |p, t| p == t)
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

/// Whether `pattern` matches `text`, or `text` with some suffix that AWS could have appended to it.
pub(super) fn glob_suffixed(pattern: &str, text: &str) -> bool {
    let mut subject = text.as_bytes().to_vec();
    subject.push(b'-');
    subject.extend([RANDOM; SUFFIX]);
    glob(pattern, text)
        || run(pattern.as_bytes(), &subject, |p, t| {
            p == t && t != RANDOM || t == RANDOM && p.is_ascii_alphanumeric()
        })
}

/// `text` without a suffix that AWS could have appended; `None` if there is none.
pub(super) fn strip_suffix(text: &str) -> Option<&str> {
    let (head, tail) = text.split_at_checked(text.len().checked_sub(SUFFIX + 1)?)?;
    let random = tail.strip_prefix('-')?;
    random.bytes().all(|b| b.is_ascii_alphanumeric()).then_some(head)
}

/// Whether two texts are equal but for case.
pub(super) fn eq_ignore_case(a: &str, b: &str) -> bool {
    a.chars()
        .flat_map(char::to_lowercase)
        .eq(b.chars().flat_map(char::to_lowercase))
}

/// The classic two-pointer match that returns to the last `*` on a mismatch.
fn run(pattern: &[u8], text: &[u8], same: impl Fn(u8, u8) -> bool) -> bool {
    let (mut p, mut t) = (0, 0);
    let mut back: Option<(usize, usize)> = None;
    loop {
        match pattern.get(p) {
            Some(b'*') => {
                p += 1;
                back = Some((p, t));
                continue;
            }
            Some(b'?') if t < text.len() => {
                p += 1;
                t = next_char(text, t);
                continue;
            }
            Some(&c) if t < text.len() && c != b'?' && same(c, text[t]) => {
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
