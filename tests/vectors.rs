//! Published test vectors, run through the functions that the product itself seals and unseals with.
//! `tests/vectors/` says of each file where it comes from.

use data_encoding::HEXLOWER;
use std::collections::HashMap;
use wardfs::seal::primitive::{gcm_open, gcm_seal, hkdf};

/// One block of `name = value` lines.
struct Case<'a>(HashMap<&'a str, &'a str>);

impl Case<'_> {
    fn text(&self, name: &str) -> &str {
        self.0
            .get(name)
            .unwrap_or_else(|| panic!("no {name} in {:?}", self.0))
    }

    fn bytes(&self, name: &str) -> Vec<u8> {
        HEXLOWER
            .decode(self.text(name).as_bytes())
            .unwrap_or_else(|e| panic!("{name} in {:?}: {e}", self.0))
    }

    fn array<const N: usize>(&self, name: &str) -> [u8; N] {
        self.bytes(name)
            .try_into()
            .unwrap_or_else(|_| panic!("{name} in {:?} has not {N} bytes", self.0))
    }

    fn is_valid(&self) -> bool {
        match self.text("Result") {
            "valid" => true,
            "invalid" => false,
            other => panic!("{other}?"),
        }
    }
}

fn cases(file: &str) -> Vec<Case<'_>> {
    file.split("\n\n")
        .map(|block| {
            block
                .lines()
                .filter(|line| !line.starts_with('#'))
                .map(|line| {
                    line.split_once('=')
                        .map(|(k, v)| (k.trim(), v.trim()))
                        .expect("name = value")
                })
                .collect::<HashMap<_, _>>()
        })
        .filter(|block| !block.is_empty())
        .map(Case)
        .collect()
}

/// Opens the case's ciphertext: what comes out, or nothing, and then the buffer is wiped.
fn open(case: &Case<'_>) -> Option<Vec<u8>> {
    let ct = case.bytes("CT");
    let mut out = vec![0xa5; ct.len()];
    let (key, aad) = (case.bytes("Key"), case.bytes("AAD"));
    match gcm_open(&key, &case.array("IV"), &aad, &ct, &case.array("Tag"), &mut out) {
        Ok(()) => Some(out),
        Err(_) => {
            assert!(
                out.iter().all(|b| *b == 0),
                "a failed decryption left bytes behind: {:?}",
                case.0
            );
            None
        }
    }
}

fn seal(case: &Case<'_>) -> (Vec<u8>, [u8; 16]) {
    let plain = case.bytes("PT");
    let mut out = vec![0; plain.len()];
    let tag = gcm_seal(
        &case.bytes("Key"),
        &case.array("IV"),
        &case.bytes("AAD"),
        &plain,
        &mut out,
    )
    .unwrap();
    (out, tag)
}

#[test]
fn nist_cavp_aes_256_gcm() {
    let (mut sealed, mut opened, mut refused) = (0, 0, 0);
    for case in cases(include_str!("vectors/nist-cavp-aes-256-gcm.txt")) {
        if case.text("Operation") == "encrypt" {
            assert_eq!(seal(&case), (case.bytes("CT"), case.array("Tag")), "{:?}", case.0);
            sealed += 1;
        }
        if case.is_valid() {
            assert_eq!(open(&case), Some(case.bytes("PT")), "{:?}", case.0);
            opened += 1;
        } else {
            assert_eq!(open(&case), None, "{:?}", case.0);
            refused += 1;
        }
    }
    assert_eq!((sealed, opened, refused), (15, 30, 15));
}

#[test]
fn wycheproof_aes_256_gcm() {
    let (mut valid, mut invalid) = (0, 0);
    for case in cases(include_str!("vectors/wycheproof-aes-256-gcm.txt")) {
        if case.is_valid() {
            assert_eq!(open(&case), Some(case.bytes("PT")), "{:?}", case.0);
            assert_eq!(seal(&case), (case.bytes("CT"), case.array("Tag")), "{:?}", case.0);
            valid += 1;
        } else {
            assert_eq!(open(&case), None, "{:?}", case.0);
            invalid += 1;
        }
    }
    assert_eq!((valid, invalid), (36, 27));
}

#[test]
fn wycheproof_hkdf_sha256() {
    let (mut valid, mut invalid) = (0, 0);
    for case in cases(include_str!("vectors/wycheproof-hkdf-sha256.txt")) {
        let mut okm = vec![0; case.text("Size").parse().unwrap()];
        let info = case.bytes("Info");
        // In two parts: the parts are one info.
        let (head, tail) = info.split_at(info.len() / 2);
        let derived = hkdf(&case.bytes("Salt"), &case.bytes("IKM"), &[head, tail], &mut okm);
        if case.is_valid() {
            derived.unwrap();
            assert_eq!(okm, case.bytes("OKM"), "{:?}", case.0);
            valid += 1;
        } else {
            assert!(derived.is_err(), "{:?}", case.0);
            invalid += 1;
        }
    }
    assert_eq!((valid, invalid), (38, 1));
}
