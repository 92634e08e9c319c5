//! A uid that nobody has: the owner that the kernel keeps of a file, so that no reader is it. Who owns a file may take a
//! lease on it, and open it with `O_NOATIME`.

use super::accounts;
use crate::id::Uid;

/// Above all that Linux distributions, systemd and container engines give to anybody, below 2^31.
const FIRST: u32 = 2_147_000_000;
const TRIED: u32 = 1000;

/// A number that is neither an account nor lent to one, as uid and gid, and that exists in this user namespace. Asks the
/// user database: for the beginning of service.
pub fn unused() -> Option<Uid> {
    let maps = ["/proc/self/uid_map", "/proc/self/gid_map"].map(std::fs::read_to_string);
    let [Ok(uids), Ok(gids)] = maps else { return None };
    (FIRST..FIRST + TRIED).map(Uid).find(|id| {
        let account = nix::unistd::User::from_uid(nix::unistd::Uid::from_raw(id.0));
        maps_to(&uids, *id)
            && maps_to(&gids, *id)
            && accounts::owner(*id) == *id
            && matches!(account, Ok(None))
    })
}

/// Whether a namespace's map (first inside, first outside, count in each line) has this number.
fn maps_to(map: &str, id: Uid) -> bool {
    map.lines().any(|line| {
        let mut parts = line.split_whitespace().map(str::parse::<u64>);
        let (Some(Ok(first)), Some(Ok(_)), Some(Ok(count))) = (parts.next(), parts.next(), parts.next())
        else {
            return false;
        };
        (first..first.saturating_add(count)).contains(&u64::from(id.0))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_exists_here_and_is_nobodys() {
        let id = unused().expect("the first namespace has them all");
        assert!(id.0 >= FIRST && id.0 != 65_534);
        let whole = "         0          0 4294967295\n";
        let rootless = "         0       1000          1\n         1     100000      65536\n";
        assert!(maps_to(whole, id) && !maps_to(rootless, id));
        assert!(maps_to(rootless, Uid(65_536)) && !maps_to(rootless, Uid(65_537)));
        assert!(!maps_to("nonsense", id));
    }
}
