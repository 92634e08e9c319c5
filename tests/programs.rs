//! Programs that read files read secrets, unchanged: each runs as an allowed user against a secret of its kind.

mod support;

use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use support::Run;
use support::product::{A, B, Product};

/// A program as `uid`, with the gid of the same number and no supplementary groups.
fn program(uid: u32, name: &str) -> Command {
    let mut command = Command::new(name);
    command
        .env_clear()
        .envs(support::coverage())
        .env("PATH", "/usr/bin:/bin")
        .env("LC_ALL", "C.UTF-8")
        .env("HOME", "/nonexistent")
        .current_dir("/")
        .stdin(Stdio::null())
        .uid(uid)
        .gid(uid);
    // SAFETY: prctl is async-signal-safe; it ends the child with the test's thread.
    unsafe {
        command.pre_exec(|| {
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
            Ok(())
        });
    }
    command
}

/// What a program wrote, if it ended well.
#[track_caller]
fn out(command: &mut Command) -> Vec<u8> {
    let Output {
        status,
        stdout,
        stderr,
    } = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    let err = String::from_utf8_lossy(&stderr);
    assert!(status.success(), "{command:?}: {status}: {err}");
    stdout
}

/// A directory that belongs to `uid` alone.
fn own_directory(product: &Product, name: &str, uid: u32) -> PathBuf {
    let dir = product.dir().join(name);
    std::fs::create_dir(&dir).unwrap();
    std::fs::set_permissions(&dir, PermissionsExt::from_mode(0o700)).unwrap();
    std::os::unix::fs::chown(&dir, Some(uid), Some(uid)).unwrap();
    dir
}

fn allow_a() -> [String; 2] {
    ["--allow".into(), format!("uid:{A}")]
}

#[track_caller]
fn put(product: &Product, name: &str, value: impl AsRef<[u8]>) {
    product.put(name, value, &allow_a().each_ref().map(String::as_str));
}

/// The value whose every page differs, with every byte in it.
fn every_byte(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i ^ (i >> 8)) as u8).collect()
}

#[test]
fn keys_of_ssh_and_openssl() {
    let _deadline = support::Deadline::new(Duration::from_secs(60), "keys");
    let product = Product::mounted();
    let plain = own_directory(&product, "plain", 0);
    let ssh = plain.join("id");
    out(program(0, "ssh-keygen")
        .args(["-q", "-t", "ed25519", "-N", "", "-C", "words", "-f"])
        .arg(&ssh));
    // ssh wants its user to have a name.
    let user = nix::unistd::User::from_name("www-data")
        .unwrap()
        .expect("www-data");
    product.put(
        "ssh/id",
        std::fs::read(&ssh).unwrap(),
        &["--allow", "user:www-data"],
    );
    let key = product.path("ssh/id");
    let seen = out(program(user.uid.as_raw(), "ssh-keygen")
        .args(["-y", "-f"])
        .arg(&key));
    let public = std::fs::read(ssh.with_extension("pub")).unwrap();
    assert_eq!(seen, public);
    // The control: for another user it is no key.
    let nobody = nix::unistd::User::from_name("nobody").unwrap().expect("nobody");
    let refused = program(nobody.uid.as_raw(), "ssh-keygen")
        .args(["-y", "-f"])
        .arg(&key)
        .output()
        .unwrap();
    assert!(!refused.status.success() && refused.stdout.is_empty());
    assert!(
        String::from_utf8_lossy(&refused.stderr).contains("Permission denied"),
        "{refused:?}"
    );

    let pem = plain.join("tls.pem");
    out(program(0, "openssl")
        .args([
            "genpkey",
            "-algorithm",
            "RSA",
            "-pkeyopt",
            "rsa_keygen_bits:2048",
            "-quiet",
            "-out",
        ])
        .arg(&pem));
    put(&product, "tls/key", std::fs::read(&pem).unwrap());
    let public = |uid, path: &Path| out(program(uid, "openssl").args(["pkey", "-pubout", "-in"]).arg(path));
    assert_eq!(public(A, &product.path("tls/key")), public(0, &pem));
}

/// PostgreSQL on a Unix socket in a directory of its own, with passwords.
struct Postgres {
    child: Child,
    sockets: PathBuf,
}

impl Postgres {
    fn start(product: &Product, password: &str) -> Postgres {
        let user = nix::unistd::User::from_name("postgres")
            .unwrap()
            .expect("the user postgres (tests/run installs it)");
        let uid = user.uid.as_raw();
        let bin = std::fs::read_dir("/usr/lib/postgresql")
            .expect("PostgreSQL (tests/run installs it)")
            .flatten()
            .map(|e| e.path().join("bin"))
            .find(|p| p.join("initdb").exists())
            .expect("initdb");
        let home = own_directory(product, "postgres", uid);
        let sockets = product.dir().join("sockets");
        std::fs::create_dir(&sockets).unwrap();
        std::os::unix::fs::chown(&sockets, Some(uid), None).unwrap();
        let word = home.join("word");
        std::fs::write(&word, password).unwrap();
        std::os::unix::fs::chown(&word, Some(uid), None).unwrap();
        let tool = |name: &str| {
            let mut command = program(uid, bin.join(name).to_str().unwrap());
            command.arg("-D").arg(home.join("data"));
            command
        };
        out(tool("initdb")
            .args([
                "-N",
                "-U",
                "app",
                "-A",
                "scram-sha-256",
                "-E",
                "UTF8",
                "--locale=C",
                "--pwfile",
            ])
            .arg(&word));
        let child = tool("postgres")
            .args(["-F", "-c", "listen_addresses=", "-c", "shared_buffers=1MB", "-k"])
            .arg(&sockets)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut server = Postgres { child, sockets };
        let begin = Instant::now();
        while !program(uid, bin.join("pg_isready").to_str().unwrap())
            .arg("-qh")
            .arg(&server.sockets)
            .status()
            .unwrap()
            .success()
        {
            assert!(server.child.try_wait().unwrap().is_none(), "PostgreSQL ended");
            assert!(
                begin.elapsed() < Duration::from_secs(30),
                "PostgreSQL is not ready"
            );
            std::thread::sleep(Duration::from_millis(20));
        }
        server
    }

    fn ask(&self, uid: u32, passfile: &Path) -> Output {
        program(uid, "psql")
            .env("PGPASSFILE", passfile)
            .args(["-XAtw", "-U", "app", "-d", "postgres", "-c", "select 6*7", "-h"])
            .arg(&self.sockets)
            .output()
            .unwrap()
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        // SAFETY: the child is not reaped, so its pid is its own. SIGQUIT: it ends at once, its children too.
        unsafe { libc::kill(self.child.id() as i32, libc::SIGQUIT) };
        let _ = self.child.wait();
    }
}

#[test]
fn psql_with_a_passfile() {
    let _deadline = support::Deadline::new(Duration::from_secs(90), "psql");
    let product = Product::mounted();
    let server = Postgres::start(&product, "pa55:word");
    put(&product, "app/pgpass", "*:*:*:app:pa55\\:word\n");
    let file = product.path("app/pgpass");
    let said = server.ask(A, &file);
    assert_eq!(said.stdout, b"42\n", "{said:?}");
    // It is the file that lets him in, and libpq ignores one that others may read.
    for (uid, passfile) in [(A, Path::new("/nonexistent")), (B, &file)] {
        let said = server.ask(uid, passfile);
        assert!(!said.status.success() && said.stdout.is_empty(), "{said:?}");
    }
    product.put(
        "app/loose",
        "*:*:*:app:pa55\\:word\n",
        &["--allow", &format!("uid:{A}"), "--mode", "0440"],
    );
    let said = server.ask(A, &product.path("app/loose"));
    assert!(
        !said.status.success(),
        "libpq must not take a file of mode 0440: {said:?}"
    );
    // A new password, without a restart of anything.
    let file_text = "*:*:*:app:n3w\n";
    let changed = program(A, "psql")
        .env("PGPASSFILE", &file)
        .args([
            "-XAtw",
            "-U",
            "app",
            "-d",
            "postgres",
            "-c",
            "alter user app password 'n3w'",
            "-h",
        ])
        .arg(&server.sockets)
        .output()
        .unwrap();
    assert!(changed.status.success(), "{changed:?}");
    assert!(!server.ask(A, &file).status.success(), "the old password");
    product.put("app/pgpass", file_text, &[]);
    assert_eq!(server.ask(A, &file).stdout, b"42\n");
}

#[test]
fn programs_that_copy_and_filter() {
    let _deadline = support::Deadline::new(Duration::from_secs(90), "copies");
    let product = Product::mounted();
    let home = own_directory(&product, "home", A);
    let values = [
        every_byte(1),
        b"s3cret\n".to_vec(),
        every_byte(4096),
        every_byte(65536),
    ];
    for (i, value) in values.iter().enumerate() {
        let name = format!("value/{i}");
        put(&product, &name, value);
        let file = product.path(&name);
        let fresh = |what: &str| home.join(format!("{what}-{i}"));
        let is = |what: &str, got: Vec<u8>| {
            assert!(got == *value, "{what}: {} of {} bytes", got.len(), value.len())
        };

        is("cat", out(program(A, "cat").arg(&file)));
        is("tail", out(program(A, "tail").args(["-c", "+1"]).arg(&file)));
        is("head", out(program(A, "head").args(["-c", "65536"]).arg(&file)));
        for size in ["1", "7", "4096", "1M"] {
            // Each read is decided and recorded: many small ones of the long value take long, and say no more.
            if size.len() == 1 && value.len() > 4096 {
                continue;
            }
            is(
                "dd",
                out(program(A, "dd")
                    .args([&format!("bs={size}"), "status=none"])
                    .arg(format!("if={}", file.display()))),
            );
        }
        for (what, line) in [
            ("cp", "cp \"$1\" \"$2\""),
            ("cp-a", "cp --preserve=mode,ownership,timestamps \"$1\" \"$2\""),
            ("cp-reflink", "cp --reflink=auto --sparse=auto \"$1\" \"$2\""),
            ("install", "install -m 600 \"$1\" \"$2\""),
            ("redirect", "cat < \"$1\" > \"$2\""),
            ("tar", "tar -C / -cf - \"${1#/}\" | tar -xOf - > \"$2\""),
            ("base64", "base64 \"$1\" | base64 -d > \"$2\""),
        ] {
            let copy = fresh(what);
            out(program(A, "sh").args(["-c", line, "sh"]).arg(&file).arg(&copy));
            is(what, std::fs::read(&copy).unwrap());
        }
        for (what, line) in [
            (
                "open",
                "import sys; open(sys.argv[2],'wb').write(open(sys.argv[1],'rb').read())",
            ),
            (
                "copyfile",
                "import sys, shutil; shutil.copyfile(sys.argv[1], sys.argv[2])",
            ),
            (
                "copy2",
                "import sys, shutil; shutil.copy2(sys.argv[1], sys.argv[2])",
            ),
            (
                "pathlib",
                "import sys, pathlib as p; p.Path(sys.argv[2]).write_bytes(p.Path(sys.argv[1]).read_bytes())",
            ),
            (
                "unbuffered",
                "import sys; open(sys.argv[2],'wb').write(open(sys.argv[1],'rb',0).read())",
            ),
        ] {
            let copy = fresh(what);
            out(program(A, "/usr/bin/python3")
                .args(["-c", line])
                .arg(&file)
                .arg(&copy));
            is(what, std::fs::read(&copy).unwrap());
        }
        let copy = fresh("rust");
        let copied: Result<u64, String> =
            Run::uid(A).call(|| std::fs::copy(&file, &copy).map_err(|e| e.to_string()));
        assert_eq!(copied, Ok(value.len() as u64));
        is("fs::copy", std::fs::read(&copy).unwrap());
        let seen = out(program(A, "stat").args(["-c", "%s %a %u %g %F"]).arg(&file));
        assert_eq!(
            String::from_utf8_lossy(&seen),
            format!("{} 400 {A} {A} regular file\n", value.len())
        );
        let sum = |path: &Path| {
            let line = out(program(0, "sha256sum").arg(path));
            line[..64].to_vec()
        };
        assert_eq!(out(program(A, "sha256sum").arg(&file))[..64], sum(&copy)[..]);
    }
    put(&product, "app/env", "export WORD='from a file'\n");
    let said = out(program(A, "sh")
        .args(["-c", ". \"$1\"; printf %s \"$WORD\"", "sh"])
        .arg(product.path("app/env")));
    assert_eq!(said, b"from a file");
    // None of them worked because the file is open to all.
    for name in ["cat", "sha256sum", "wc"] {
        let said = program(B, name).arg(product.path("value/1")).output().unwrap();
        assert!(!said.status.success(), "{name}: {said:?}");
        assert!(
            String::from_utf8_lossy(&said.stderr).contains("Permission denied"),
            "{name}: {said:?}"
        );
    }
    assert!(
        product
            .records()
            .iter()
            .all(|r| r["uid"] != B || r["outcome"] == "denied")
    );
}

#[test]
fn inotifywait_hears_of_a_new_value() {
    let _deadline = support::Deadline::new(Duration::from_secs(60), "inotifywait");
    let product = Product::mounted();
    put(&product, "app/token", "one");
    for (watched, value) in [("app/token", "two"), ("app", "three")] {
        let mut child = program(A, "inotifywait")
            .args(["-t", "20", "-e", "modify,close_write", "--format", "%e %w%f"])
            .arg(product.path(watched))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let said = BufReader::new(child.stderr.take().unwrap());
        let ready = said
            .lines()
            .map_while(Result::ok)
            .any(|l| l.contains("Watches established"));
        assert!(ready, "inotifywait did not begin to watch");
        product.put("app/token", value, &[]);
        let heard = child.wait_with_output().unwrap();
        assert!(heard.status.success(), "{watched}: {heard:?}");
        let heard = String::from_utf8_lossy(&heard.stdout).into_owned();
        assert!(
            heard.contains(&*product.path("app/token").to_string_lossy()),
            "{watched}: {heard}"
        );
        assert_eq!(
            out(program(A, "cat").arg(product.path("app/token"))),
            value.as_bytes()
        );
    }
}
