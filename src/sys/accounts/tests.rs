use super::files::{Places, Texts};
use super::*;

fn texts(subuid: &str) -> Texts {
    Texts {
        passwd: "root:x:0:0::/root:/bin/sh\nalice:x:1000:1000::/:/bin/sh\nbob:x:1001:100::/:/bin/sh\n+nis\nbad:x:y:1\n".into(),
        group: "ops:x:50:alice,carol\nusers:x:100:alice\n".into(),
        subuid: subuid.into(),
        nsswitch: String::new(),
    }
}

fn files(subuid: &str) -> Files {
    Files::parse(&texts(subuid))
}

fn lent(files: &Files, uid: u32) -> Option<Option<Vec<u32>>> {
    files
        .lent(Uid(uid))
        .map(|owners| owners.as_ref().map(|all| all.iter().map(|u| u.0).collect()))
}

const FOREIGN: fn() -> Namespace = || Namespace::Foreign;
const INITIAL: fn() -> Namespace = || Namespace::Initial;
const UNASKED: fn() -> Namespace = || panic!("the namespace does not decide here");

#[test]
fn a_sub_uid_is_its_owners() {
    let files = files("alice:100000:65536\n# alice:0:1\nbob:165536:10\n1000:300000:1\nalice:x:1\nalice:5\n");
    for (uid, owners) in [
        (99_999, None),
        (100_000, Some(Some(vec![1000]))),
        (165_535, Some(Some(vec![1000]))),
        (165_536, Some(Some(vec![1001]))),
        (165_545, Some(Some(vec![1001]))),
        (165_546, None),
        (300_000, Some(Some(vec![1000]))),
        (300_001, None),
        (0, None),
    ] {
        assert_eq!(lent(&files, uid), owners, "{uid}");
    }
}

/// What newuidmap takes, with more fields and in other bases, is a range here too.
#[test]
fn numbers_are_read_as_shadow_reads_them() {
    let files = files(
        "alice:5000:10:\nalice:0x7D0:10\nalice:05670:10:more:fields\nalice: +4000 :1\nalice:0x:1\nalice:08:1\n",
    );
    for (uid, owner) in [
        (5000, true),
        (2000, true),
        (3000, true),
        (4000, true),
        (0, false),
        (8, false),
    ] {
        assert_eq!(lent(&files, uid), owner.then(|| Some(vec![1000])), "{uid}");
    }
}

#[test]
fn ranges_that_overlap_have_all_their_owners() {
    let files =
        files("root:100000:100\nalice:100050:100\nbob:100050:1\nnobodyknows:200000:5\nalice:200004:1\n");
    assert_eq!(lent(&files, 100_000), Some(Some(vec![0])));
    assert_eq!(lent(&files, 100_050), Some(Some(vec![0, 1000, 1001])));
    assert_eq!(lent(&files, 100_051), Some(Some(vec![0, 1000])));
    assert_eq!(lent(&files, 100_149), Some(Some(vec![1000])));
    assert_eq!(lent(&files, 100_150), None);
    // Whose name has no number: it cannot be known.
    assert_eq!(lent(&files, 200_000), Some(None));
    assert_eq!(lent(&files, 200_004), Some(None));
}

#[test]
fn ranges_to_the_end_of_numbers_and_of_nothing() {
    let files = files("alice:4294967000:4294967295\nbob:70000:0\n");
    assert_eq!(lent(&files, u32::MAX - 1), Some(Some(vec![1000])));
    assert_eq!(lent(&files, 70_000), None);
}

#[test]
fn who_is_lent_an_account_is_lent_what_that_one_is_lent() {
    let files = files("alice:1001:1\nbob:100000:10\nroot:1000:1\n");
    assert_eq!(lent(&files, 1001), Some(Some(vec![1000])));
    assert_eq!(lent(&files, 100_000), Some(Some(vec![1001, 1000])));
    // Root can be anybody without it.
    assert_eq!(lent(&files, 1000), None);
}

#[test]
fn a_deny_takes_a_uid_for_everybody_that_it_may_be() {
    let files = files("alice:100000:65536\nnobodyknows:200000:5\n");
    let others = |uid, namespace: fn() -> Namespace| {
        let others = others_by(&files, None, Uid(uid), namespace);
        others.map(|all| all.iter().map(|u| u.0).collect::<Vec<_>>())
    };
    assert_eq!(others(100_007, UNASKED), Some(vec![1000]));
    assert_eq!(others(200_000, UNASKED), None);
    assert_eq!(others(1000, UNASKED), Some(vec![]));
    // Of no account and no range: believed where nobody can lend him a uid.
    assert_eq!(others(61_002, INITIAL), Some(vec![]));
    assert_eq!(others(61_002, FOREIGN), None);
    for dynamic in [61_184, 65_519] {
        assert_eq!(others(dynamic, UNASKED), Some(vec![]));
    }
}

#[test]
fn a_deny_counts_the_groups_of_the_user_database() {
    let files = files("alice:100000:65536\nalice:1001:1\nnobodyknows:200000:5\n");
    let groups = |uid, namespace: fn() -> Namespace| {
        let groups = groups_by(&files, None, Uid(uid), namespace);
        groups.map(|all| all.iter().map(|g| g.0).collect::<Vec<_>>())
    };
    assert_eq!(groups(1000, UNASKED), Some(vec![1000, 50, 100]));
    assert_eq!(groups(100_007, UNASKED), Some(vec![1000, 50, 100]));
    assert_eq!(groups(1001, UNASKED), Some(vec![1000, 50, 100, 100]));
    assert_eq!(groups(200_000, UNASKED), None);
    assert_eq!(groups(61_002, INITIAL), Some(vec![]));
    assert_eq!(groups(61_002, FOREIGN), None);
    assert_eq!(groups(61_184, FOREIGN), Some(vec![]));
}

#[test]
fn what_a_name_service_gives_besides_is_not_known_yet() {
    let with = |nsswitch: &str| {
        Files::parse(&Texts {
            nsswitch: nsswitch.into(),
            ..texts("")
        })
    };
    for (line, groups, subids) in [
        ("", true, true),
        ("group: files # sss", true, true),
        ("group: files [NOTFOUND=return] files\nsubid: files", true, true),
        ("group:files sss", false, true),
        ("group: files\ninitgroups: files sss", false, true),
        ("group: sss\ninitgroups : files", true, true),
        ("subid: sss", true, false),
    ] {
        let files = with(line);
        assert_eq!(
            (files.has_all_groups(), files.lends_all()),
            (groups, subids),
            "{line}"
        );
    }
    let elsewhere = with("group: files sss");
    assert_eq!(groups_by(&elsewhere, None, Uid(1000), FOREIGN), None);
    let own = groups_by(&elsewhere, None, Uid(1000), INITIAL).unwrap();
    assert_eq!(*own, [Gid(1000), Gid(50), Gid(100)]);
    // Ids are lent by somebody who cannot be asked here: one that is no account's is nobody's for sure in no namespace.
    assert_eq!(others_by(&with("subid: sss"), None, Uid(61_002), INITIAL), None);
    assert_eq!(
        others_by(&with("subid: sss"), None, Uid(1000), FOREIGN).as_deref(),
        Some(&[][..])
    );
}

#[test]
fn the_initial_namespace_has_one_map() {
    assert_eq!(
        namespace_of_map(b"         0          0 4294967295\n"),
        Namespace::Initial
    );
    for other in [
        "",
        "\n",
        "0 0 4294967294\n",
        "0 1000 1\n",
        "0 1 4294967295\n",
        "1 0 4294967295\n",
        "0 0 4294967295\n1 1 1\n",
        "0 0",
        "0 0 42949672950",
    ] {
        assert_eq!(
            namespace_of_map(other.as_bytes()),
            Namespace::Foreign,
            "{other:?}"
        );
    }
    assert_eq!(
        namespace_of_map(&std::fs::read("/proc/self/uid_map").unwrap()),
        Namespace::Initial
    );
}

#[test]
fn every_change_of_a_file_is_seen() {
    let dir = tempfile::tempdir().unwrap();
    let place = |name: &str| -> &'static str { dir.path().join(name).to_str().unwrap().to_string().leak() };
    let places = Places {
        passwd: place("passwd"),
        group: place("group"),
        subuid: place("subuid"),
        nsswitch: place("nsswitch.conf"),
    };
    let (mut seen, files) = places.read().unwrap();
    assert_eq!(lent(&files, 5), None, "there are no files");
    assert!(places.read_if_changed(&seen).unwrap().is_none());
    // Of the same size, and within a tick of the clock: until a file has been as it is for a while, it is read each time.
    for first in (0..200).map(|n| 100_000 + n) {
        std::fs::write(places.subuid, format!("1000:{first}:1\n")).unwrap();
        let (now, files) = places.read_if_changed(&seen).unwrap().expect("a change");
        seen = now;
        assert_eq!(lent(&files, first), Some(Some(vec![1000])));
        assert_eq!(lent(&files, first - 1), None);
    }
    std::fs::remove_file(places.subuid).unwrap();
    let (_, files) = places.read_if_changed(&seen).unwrap().expect("a change");
    assert_eq!(lent(&files, 100_199), None);
    std::fs::create_dir(places.subuid).unwrap();
    assert!(
        places.read().is_err(),
        "what cannot be read is not taken for empty"
    );
}
