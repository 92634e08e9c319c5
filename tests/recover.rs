//! A lost key file and the recovery key that `init` printed.

mod support;

use std::time::Duration;
use support::product::Product;

/// A store whose recovery key is known.
fn store() -> (Product, String) {
    let product = Product::empty();
    let made = product.run(&["--json", "init"]).ok().json();
    let key = made["recovery_key"].as_str().expect("a recovery key").to_string();
    (product, key)
}

#[test]
fn the_recovery_key_opens_a_store_whose_key_file_is_lost() {
    let _deadline = support::Deadline::new(Duration::from_secs(60), "recover");
    let (product, key) = store();
    product.put("app/key", "kept", &["--allow", "uid:0"]);
    let file = product.store().join("root.key");
    let old = std::fs::read(&file).unwrap();
    std::fs::remove_file(&file).unwrap();
    let lost = product.run(&["get", "app/key"]);
    assert_eq!((lost.code(), lost.out.as_str()), (4, ""));
    assert!(lost.err.contains("store recover"), "{lost:?}");
    // As it is copied by hand: other case, blanks for hyphens.
    let typed = key.to_lowercase().replace('-', " ");
    product.run_with(&["store", "recover"], typed.as_bytes()).ok();
    assert_eq!(product.run(&["get", "app/key"]).ok().out, "kept");
    let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&file).unwrap().permissions());
    assert_eq!(mode & 0o7777, 0o600);
    assert!(
        product
            .records()
            .iter()
            .any(|r| r["eventName"] == "ReplaceKeySlot")
    );
    product.run(&["audit", "verify"]).ok();
    // The lost file, should it be found by somebody, opens nothing.
    std::fs::write(&file, old).unwrap();
    assert_eq!(product.run(&["get", "app/key"]).code(), 6);
}

#[test]
fn a_wrong_recovery_key_changes_nothing() {
    let _deadline = support::Deadline::new(Duration::from_secs(60), "recover");
    let (product, key) = store();
    let (_other, foreign) = store();
    let file = product.store().join("root.key");
    let there = product.run_with(&["store", "recover"], key.as_bytes());
    assert_eq!(there.code(), 5, "a key file is there: {there:?}");
    let old = std::fs::read(&file).unwrap();
    std::fs::remove_file(&file).unwrap();
    let mut mistyped = key.clone().into_bytes();
    mistyped[12] = if mistyped[12] == b'0' { b'1' } else { b'0' };
    for (typed, code) in [
        (&mistyped[..], 2),
        (b"", 2),
        (b"ABCD-1234", 2),
        (foreign.as_bytes(), 6),
    ] {
        let said = product.run_with(&["store", "recover"], typed);
        assert_eq!(said.code(), code, "{said:?}");
        assert!(!said.err.contains(&key[..8]) && !file.exists());
    }
    std::fs::write(&file, old).unwrap();
    std::fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    product.run(&["list"]).ok();
}
