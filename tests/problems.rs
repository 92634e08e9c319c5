//! Errors that the command line itself never causes: another client of the control socket meets them, or an odd machine.

mod support;

use std::time::Duration;

use serde_json::{Value, json};
use support::Deadline;
use support::product::{A, B, Product};
use wardfs::control::client::Client;
use wardfs::control::protocol::{Enclosed, Request, Rule};
use wardfs::problem::Exit;

fn request(document: Value) -> Request {
    serde_json::from_value(document).expect("a request")
}

fn value(bytes: &[u8]) -> Option<Enclosed<'static>> {
    let mut value = wardfs::sys::mem::secret(bytes.len()).expect("memory");
    value.expose_mut().copy_from_slice(bytes);
    Some(Enclosed::Value(value))
}

#[test]
fn a_client_of_its_own_is_answered_and_changes_nothing() {
    let _deadline = Deadline::new(Duration::from_secs(60), "odd clients");
    let product = Product::mounted();
    let ask = |request: &Request, enclosed: Option<Enclosed<'_>>| {
        let mut client = Client::connect(&product.store())
            .expect("connect")
            .expect("a daemon");
        client.call(request, enclosed).expect_err("refused")
    };
    let list = request(json!({"command": "list", "under": null}));
    let put = |more: Value| {
        let mut all = json!({"command": "put", "name": "app/db"});
        all.as_object_mut()
            .expect("an object")
            .extend(more.as_object().cloned().expect("an object"));
        request(all)
    };
    let plain = put(json!({}));
    let label = request(json!({"command": "label", "name": "app/labelled", "label": "x"}));
    product.put("app/labelled", "v", &[]);
    let rule = Rule::Allow(format!("uid:{A}").parse().expect("somebody"));
    for (request, enclosed, why) in [
        (&list, value(b"x"), "the request takes none"),
        (&plain, value(b""), "the value is empty"),
        (&plain, None, "no value came with it"),
        (&plain, value(&[b'x'; 65537]), "bytes; at most"),
        (&label, None, "no version has it"),
        (&put(json!({"mode": 0o666})), value(b"x"), "more than read bits"),
        (
            &put(json!({"policy": "{}", "rules": [rule]})),
            value(b"x"),
            "exclude each other",
        ),
    ] {
        let problem = ask(request, enclosed);
        let exit = if why == "no version has it" {
            Exit::NotFound
        } else {
            Exit::Usage
        };
        assert_eq!(problem.exit, exit, "{problem}");
        assert!(problem.why.contains(why), "{why}: {problem}");
        assert!(!problem.next.is_empty(), "{problem}");
    }
    let list = product.run(&["--json", "list"]).ok().json();
    assert_eq!(list["secrets"].as_array().map(Vec::len), Some(1), "{list}");
}

/// A program that links the library and opens the store itself passes by the command line's own checks.
#[test]
fn the_library_checks_what_the_command_line_has_checked() {
    let _deadline = Deadline::new(Duration::from_secs(60), "the library");
    let product = Product::new();
    let config = wardfs::config::Config::load(&product.store()).expect("settings");
    let (desk, _access) = wardfs::daemon::desk(&product.store(), &config).expect("the store");
    let mut root = wardfs::access::KnownCaller::root();
    let mut ask = |request: &Request, enclosed| {
        desk.answer(request, enclosed, &mut |_| {}, &mut root)
            .expect_err("refused")
    };
    let put = request(json!({"command": "put", "name": "app/db"}));
    for (request, enclosed, exit, why) in [
        (&put, value(b""), Exit::Usage, "the value is empty"),
        (
            &put,
            value(&[b'x'; 65537]),
            Exit::Usage,
            "longer than 65536 bytes",
        ),
        (
            &request(json!({"command": "unmount"})),
            None,
            Exit::NotFound,
            "no daemon serves this store",
        ),
    ] {
        let problem = ask(request, enclosed);
        assert_eq!(problem.exit, exit, "{problem}");
        assert!(problem.why.contains(why), "{why}: {problem}");
    }
}

#[test]
fn somebody_else_is_told_whom_to_ask() {
    let _deadline = Deadline::new(Duration::from_secs(60), "somebody else");
    let product = Product::mounted();
    product.put("app/db", "v", &["--allow", &format!("uid:{B}")]);
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    std::fs::set_permissions(product.store().join("wardfs.toml"), mode).expect("chmod");
    for (command, why) in [
        (
            &["policy", "explain", "app/db", "--as", "uid:0"][..],
            "only root may ask about others",
        ),
        (&["why", "app/db", "--uid", "0"], "only root may ask about others"),
        (&["audit", "tail"], "QueryLog is not allowed to you"),
        (&["config", "check"], "Permission denied"),
        (&["store", "check"], "this is for root alone"),
    ] {
        let said = product.run_as(B, &[], command, b"");
        assert_eq!(said.code(), 3, "{command:?}: {said:?}");
        assert!(said.err.contains(why), "{command:?}: {said:?}");
    }
}
