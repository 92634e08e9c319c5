//! `put --generate`: the password is in the secret and nowhere else.

mod support;

use std::time::Duration;

use support::Deadline;
use support::Run;
use support::product::{A, Product};

#[test]
fn a_generated_password_is_read_by_its_reader_and_shown_to_nobody() {
    let _deadline = Deadline::new(Duration::from_secs(60), "generate");
    let product = Product::mounted();
    let reader = format!("uid:{A}");
    let mut seen = Vec::new();
    for extra in [&[][..], &["--json"], &["-v"]] {
        let typed = [
            &["put", "app/password", "--generate", "--length", "40"][..],
            &["--allow", &reader],
            extra,
        ];
        let typed = if seen.is_empty() {
            typed.concat()
        } else {
            [
                &["put", "app/password", "--generate", "--length", "40"][..],
                extra,
            ]
            .concat()
        };
        let said = product.run(&typed).ok();
        let path = product.path("app/password");
        let value = Run::uid(A).call(|| std::fs::read_to_string(&path).expect("read"));
        assert_eq!(value.len(), 40);
        assert!(!said.out.contains(&value) && !said.err.contains(&value));
        seen.push(value);
    }
    assert!(seen[0] != seen[1] && seen[1] != seen[2]);
    let log = std::fs::read_dir(product.store().join("audit")).expect("the log");
    for segment in log {
        let bytes = std::fs::read(segment.expect("a segment").path()).expect("read");
        for value in &seen {
            assert!(!bytes.windows(value.len()).any(|w| w == value.as_bytes()));
        }
    }
    // What cannot be made changes nothing.
    let said = product.run(&["put", "app/password", "--generate", "--length", "2"]);
    assert_eq!(said.code(), 2);
    let path = product.path("app/password");
    let value = Run::uid(A).call(|| std::fs::read_to_string(&path).expect("read"));
    assert_eq!(value, seen[2]);
}
