//! A service and its signals: what it reads again, what does not end it, and what it says when it ends.

mod support;

use std::time::Duration;

use serde_json::{Value, json};
use support::product::{A, Product, read_as};
use support::{Deadline, Run, wait_until};

fn served() -> Product {
    let mut product = Product::new();
    product.put("app/key", "value", &["--allow", &format!("uid:{A}")]);
    product.mount();
    product
}

fn configure(product: &Product, text: &str) {
    std::fs::write(product.store().join("wardfs.toml"), text).expect("write");
}

fn send(product: &Product, signal: i32) {
    let signal = nix::sys::signal::Signal::try_from(signal).expect("a signal");
    let pid = nix::unistd::Pid::from_raw(product.pid().cast_signed());
    nix::sys::signal::kill(pid, signal).expect("kill");
}

fn unread(product: &Product) -> Value {
    product.run(&["status", "--json"]).ok().json()["unread"].clone()
}

/// Whether a uid can open the file twice at a time.
fn twice(product: &Product) -> bool {
    let path = product.path("app/key");
    Run::uid(A).call(|| {
        let _first = std::fs::File::open(&path).expect("open");
        std::fs::File::open(&path).is_ok()
    })
}

#[test]
fn a_file_that_was_not_read_is_not_in_force_and_sighup_reads_it() {
    let _deadline = Deadline::new(Duration::from_secs(60), "reload");
    let product = served();
    product.run(&["config", "check"]).ok();
    configure(
        &product,
        "max_handles_per_uid = 1\nthreads = 7\naudit.segment_bytes = 65536\n",
    );
    let said = product.run(&["config", "check", "--json"]);
    assert_eq!((said.code(), &said.json()["ok"]), (5, &json!(false)));
    assert_eq!(
        said.json()["unread"],
        json!([
            {"key": "audit.segment_bytes", "running": "67108864", "file": "65536", "takes": "reload"},
            {"key": "max_handles_per_uid", "running": "16384", "file": "1", "takes": "reload"},
            {"key": "threads", "running": "4", "file": "7", "takes": "mount"},
        ])
    );
    let said = product.run(&["config", "check"]);
    assert_eq!(said.code(), 5, "{said:?}");
    assert!(
        said.err.contains(&format!("kill -HUP {}", product.pid())),
        "{said:?}"
    );
    assert!(twice(&product), "nothing has changed yet");
    send(&product, libc::SIGHUP);
    wait_until(Duration::from_secs(10), "the file is read again", || {
        unread(&product) == json!([{"key": "threads", "running": "4", "file": "7", "takes": "mount"}])
    });
    assert!(!twice(&product));
    // A file that is not understood changes nothing, and ends nothing.
    configure(&product, "max_handles_per_uid = \"many\"\n");
    send(&product, libc::SIGHUP);
    configure(&product, "max_handles_per_uid = 2\n");
    send(&product, libc::SIGHUP);
    wait_until(Duration::from_secs(10), "the file is read again", || {
        twice(&product)
    });
    assert_eq!(unread(&product), json!([]));
    product.run(&["config", "check"]).ok();
}

#[test]
fn a_service_that_ends_says_why_and_other_signals_do_not_end_it() {
    let _deadline = Deadline::new(Duration::from_secs(60), "the end");
    let mut product = served();
    for signal in [libc::SIGUSR1, libc::SIGUSR2, libc::SIGALRM, libc::SIGHUP] {
        send(&product, signal);
        product.run(&["status"]).ok();
        let value = read_as(A, &[], &product.path("app/key"));
        assert_eq!(value, Ok(b"value".to_vec()), "{signal}");
    }
    let why = |product: &Product| {
        let records = product.records();
        let mut ends = records.iter().filter(|r| r["eventName"] == "Shutdown");
        ends.next_back().expect("a record")["message"]
            .as_str()
            .expect("words")
            .to_string()
    };
    product.stop();
    let said = why(&product);
    assert!(
        said.contains("SIGTERM") && said.contains(&format!("process {}", std::process::id())),
        "{said}"
    );
    let errors = product.dir().join("errors");
    product.mount_saying_to(std::fs::File::create(&errors).expect("create"));
    let target = product.target();
    product.run(&["unmount", target.to_str().expect("text")]).ok();
    assert!(
        product
            .ended(Duration::from_secs(10))
            .is_some_and(|s| s.success())
    );
    let said = why(&product);
    assert!(
        said.contains("unmount was asked for by") && said.contains("uid 0"),
        "{said}"
    );
    let line = std::fs::read_to_string(&errors).expect("read");
    assert!(line.lines().last().is_some_and(|l| l.contains(&said)), "{line}");
    product.mount();
    product.unmount();
    assert!(product.ended(Duration::from_secs(10)).is_some());
    assert!(why(&product).contains("from outside"), "{}", why(&product));
}
