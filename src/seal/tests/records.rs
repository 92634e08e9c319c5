//! Metadata records and their terms.

use super::*;

#[test]
fn a_flipped_bit_of_a_record_is_found() {
    let ring = ring();
    let sealed = ring.seal_record(RECORD, 9, b"{\"policy\":1}").unwrap();
    assert_eq!(ring.open_record(RECORD, 9, &sealed.0).unwrap(), b"{\"policy\":1}");
    each_flip(&sealed.0, |bytes, at| {
        assert!(is_integrity(&ring.open_record(RECORD, 9, bytes)), "byte {at}")
    });
    each_length(&sealed.0, |bytes| {
        assert!(is_integrity(&ring.open_record(RECORD, 9, bytes)))
    });
}

#[test]
fn records_open_in_their_own_place_alone() {
    let root = || RootKey(locked(&[3; 32]));
    let ring = Keyring::new(STORE, root()).unwrap();
    let sealed = ring.seal_record(RECORD, 9, b"{}").unwrap();
    assert!(is_integrity(&ring.open_record(RECORD, 10, &sealed.0)));
    assert!(is_integrity(&ring.open_record(RecordKind(3), 9, &sealed.0)));
    // The same root key in another store, another root key in the same store.
    assert!(is_integrity(
        &Keyring::new(OTHER_STORE, root())
            .unwrap()
            .open_record(RECORD, 9, &sealed.0)
    ));
    let other = Keyring::new(STORE, RootKey::generate().unwrap()).unwrap();
    assert!(is_integrity(&other.open_record(RECORD, 9, &sealed.0)));
}

#[test]
fn terms_tell_revisions_records_and_places_apart() {
    let ring = ring();
    let term = ring.term(RECORD, 1, 5, b"record");
    assert!(term.ct_eq(&ring.term(RECORD, 1, 5, b"record")));
    for other in [
        ring.term(RECORD, 1, 4, b"record"),
        ring.term(RECORD, 2, 5, b"record"),
        ring.term(RecordKind(3), 1, 5, b"record"),
        ring.term(RECORD, 1, 5, b"recorD"),
        super::ring().term(RECORD, 1, 5, b"record"),
    ] {
        assert!(!term.ct_eq(&other));
    }
}

#[test]
fn an_old_record_put_back_shows_whatever_is_done_to_the_table_of_terms() {
    // Whoever writes the disk puts record 1 back to revision 1, and gives record 2, which he sacrifices, the
    // entry that would make up for it if the sum were one over the entries themselves.
    let ring = ring();
    let (old, new, other) = (
        ring.term(RECORD, 1, 1, b"old"),
        ring.term(RECORD, 1, 2, b"new"),
        ring.term(RECORD, 2, 1, b"x"),
    );
    let placed = |terms: [(u64, &Term); 2]| {
        let mut sum = TermSum::default();
        for (id, term) in terms {
            sum.add(&ring.summand(Summing::Places, (RECORD, id), term));
        }
        sum
    };
    let sum = |[one, two]: [&Term; 2]| placed([(1, one), (2, two)]);
    let genuine = sum([&new, &other]);
    assert!(genuine.ct_eq(&placed([(2, &other), (1, &new)])));
    // A term that stands for another record, or for none.
    assert!(!genuine.ct_eq(&sum([&other, &new])));
    assert!(!genuine.ct_eq(&placed([(3, &new), (2, &other)])));
    assert!(!genuine.ct_eq(&sum([&old, &other])));
    let mut entry = TermSum(other.0);
    entry.add(&Summand(new.0));
    entry.sub(&Summand(old.0));
    let forged = Term(entry.0);
    let naive = |a: &Term, b: &Term| {
        let mut sum = TermSum(a.0);
        sum.add(&Summand(b.0));
        sum
    };
    assert!(
        naive(&old, &forged).ct_eq(&naive(&new, &other)),
        "the attack adds up"
    );
    assert!(!genuine.ct_eq(&sum([&old, &forged])));
}
