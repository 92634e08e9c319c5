//! The second locks: a grant opens what it was given for and nothing else.

use super::*;
use crate::vault::tests::{Place, allow, make};

/// Two secrets that everybody may read.
fn access(place: &Place) -> Access {
    let vault = Arc::new(place.open());
    for name in ["one", "two"] {
        make(&vault, name, || {}).unwrap();
        allow(&vault, name, r#""*""#);
    }
    Access::new(vault, false)
}

#[test]
fn a_grant_opens_one_secret_for_one_purpose() {
    let place = Place::new();
    let access = access(&place);
    let state = access.vault.state();
    let [one, two] = ["one", "two"].map(|name| state.secrets.by_name(name).unwrap());
    let mut root = KnownCaller::root();
    let mut grant = |action, purpose| {
        let asked = Asked::secret();
        access
            .decide(state.view(one), action, purpose, asked, &mut root)
            .unwrap()
    };
    let reads = grant(Action::GetSecretValue, Purpose::Read);
    let describes = grant(Action::DescribeSecret, Purpose::Describe);
    let opens = |grant: &Grant, secret: &Secret| {
        let version = secret.current().unwrap();
        let opened = access.unseal(grant, state.view(secret), version, &mut KnownCaller::root());
        match opened {
            Ok(plain) => plain.expose() == b"value",
            Err(AccessError::Integrity(_)) => false,
            Err(other) => panic!("{other}"),
        }
    };
    assert!(opens(&reads, one));
    assert!(!opens(&reads, two), "a grant for another secret");
    assert!(!opens(&describes, one), "a grant for another purpose");
}
