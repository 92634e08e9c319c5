//! The second locks: a grant opens what it was given for and nothing else.

use super::*;
use crate::id::{Gid, ROOT, Uid};
use crate::vault::tests::{Nobody, Place, allow, make};

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

/// A caller while whose process is looked at something happens.
struct Meddler<'m> {
    caller: KnownCaller,
    /// When the process is identified, and when its unit is asked for.
    identified: Option<Box<dyn FnOnce() + 'm>>,
    unit: Option<Box<dyn FnOnce() + 'm>>,
}

impl<'m> Meddler<'m> {
    fn new(uid: u32) -> Self {
        let mut caller = KnownCaller::supposed(Uid(uid), Gid(uid), Vec::new());
        caller.unit = Some(Some("app.service".into()));
        Meddler {
            caller,
            identified: None,
            unit: None,
        }
    }
}

impl policy::Facts for Meddler<'_> {
    fn uid(&self) -> Uid {
        self.caller.uid
    }
    fn gid(&self) -> Gid {
        self.caller.gid
    }
    fn groups(&mut self) -> Option<&[Gid]> {
        self.caller.groups()
    }
    fn unit(&mut self) -> Option<Option<&str>> {
        if let Some(meddle) = self.unit.take() {
            meddle();
        }
        self.caller.unit()
    }
    fn service(&self) -> Option<&str> {
        None
    }
    fn process(&mut self) -> Option<policy::ProcessState> {
        self.caller.process()
    }
}

impl Caller for Meddler<'_> {
    fn identify(&mut self) -> Result<(), Reason> {
        if let Some(meddle) = self.identified.take() {
            meddle();
        }
        Ok(())
    }
    fn who(&mut self, detail: crate::audit::Identity) -> crate::audit::Who<'_> {
        self.caller.who(detail)
    }
    fn thread(&self) -> u32 {
        1
    }
    fn key(&mut self) -> CallerKey {
        self.caller.key()
    }
    fn door(&self) -> &'static str {
        "mount"
    }
}

const UNIT: &str = r#"{"Unit": "app.service"}"#;

fn guardrail(vault: &Vault, denied: Option<u32>) {
    let name = "no";
    vault
        .change(|draft| -> Result<_, VaultError> {
            match denied {
                Some(uid) => {
                    let text = format!(
                        r#"{{"Version": "2012-10-17", "Statement": {{"Effect": "Deny", "Action": "*", "Resource": "*",
                            "Condition": {{"StringEquals": {{"wardfs:Uid": "{uid}"}}}}}}}}"#
                    );
                    let map = policy::PrincipalMap::default();
                    let made = policy::GuardrailRecord::resolve(name, &text, &map, &Nobody).unwrap().0;
                    draft.put_layer(crate::vault::LayerRecord::Guardrail(made), ROOT);
                }
                None => {
                    let layers = draft.state().layers.clone();
                    draft.remove_layer(layers.guardrail(name).unwrap().0);
                }
            }
            Ok(((), crate::vault::tests::body(name)))
        })
        .unwrap();
}

/// What is taken from somebody before what kept him out is taken away is never his: in none of the states may he read,
/// and no read is decided by two of them.
#[test]
fn a_read_is_decided_by_one_state() {
    let place = Place::new();
    let access = access(&place);
    let vault = &access.vault;
    for at_the_unit in [false, true] {
        allow(vault, "one", UNIT);
        let opened = access.vault.state();
        let mut before = Meddler::new(7);
        let pin = access
            .open(
                opened.view(opened.secrets.by_name("one").unwrap()),
                Choice::Label("current"),
                1,
                &mut before,
            )
            .unwrap();
        guardrail(vault, Some(7));
        let mut caller = Meddler::new(7);
        let meddle: Box<dyn FnOnce()> = Box::new(|| {
            allow(vault, "one", r#"{"Uid": "8"}"#);
            guardrail(vault, None);
        });
        match at_the_unit {
            true => caller.unit = Some(meddle),
            false => caller.identified = Some(meddle),
        }
        let read = access.read(&pin, Range::WHOLE, &mut caller);
        assert!(matches!(read, Err(AccessError::Denied(_))), "{:?}", read.err());
        // The careful order the other way round as well.
        let mut caller = Meddler::new(7);
        caller.identified = Some(Box::new(|| {
            guardrail(vault, Some(7));
            allow(vault, "one", UNIT);
        }));
        let read = access.read(&pin, Range::WHOLE, &mut caller);
        assert!(matches!(read, Err(AccessError::Denied(_))), "{:?}", read.err());
        guardrail(vault, None);
    }
}

/// What is taken away while a process is looked at is in force for the read that waits for it.
#[test]
fn a_revocation_overtakes_a_slow_read() {
    let place = Place::new();
    let access = access(&place);
    let vault = &access.vault;
    allow(vault, "one", UNIT);
    let state = vault.state();
    let mut caller = Meddler::new(7);
    let one = state.view(state.secrets.by_name("one").unwrap());
    let pin = access
        .open(one, Choice::Label("current"), 1, &mut caller)
        .unwrap();
    assert!(access.read(&pin, Range::WHOLE, &mut caller).unwrap().is_some());
    for identified in [true, false] {
        allow(vault, "one", UNIT);
        let mut caller = Meddler::new(7);
        let revoke: Box<dyn FnOnce()> = Box::new(|| allow(vault, "one", r#"{"Uid": "8"}"#));
        match identified {
            true => caller.identified = Some(revoke),
            false => caller.unit = Some(revoke),
        }
        let read = access.read(&pin, Range::WHOLE, &mut caller);
        assert!(matches!(read, Err(AccessError::Denied(_))), "{:?}", read.err());
    }
}
