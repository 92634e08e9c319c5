//! Any text as a policy: it is refused with a place, or resolves, compiles, and says the same when it is read again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use wardfs::id::{Gid, SecretName, Uid};
use wardfs::policy::{Directory, GuardrailRecord, IdentityRecord, PolicyRecord, PrincipalMap};

struct Nobody;

impl Directory for Nobody {
    fn uid_of(&self, name: &str) -> Option<Uid> {
        (name == "app").then_some(Uid(61001))
    }
    fn gid_of(&self, name: &str) -> Option<Gid> {
        (name == "team").then_some(Gid(70001))
    }
    fn users(&self) -> Vec<(String, Uid)> {
        vec![("app".into(), Uid(61001))]
    }
    fn groups(&self) -> Vec<(String, Gid)> {
        vec![("team".into(), Gid(70001))]
    }
}

fuzz_target!(|text: &str| {
    let map = PrincipalMap::default();
    let name: SecretName = "app/db".parse().unwrap();
    match PolicyRecord::resolve(text, &map, &Nobody, &name, None) {
        Ok((record, _)) => {
            record.compile(&name, None).expect("what resolves compiles");
            let document = record.document().expect("what resolved is a document");
            let written = document.to_json_pretty();
            let (again, _) = PolicyRecord::resolve(&written, &map, &Nobody, &name, None).expect("what is written is read");
            assert_eq!(again.document().unwrap().to_json_pretty(), written);
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
    let _ = GuardrailRecord::resolve("g", text, &map, &Nobody);
    let _ = IdentityRecord::resolve(&"uid:61001".parse().unwrap(), Default::default(), text, &map, &Nobody);
});
