//! Administration is separated from reading: a member of the administrators' group cannot make himself a reader.

mod support;

use std::time::Duration;

use support::Deadline;
use support::product::{A, Product, read_as};

/// The administrator, and somebody who is nothing at all.
const ADMIN: u32 = 61003;
const STRANGER: u32 = 61004;

/// A store with root's secret, whose administrators are an ordinary group of this host; and that group's id.
fn administered() -> (Product, u32) {
    let mut product = Product::new();
    let groups = std::fs::read_to_string("/etc/group").expect("/etc/group");
    let (name, gid) = groups
        .lines()
        .filter_map(|l| {
            let mut fields = l.split(':');
            Some((fields.next()?, fields.nth(1)?.parse::<u32>().ok()?))
        })
        .find(|&(_, gid)| (1..1000).contains(&gid))
        .expect("a system group");
    let file = product.store().join("wardfs.toml");
    let text = std::fs::read_to_string(&file).expect("wardfs.toml");
    std::fs::write(&file, format!("admin_group = \"{name}\"\n{text}")).expect("write");
    product.run(&["config", "accept", "--yes"]).ok();
    product.put("app/key", "roots-value", &["--allow", &format!("uid:{A}")]);
    product.mount();
    (product, gid)
}

#[test]
fn an_administrator_cannot_make_himself_a_reader() {
    let _deadline = Deadline::new(Duration::from_secs(55), "separation");
    let (product, gid) = administered();
    let admin = |args: &[&str], value: &[u8]| product.run_as(ADMIN, &[gid], args, value);
    let me = format!("uid:{ADMIN}");
    let policy = product.dir().join("mine.json");
    let text = format!(
        r#"{{"Version":"2012-10-17","Statement":[{{"Effect":"Allow","Principal":{{"Uid":"{ADMIN}"}},"Action":"secretsmanager:*","Resource":"*"}}]}}"#
    );
    std::fs::write(&policy, text).expect("policy");
    let policy = policy.to_str().expect("a path in UTF-8");
    let owner = ADMIN.to_string();
    let attempts: [&[&str]; 9] = [
        &["put", "app/key", "--allow", &me],
        &["put", "app/key", "--policy", policy],
        &["put", "app/key", "--owner", &owner],
        &["put", "app/key", "--group", &owner],
        &["put", "app/key", "--mode", "0444"],
        &["put", "app/key", "--visibility", "hidden"],
        &["policy", "set", "app/key", policy],
        &["policy", "allow", "app/key", &me],
        &["delete", "--now", "--purge", "app/key"],
    ];
    let path = product.path("app/key");
    for args in attempts {
        let said = admin(args, b"mine");
        assert_eq!(said.code(), 3, "{args:?}: {said:?}");
        assert_eq!(read_as(ADMIN, &[gid], &path), Err(libc::EACCES), "{args:?}");
    }
    assert_eq!(read_as(A, &[], &path).as_deref(), Ok(b"roots-value".as_slice()));
    product.refusal(ADMIN, "implicit_deny");
    // What he may do.
    admin(&["describe", "app/key"], b"").ok();
    admin(&["list"], b"").ok();
    let put = admin(&["put", "app/key"], b"a-new-value").ok();
    assert!(
        (put.out.clone() + &put.err).contains(&A.to_string()),
        "the reply names the readers: {put:?}"
    );
    assert_eq!(read_as(A, &[], &path).as_deref(), Ok(b"a-new-value".as_slice()));
    assert_eq!(read_as(ADMIN, &[gid], &path), Err(libc::EACCES));
    admin(&["put", "his/own", "--allow", &me], b"his").ok();
    assert_eq!(
        read_as(ADMIN, &[gid], &product.path("his/own")).as_deref(),
        Ok(b"his".as_slice())
    );
    // Deleted and created again: the name keeps its policy.
    admin(&["delete", "--now", "app/key"], b"").ok();
    assert_eq!(admin(&["put", "app/key", "--allow", &me], b"again").code(), 3);
    admin(&["put", "app/key"], b"again").ok();
    assert_eq!(read_as(ADMIN, &[gid], &path), Err(libc::EACCES));
    assert_eq!(read_as(A, &[], &path).as_deref(), Ok(b"again".as_slice()));
}

#[test]
fn a_stranger_may_do_none_of_it() {
    let _deadline = Deadline::new(Duration::from_secs(55), "stranger");
    let (product, _) = administered();
    let attempts: [&[&str]; 6] = [
        &["put", "app/key"],
        &["put", "new/one", "--allow", "uid:61004"],
        &["describe", "app/key"],
        &["policy", "allow", "app/key", "uid:61004"],
        &["delete", "--now", "app/key"],
        &["get", "app/key"],
    ];
    for args in attempts {
        let said = product.run_as(STRANGER, &[], args, b"x");
        assert!(matches!(said.code(), 3 | 4), "{args:?}: {said:?}");
    }
    product.refusal(STRANGER, "implicit_deny");
    assert_eq!(
        read_as(A, &[], &product.path("app/key")).as_deref(),
        Ok(b"roots-value".as_slice())
    );
}

#[test]
fn without_a_daemon_a_store_is_its_owners_alone() {
    let _deadline = Deadline::new(Duration::from_secs(60), "without a daemon");
    let product = Product::new();
    product.put("app/x", "v", &["--allow", &format!("uid:{A}")]);
    for args in [
        &["list"][..],
        &["get", "app/x"],
        &["delete", "app/x", "--now"],
        &["status"],
        &["store", "check"],
    ] {
        let said = product.run_as(A, &[], args, b"");
        assert_eq!((said.code(), said.out.as_str()), (7, ""), "{said:?}");
        assert!(said.err.contains("as root"), "{said:?}");
    }
    assert_eq!(
        product.run(&["list", "--json"]).ok().json()["secrets"][0]["name"],
        "app/x"
    );
}
