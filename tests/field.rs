//! Programs that trust what a stat says (tar, rsync, git, node, Java, a 32-bit program), while somebody holds an older
//! and longer version: each gets the value whole and nothing behind it, and the holder keeps his.

mod support;

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use support::product::{A, Product};
use support::{Child, Run};

const NEW: &[u8] = b"the-new-value-is-short";

/// A mounted store in which [`A`] holds an older version of `app/key`, which is longer, until the child is told to end.
fn held() -> (Product, Vec<u8>, Child<Vec<u8>>) {
    let mut product = Product::new();
    let old = vec![b'o'; 5_000];
    product.put("app/key", &old, &["--allow", &format!("uid:{A}")]);
    product.put("app/other", b"other", &["--allow", &format!("uid:{A}")]);
    product.mount();
    let (path, ready) = (product.path("app/key"), product.dir().join("ready"));
    std::fs::write(&ready, "").expect("write");
    std::fs::set_permissions(&ready, PermissionsExt::from_mode(0o666)).expect("chmod");
    let (seen, go) = (ready.clone(), ready.clone());
    let holder = Run::uid(A).limit(Duration::from_secs(100)).start(move || {
        let mut file = std::fs::File::open(path).expect("open");
        std::fs::write(&ready, "held").expect("write");
        support::wait_until(Duration::from_secs(90), "leave to read", || {
            std::fs::read(&go).is_ok_and(|t| t == b"read")
        });
        assert_eq!(
            file.metadata().expect("fstat").len(),
            5_000,
            "the holder's own size"
        );
        let mut all = Vec::new();
        std::io::Read::read_to_end(&mut file, &mut all).expect("read");
        all
    });
    support::wait_until(Duration::from_secs(10), "the holder", || {
        std::fs::read(&seen).is_ok_and(|t| t == b"held")
    });
    product.put("app/key", NEW, &[]);
    (product, old, holder)
}

/// Runs a program as [`A`] in a directory of its own, and gives what it said.
fn run(directory: &Path, program: &str, args: &[&str]) -> Vec<u8> {
    let user = A.to_string();
    let mut command = Command::new("setpriv");
    command
        .args(["--reuid", &user, "--regid", &user, "--clear-groups", program])
        .args(args);
    let said = command
        .current_dir(directory)
        .env("HOME", directory)
        .output()
        .expect("run");
    assert!(said.status.success(), "{program}: {said:?}");
    said.stdout
}

#[test]
fn programs_that_trust_a_stat_beside_a_held_older_version() {
    let _deadline = support::Deadline::new(Duration::from_secs(110), "programs beside a held version");
    let (product, old, holder) = held();
    let work = tempfile::Builder::new()
        .prefix("wardfs-field-")
        .tempdir_in("/var/tmp")
        .expect("a directory");
    std::fs::set_permissions(work.path(), PermissionsExt::from_mode(0o777)).expect("chmod");
    let here = work.path();
    let (file, other) = (product.path("app/key"), product.path("app/other"));
    let (file, other) = (file.to_str().expect("a path"), other.to_str().expect("a path"));

    let archive = here.join("a.tar");
    run(here, "tar", &["-cPf", archive.to_str().expect("a path"), file]);
    assert_eq!(
        run(here, "tar", &["-xPOf", archive.to_str().expect("a path")]),
        NEW
    );
    run(here, "rsync", &["-a", file, "copied"]);
    assert_eq!(std::fs::read(here.join("copied")).expect("copied"), NEW);
    std::fs::write(here.join("expected"), NEW).expect("write");
    let hash = |path: &str| run(here, "git", &["hash-object", path]);
    assert_eq!(hash(file), hash("expected"));

    let script = "const f=require('fs'),[a,b]=process.argv.slice(1),s=f.statSync(a),v=f.readFileSync(a);\
                  f.copyFileSync(a,'node-copy');\
                  console.log(s.size,v.length,f.readFileSync('node-copy').equals(v),s.ino!==f.statSync(b).ino);";
    let said = run(here, "node", &["-e", script, file, other]);
    let size = NEW.len();
    assert_eq!(
        String::from_utf8_lossy(&said),
        format!("{size} {size} true true\n")
    );

    let source = here.join("Read.java");
    std::fs::write(&source, JAVA).expect("write");
    let said = run(here, "java", &[source.to_str().expect("a path"), file]);
    assert_eq!(String::from_utf8_lossy(&said), format!("{size} {size} {size}\n"));

    let (source, program) = (here.join("small.c"), here.join("small"));
    std::fs::write(&source, SMALL).expect("write");
    let built = Command::new("gcc")
        .arg("-m32")
        .arg("-o")
        .args([&program, &source])
        .status();
    assert!(built.expect("gcc").success());
    let said = run(
        here,
        program.to_str().expect("a path"),
        &[file, product.path("app").to_str().expect("a path")],
    );
    assert_eq!(
        String::from_utf8_lossy(&said),
        format!("{size} {size} 2\n"),
        "with 32-bit numbers"
    );

    std::fs::write(product.dir().join("ready"), "read").expect("write");
    assert_eq!(holder.join(), old);
}

const JAVA: &str = r#"
import java.nio.file.*;
public class Read {
    public static void main(String[] args) throws Exception {
        Path path = Path.of(args[0]), copy = Path.of("java-copy");
        Files.copy(path, copy);
        System.out.println(Files.size(path) + " " + Files.readAllBytes(path).length + " " + Files.size(copy));
    }
}
"#;

/// Without large file support: a number that does not fit is EOVERFLOW.
const SMALL: &str = r#"
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>
int main(int count, char **args) {
    struct stat s;
    char buffer[8192];
    if (stat(args[1], &s)) { perror("stat"); return 1; }
    int file = open(args[1], O_RDONLY);
    if (file < 0 || fstat(file, &s)) { perror("fstat"); return 1; }
    long got = read(file, buffer, sizeof buffer);
    int names = 0;
    DIR *dir = opendir(args[2]);
    if (!dir) { perror("opendir"); return 1; }
    for (struct dirent *e; (e = readdir(dir));) names += e->d_name[0] != '.';
    printf("%ld %ld %d\n", (long)s.st_size, got, names);
    return 0;
}
"#;
