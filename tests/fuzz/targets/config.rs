//! Any text as a configuration, and any words of the command line.
#![no_main]

use libfuzzer_sys::fuzz_target;
use wardfs::config::Config;

fuzz_target!(|text: &str| {
    match Config::parse(text) {
        Ok(config) => assert!((1..=64).contains(&config.threads)),
        Err(why) => assert!(why.contains("line "), "{why}"),
    }
    if let Some((key, value)) = text.split_once('=') {
        let _ = Config::default().with(&[(key.to_string(), value.to_string())]);
    }
    let _ = text.parse::<wardfs::id::SecretName>();
    let _ = text.parse::<wardfs::id::Label>();
    let _ = text.parse::<wardfs::id::VersionId>();
    let _ = text.parse::<wardfs::policy::Attached>();
    let _ = wardfs::seal::RecoveryKey::parse(text.as_bytes());
    assert!(!wardfs::id::printable(text).contains(['\n', '\u{1b}']));
});
