//! What people do instead of a file: a process that decrypts for each read, and a new connection to a local server.

use std::io::{Read, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

fn median_us(count: usize, mut f: impl FnMut()) -> f64 {
    let mut times: Vec<f64> = (0..count)
        .map(|_| {
            let begun = Instant::now();
            f();
            begun.elapsed().as_nanos() as f64 / 1000.0
        })
        .collect();
    times.sort_unstable_by(f64::total_cmp);
    times[times.len() / 2]
}

fn row(what: &str, us: Option<f64>) {
    match us {
        Some(us) => println!("  {what:<52} {us:>8.0} µs"),
        None => println!("  {what:<52} is not installed"),
    }
}

/// Whether it ran well; nothing of it is shown.
fn ran(command: &mut Command, input: &[u8]) -> bool {
    let Ok(mut child) = command
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
    else {
        return false;
    };
    let _ = child.stdin.take().unwrap().write_all(input);
    child.wait().is_ok_and(|s| s.success())
}

/// The rows.
pub fn print(dir: &Path) {
    println!("\nwhat people do instead, 32 bytes, one after the other, medians:");
    let at = |name: &str| dir.join(name).to_str().unwrap().to_string();
    let value = [b'x'; 32];

    let (key, sealed) = (at("age.key"), at("age.sealed"));
    let made = ran(Command::new("age-keygen").args(["-o", &key]), b"");
    let age = made.then(|| {
        let text = std::fs::read_to_string(&key).unwrap();
        let recipient = text
            .lines()
            .find_map(|l| l.strip_prefix("# public key: "))
            .unwrap()
            .to_string();
        assert!(ran(
            Command::new("age").args(["-r", &recipient, "-o", &sealed]),
            &value
        ));
        median_us(50, || {
            assert!(ran(Command::new("age").args(["-d", "-i", &key, &sealed]), b""))
        })
    });
    row("age -d, a process for each", age);

    let (secret, sealed) = (at("host.secret"), at("host.sealed"));
    let creds = |args: &[&str]| {
        let mut command = Command::new("systemd-creds");
        command.env("SYSTEMD_CREDENTIAL_SECRET", &secret).args(args);
        command
    };
    let made = ran(&mut creds(&["setup"]), b"")
        && ran(
            &mut creds(&["encrypt", "--with-key=host", "--name=x", "-", &sealed]),
            &value,
        );
    let systemd = made.then(|| {
        median_us(50, || {
            assert!(ran(&mut creds(&["decrypt", "--name=x", &sealed, "-"]), b""))
        })
    });
    row("systemd-creds decrypt, a process for each", systemd);

    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let mut stream = stream;
            let mut request = [0; 256];
            let _ = stream.read(&mut request);
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 32\r\nConnection: close\r\n\r\n");
            let _ = stream.write_all(&[b'x'; 32]);
        }
    });
    let http = median_us(500, || {
        let mut stream = std::net::TcpStream::connect(address).unwrap();
        stream
            .write_all(b"GET /x HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            .unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        assert!(answer.ends_with(&[b'x'; 32]));
    });
    row("a new loopback HTTP connection, plain, unchecked", Some(http));
}
