//! What `/proc/PID/status` says of a process.

/// A field in KiB, as `VmRSS`; `None` if there is no such process or field.
pub fn status_kib(pid: u32, field: &str) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let mut values = status
        .lines()
        .filter_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    values.next()?.split_whitespace().next()?.parse().ok()
}
