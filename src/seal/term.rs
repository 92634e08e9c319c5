//! Terms: what makes one old record put back, or one left out, show.
//!
//! Every record has a [`Term`] in a table of its own, and the sealed epoch record holds the sum over all of
//! them. The sum is not taken over the terms themselves but over their [`Summand`]s, a keyed function of them.
//! The table lies open on the disk: were its entries added as they stand, whoever can write it could put an
//! old record back and make up for the difference in the entry of another record, which then merely looks
//! damaged; and of some thousand changed records he could choose old ones whose differences cancel out
//! (Wagner, "A Generalized Birthday Problem", 2002). He cannot compute with summands that he does not know.

use subtle::ConstantTimeEq;

/// HMAC-SHA256 over a record's kind, id, revision and hash. Safe to store.
#[derive(Clone, Copy, Debug, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct Term(#[serde(with = "hex")] pub [u8; 32]);

impl Term {
    /// Whether both are the same, in constant time.
    pub fn ct_eq(&self, other: &Term) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

/// Over what a store's sum is taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Summing {
    /// The terms alone, wherever they stand: format 1. A term that is moved aside takes its record away, and the sum
    /// says nothing.
    #[default]
    Terms,
    /// The terms with the kind and id of the record that they stand for: format 2.
    Places,
}

/// What a term adds to the sum; made by [`super::Keyring::summand`]. It never leaves the process.
pub struct Summand(pub(super) [u8; 32]);

/// The sum of the summands modulo 2^256, big endian. It does not depend on the order, and a commit updates it
/// in one step per changed record. It is stored sealed, never in the open.
#[derive(Clone, Copy, Default, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct TermSum(#[serde(with = "hex")] pub [u8; 32]);

impl std::fmt::Debug for TermSum {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("TermSum")
    }
}

impl TermSum {
    /// Adds a record's term.
    pub fn add(&mut self, summand: &Summand) {
        let mut carry = 0;
        for (to, from) in self.0.iter_mut().zip(&summand.0).rev() {
            let sum = u16::from(*to) + u16::from(*from) + carry;
            [_, *to] = sum.to_be_bytes();
            carry = sum >> 8;
        }
    }

    /// Takes a record's term out again.
    pub fn sub(&mut self, summand: &Summand) {
        let mut borrow = 0;
        for (to, from) in self.0.iter_mut().zip(&summand.0).rev() {
            let difference = 0x100 + u16::from(*to) - u16::from(*from) - borrow;
            [_, *to] = difference.to_be_bytes();
            borrow = 1 - (difference >> 8);
        }
    }

    /// Whether both are the same, in constant time.
    pub fn ct_eq(&self, other: &TermSum) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

/// 64 hexadecimal digits.
mod hex {
    use data_encoding::HEXLOWER;
    use serde::{Deserialize, Deserializer, Serializer, de::Error};
    use std::borrow::Cow;

    pub fn serialize<S: Serializer>(bytes: &[u8; 32], s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&HEXLOWER.encode(bytes))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<[u8; 32], D::Error> {
        let text = Cow::<'de, str>::deserialize(d)?;
        let bytes = HEXLOWER.decode(text.as_bytes()).map_err(D::Error::custom)?;
        bytes
            .try_into()
            .map_err(|_| D::Error::custom("64 hexadecimal digits are needed"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sum_of(summands: &[[u8; 32]]) -> TermSum {
        let mut sum = TermSum::default();
        for s in summands {
            sum.add(&Summand(*s));
        }
        sum
    }

    #[test]
    fn a_carry_runs_through_all_bytes_and_off_the_end() {
        let mut one = [0; 32];
        one[31] = 1;
        let mut sum = sum_of(&[[0xff; 32]]);
        sum.add(&Summand(one));
        assert_eq!(sum.0, [0; 32]);
        sum.sub(&Summand(one));
        assert_eq!(sum.0, [0xff; 32]);
        let mut all_but_first = [0xff; 32];
        all_but_first[0] = 0;
        let mut high = [0; 32];
        high[0] = 1;
        assert_eq!(sum_of(&[all_but_first, one]).0, high);
    }

    #[test]
    fn it_is_stored_as_hexadecimal_text() {
        let sum = TermSum([0xab; 32]);
        let text = serde_json::to_string(&sum).unwrap();
        assert_eq!(text, format!("\"{}\"", "ab".repeat(32)));
        assert!(serde_json::from_str::<TermSum>(&text).unwrap().ct_eq(&sum));
        assert!(serde_json::from_str::<TermSum>("\"abcd\"").is_err());
        assert!(serde_json::from_str::<TermSum>(&text.to_uppercase()).is_err());
    }

    proptest! {
        #[test]
        fn the_order_does_not_matter(mut summands in proptest::collection::vec(any::<[u8; 32]>(), 0..20), seed in any::<u64>()) {
            let forward = sum_of(&summands);
            summands.reverse();
            prop_assert!(sum_of(&summands).ct_eq(&forward));
            if !summands.is_empty() {
                let by = seed as usize % summands.len();
                summands.rotate_left(by);
            }
            prop_assert!(sum_of(&summands).ct_eq(&forward));
        }

        #[test]
        fn taking_out_undoes_adding(start in any::<[u8; 32]>(), a in any::<[u8; 32]>(), b in any::<[u8; 32]>()) {
            let mut sum = TermSum(start);
            sum.add(&Summand(a));
            sum.sub(&Summand(b));
            sum.sub(&Summand(a));
            sum.add(&Summand(b));
            prop_assert_eq!(sum.0, start);
        }

        #[test]
        fn it_adds_as_numbers_do(a in any::<[u8; 32]>(), b in any::<[u8; 32]>()) {
            // An independent adder: four 64-bit limbs.
            let mut expected = [0u8; 32];
            let mut carry = false;
            for i in (0..4).rev() {
                let limb = |x: &[u8; 32]| u64::from_be_bytes(*x[8 * i..].first_chunk().unwrap());
                let (sum, c1) = limb(&a).overflowing_add(limb(&b));
                let (sum, c2) = sum.overflowing_add(carry.into());
                carry = c1 | c2;
                expected[8 * i..8 * i + 8].copy_from_slice(&sum.to_be_bytes());
            }
            prop_assert_eq!(sum_of(&[a, b]).0, expected);
        }
    }
}
