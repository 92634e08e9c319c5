//! Numbers, instants, addresses and bytes as conditions compare them.

use std::net::IpAddr;

use super::json::Text;
use super::operator::{Comparison, Order};
use super::pattern::eq_ignore_case;
use super::template::Template;

/// A value that a request has under a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Value<'a> {
    Text(&'a str),
    Number(i64),
    /// Seconds since 1970.
    Instant(i64),
    Flag(bool),
}

/// A decimal number as billionths.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Decimal(i128);

const FRACTION: usize = 9;

impl Decimal {
    fn whole(n: i64) -> Decimal {
        Decimal(i128::from(n) * 10i128.pow(FRACTION as u32))
    }

    /// A sign, at most 18 digits, and at most 9 after a point; nothing else is a number.
    pub fn parse(text: &str) -> Option<Decimal> {
        let (sign, digits) = match text.strip_prefix('-') {
            Some(rest) => (-1, rest),
            None => (1, text.strip_prefix('+').unwrap_or(text)),
        };
        let (whole, fraction) = digits.split_once('.').unwrap_or((digits, "0"));
        let number = |s: &str, most: usize| {
            let fits = (1..=most).contains(&s.len()) && s.bytes().all(|b| b.is_ascii_digit());
            fits.then(|| s.parse::<i128>().ok()).flatten()
        };
        let unit = 10i128.pow(FRACTION as u32);
        let below = number(fraction, FRACTION)? * 10i128.pow((FRACTION - fraction.len()) as u32);
        Some(Decimal(sign * (number(whole, 18)? * unit + below)))
    }
}

/// An instant in microseconds since 1970: an ISO 8601 date (its midnight in UTC), a date and time with its zone, or
/// seconds since 1970.
pub(super) fn parse_instant(text: &str) -> Option<i64> {
    if let Some(n) = Decimal::parse(text) {
        return i64::try_from(n.0 / 1000).ok();
    }
    let bytes = text.as_bytes();
    let shaped = bytes.len() >= 10 && bytes[4] == b'-' && bytes[7] == b'-';
    if !shaped {
        return None;
    }
    if bytes.len() == 10 {
        let date: jiff::civil::Date = text.parse().ok()?;
        let midnight = jiff::tz::TimeZone::UTC.to_timestamp(date.at(0, 0, 0, 0)).ok()?;
        return Some(midnight.as_microsecond());
    }
    // RFC 9557's annotations are none of ISO 8601.
    if bytes[10] != b'T' || text.contains('[') {
        return None;
    }
    text.parse::<jiff::Timestamp>().ok().map(|t| t.as_microsecond())
}

/// A range of addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Net {
    base: IpAddr,
    prefix: u8,
}

impl Net {
    /// `192.0.2.0/24`, `2001:db8::/32`, or one address; bits beyond the prefix do not count, as in AWS.
    pub fn parse(text: &str) -> Option<Net> {
        let (base, prefix) = match text.split_once('/') {
            Some((base, prefix)) => (base, Some(prefix)),
            None => (text, None),
        };
        let base: IpAddr = base.parse().ok()?;
        let most = if base.is_ipv4() { 32 } else { 128 };
        let prefix = match prefix {
            None => most,
            Some(p) if !p.is_empty() && p.len() <= 3 && p.bytes().all(|b| b.is_ascii_digit()) => {
                p.parse().ok()?
            }
            Some(_) => return None,
        };
        (prefix <= most).then_some(Net { base, prefix })
    }

    pub fn contains(&self, address: IpAddr) -> bool {
        let same = |a: u128, b: u128, width: u8| {
            // All 128 bits shifted out are none that could differ.
            (a ^ b).checked_shr(u32::from(width - self.prefix)).unwrap_or(0) == 0
        };
        match (self.base, address) {
            (IpAddr::V4(a), IpAddr::V4(b)) => same(u32::from(a).into(), u32::from(b).into(), 32),
            (IpAddr::V6(a), IpAddr::V6(b)) => same(a.into(), b.into(), 128),
            _ => false,
        }
    }
}

pub(super) fn parse_binary(text: &str) -> Option<Vec<u8>> {
    data_encoding::BASE64.decode(text.as_bytes()).ok()
}

pub(super) fn parse_bool(text: &str) -> Option<bool> {
    match text {
        _ if text.eq_ignore_ascii_case("true") => Some(true),
        _ if text.eq_ignore_ascii_case("false") => Some(false),
        _ => None,
    }
}

/// The values of a condition, ready to compare.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) enum Matcher {
    /// Equal, equal in any case, with wildcards, or as ARNs.
    Words(Comparison, Box<[Template]>),
    Numbers(Order, Box<[Decimal]>),
    /// Microseconds since 1970.
    Instants(Order, Box<[i64]>),
    Flags(Box<[bool]>),
    Bytes(Box<[Box<[u8]>]>),
    Nets(Box<[Net]>),
}

impl Matcher {
    /// Values that are none of their kind were refused when the document was parsed, and match nothing here.
    pub fn new(comparison: Comparison, values: &[Text], variables: bool) -> Matcher {
        fn each<T>(values: &[Text], parse: impl Fn(&str) -> Option<T>) -> Box<[T]> {
            values.iter().filter_map(|v| parse(&v.value)).collect()
        }
        match comparison {
            Comparison::Number(order) => Matcher::Numbers(order, each(values, Decimal::parse)),
            Comparison::Date(order) => Matcher::Instants(order, each(values, parse_instant)),
            Comparison::Bool => Matcher::Flags(each(values, parse_bool)),
            Comparison::Binary => {
                Matcher::Bytes(each(values, |v| parse_binary(v).map(Vec::into_boxed_slice)))
            }
            Comparison::Ip => Matcher::Nets(each(values, Net::parse)),
            Comparison::Equals
            | Comparison::EqualsIgnoreCase
            | Comparison::Like
            | Comparison::Arn
            | Comparison::Null => {
                let wild = matches!(comparison, Comparison::Like | Comparison::Arn);
                let templates = values
                    .iter()
                    .filter_map(|v| Template::parse(&v.value, variables, wild).ok());
                Matcher::Words(comparison, templates.collect())
            }
        }
    }

    /// The templates with variables in them.
    pub fn templates(&self) -> impl Iterator<Item = &Template> {
        let words: &[Template] = match self {
            Matcher::Words(_, templates) => templates,
            _ => &[],
        };
        words.iter().filter(|t| t.has_variables())
    }

    /// Whether one of the values matches. `expanded` are the templates with variables, in their order.
    pub fn matches(&self, value: Value<'_>, expanded: &[Vec<u8>]) -> bool {
        let mut digits = [0; 24];
        match self {
            Matcher::Words(comparison, templates) => {
                let text = value.text(&mut digits);
                let mut next = expanded.iter();
                templates.iter().any(|t| match t.has_variables() {
                    true => next.next().is_some_and(|p| words_match(*comparison, p, text)),
                    false => words_match(*comparison, t.pattern(), text),
                })
            }
            Matcher::Numbers(order, numbers) => {
                let asked = match value {
                    Value::Number(n) | Value::Instant(n) => Some(Decimal::whole(n)),
                    Value::Text(text) => Decimal::parse(text),
                    Value::Flag(_) => None,
                };
                asked.is_some_and(|a| numbers.iter().any(|n| order.holds(&a, n)))
            }
            Matcher::Instants(order, instants) => {
                let asked = match value {
                    Value::Instant(n) | Value::Number(n) => n.checked_mul(1_000_000),
                    Value::Text(text) => parse_instant(text),
                    Value::Flag(_) => None,
                };
                asked.is_some_and(|a| instants.iter().any(|i| order.holds(&a, i)))
            }
            Matcher::Flags(flags) => {
                let asked = match value {
                    Value::Flag(flag) => Some(flag),
                    other => parse_bool(other.text(&mut digits)),
                };
                asked.is_some_and(|a| flags.contains(&a))
            }
            Matcher::Bytes(all) => {
                let asked = parse_binary(value.text(&mut digits));
                asked.is_some_and(|a| all.iter().any(|b| **b == *a))
            }
            Matcher::Nets(nets) => {
                let asked = value.text(&mut digits).parse::<IpAddr>().ok();
                asked.is_some_and(|a| nets.iter().any(|n| n.contains(a)))
            }
        }
    }
}

fn words_match(comparison: Comparison, pattern: &[u8], text: &str) -> bool {
    match comparison {
        Comparison::Equals => pattern == text.as_bytes(),
        Comparison::EqualsIgnoreCase => std::str::from_utf8(pattern).is_ok_and(|p| eq_ignore_case(p, text)),
        Comparison::Like => super::pattern::glob_encoded(pattern, text),
        Comparison::Arn => super::pattern::glob_arn_encoded(pattern, text),
        _ => false,
    }
}

impl<'a> Value<'a> {
    /// As text: numbers in decimal, instants as `2026-11-25T10:48:35Z`.
    pub fn text<'b>(self, buffer: &'b mut [u8; 24]) -> &'b str
    where
        'a: 'b,
    {
        use std::io::Write;
        let mut rest = &mut buffer[..];
        let written = match self {
            Value::Text(text) => return text,
            Value::Flag(true) => return "true",
            Value::Flag(false) => return "false",
            Value::Number(n) => write!(rest, "{n}"),
            Value::Instant(n) => match jiff::Timestamp::from_second(n) {
                Ok(t) => write!(rest, "{t:.0}"),
                Err(_) => write!(rest, "{n}"),
            },
        };
        let left = rest.len();
        match written {
            Ok(()) => std::str::from_utf8(&buffer[..24 - left]).unwrap_or_default(),
            Err(_) => "",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_exact_and_nothing_else_is_one() {
        assert_eq!(Decimal::parse("10"), Some(Decimal::whole(10)));
        assert_eq!(Decimal::parse("-0.5"), Some(Decimal(-500_000_000)));
        assert!(Decimal::parse("9007199254740993") > Decimal::parse("9007199254740992"));
        for bad in [
            "",
            "10abc",
            "1e3",
            "0x10",
            "1.",
            ".5",
            "--1",
            "1.2.3",
            " 1",
            "1234567890123456789",
            "1_0",
            "١",
        ] {
            assert_eq!(Decimal::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn instants_are_iso_or_seconds() {
        let t = parse_instant("2020-04-01T00:00:01Z").unwrap();
        assert_eq!(t, 1_585_699_201_000_000);
        for same in [
            "1585699201",
            "2020-04-01T02:00:01+02:00",
            "2020-04-01T00:00:01.000Z",
        ] {
            assert_eq!(parse_instant(same), Some(t), "{same}");
        }
        assert_eq!(parse_instant("2020-04-01"), Some(t - 1_000_000));
        for bad in [
            "",
            "2020-04-01T00:00:01",
            "20200401",
            "2020-13-01",
            "yesterday",
            "2020-04-01 00:00:01Z",
        ] {
            let seconds = bad.bytes().all(|b| b.is_ascii_digit()) && !bad.is_empty();
            assert_eq!(parse_instant(bad).is_some(), seconds, "{bad}");
        }
    }

    #[test]
    fn addresses_are_compared_as_addresses() {
        let net = |t: &str| Net::parse(t).unwrap();
        let ip = |t: &str| t.parse().unwrap();
        assert!(net("192.0.2.0/24").contains(ip("192.0.2.77")));
        assert!(!net("192.0.2.0/24").contains(ip("192.0.3.1")));
        assert!(net("192.0.2.7").contains(ip("192.0.2.7")) && !net("192.0.2.7").contains(ip("192.0.2.8")));
        assert!(net("0.0.0.0/0").contains(ip("8.8.8.8")) && !net("0.0.0.0/0").contains(ip("::1")));
        assert!(net("::/0").contains(ip("2001:db8::1")));
        assert!(net("2001:DB8:0:0::1").contains(ip("2001:db8::1")));
        assert!(
            net("2001:db8::/33").contains(ip("2001:db8:7fff::"))
                && !net("2001:db8::/33").contains(ip("2001:db8:8000::"))
        );
        for bad in [
            "",
            "192.0.2.0/33",
            "192.0.2/24",
            "::/129",
            "192.0.2.0/",
            "192.0.2.0/+8",
            "host",
        ] {
            assert_eq!(Net::parse(bad), None, "{bad}");
        }
    }
}
