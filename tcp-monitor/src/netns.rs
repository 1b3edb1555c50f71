//! Network namespaces: finding them, and running code inside one.
//!
//! A namespace exists as long as something refers to it: a process, a mount, an open file, a
//! socket. The agent must not keep the namespaces of dead containers alive, so it releases those
//! that no process and no mount refers to any more.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io,
    os::{fd::AsFd, unix::fs::MetadataExt},
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use rustix::{
    fs::{FlockOperation, flock},
    thread::{LinkNameSpaceType, move_into_link_name_space},
};

/// Which network namespaces are watched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NetnsSelection {
    /// Every namespace that a process is in or that is mounted somewhere, later ones included.
    All,
    /// Only the process's own.
    OwnOnly,
    /// Only the one of this name (`ip netns`), or at this path if there is a `/` in it.
    Named(String),
}

/// An open network namespace, kept alive by being open.
#[derive(Debug)]
pub(crate) struct Netns {
    pub(crate) inum: u32,
    file: File,
}

impl Netns {
    /// The namespace of the process.
    pub(crate) fn own() -> io::Result<Self> {
        Self::open(&Self::own_path())
    }

    /// Where that is.
    pub(crate) fn own_path() -> PathBuf {
        PathBuf::from(OWN)
    }

    /// Where the namespace called `name` is, or the one at that path if there is a `/` in it.
    pub(crate) fn path(name: &str) -> PathBuf {
        if name.contains('/') { PathBuf::from(name) } else { Path::new(NAMED).join(name) }
    }

    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        let inum = u32::try_from(file.metadata()?.ino())
            .map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "it is no network namespace"))?;
        Ok(Self { inum, file })
    }
}

/// The agent lock of a namespace: an flock on the namespace itself. Every agent with filters there
/// holds it shared, and the kernel releases it however the agent ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AgentLock {
    /// Held exclusively: no other agent has filters there. Those that are there were left by one
    /// that was killed.
    Exclusive,
    /// Not held: another agent has it, or that is not known.
    NotHeld,
}

impl Netns {
    /// Tries to take the agent lock exclusively.
    pub(crate) fn try_lock(&self) -> AgentLock {
        match flock(&self.file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => AgentLock::Exclusive,
            Err(error) => {
                log::debug!("filters in network namespace {} may be another agent's: {error}", self.inum);
                AgentLock::NotHeld
            }
        }
    }

    /// Takes the agent lock shared, for as long as the namespace is open.
    pub(crate) fn lock_shared(&self) {
        // An agent holds it exclusively only while it cleans up, which takes a moment.
        for _ in 0..LOCK_ATTEMPTS {
            match flock(&self.file, FlockOperation::NonBlockingLockShared) {
                Ok(()) => return,
                Err(_) => thread::sleep(LOCK_PAUSE),
            }
        }
        log::debug!("network namespace {} cannot be locked", self.inum);
    }

    /// Releases the agent lock.
    pub(crate) fn unlock(&self) {
        // It fails only if it is not held.
        let _ = flock(&self.file, FlockOperation::Unlock);
    }
}

/// Runs code of the calling thread inside other network namespaces.
///
/// Only for a thread that does nothing else: the whole thread is in the other namespace meanwhile.
pub(crate) struct NamespaceSwitcher {
    home: Netns,
}

impl NamespaceSwitcher {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self { home: Netns::own()? })
    }

    /// The inode number of the thread's own namespace.
    pub(crate) fn home(&self) -> u32 {
        self.home.inum
    }

    /// Runs `act` inside `netns`.
    ///
    /// # Errors
    /// If the thread cannot enter it, or not return.
    pub(crate) fn run_in<T>(&self, netns: &Netns, act: impl FnOnce() -> T) -> io::Result<T> {
        if netns.inum == self.home.inum {
            return Ok(act());
        }
        enter(netns)?;
        let result = act();
        enter(&self.home)?;
        Ok(result)
    }
}

fn enter(netns: &Netns) -> io::Result<()> {
    Ok(move_into_link_name_space(netns.file.as_fd(), Some(LinkNameSpaceType::Network))?)
}

/// Every network namespace that a process is in or that is mounted, and a path it can be opened by.
///
/// Processes that have ended or belong to another user are left out.
///
/// # Errors
/// If not all can be found, for lack of descriptors or memory: a namespace that is missing then may
/// still exist.
pub(crate) fn discover() -> io::Result<BTreeMap<u32, PathBuf>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir("/proc")? {
        let entry = entry?;
        if !entry.file_name().as_encoded_bytes().iter().all(u8::is_ascii_digit) {
            continue;
        }
        let path = entry.path().join("ns/net");
        let link = fs::read_link(&path).unwrap_or_default();
        if let Some(inum) = link.to_str().and_then(parse_link) {
            found.entry(inum).or_insert(path);
        }
    }
    let mounts = fs::read_to_string("/proc/self/mountinfo")?;
    for (inum, path) in mounts.lines().filter_map(parse_mount) {
        // A mount lasts longer than most processes.
        found.insert(inum, path);
    }
    Ok(found)
}

/// The names of network namespaces (`ip netns`), by inode. What cannot be read is left out.
pub(crate) fn named_namespaces() -> Vec<(u32, String)> {
    let entries = fs::read_dir(NAMED).into_iter().flatten().flatten();
    let named = entries.filter_map(|entry| {
        // Of the namespace that is mounted there, not of the directory's entry.
        let inum = u32::try_from(fs::metadata(entry.path()).ok()?.ino()).ok()?;
        Some((inum, entry.file_name().to_string_lossy().into_owned()))
    });
    named.collect()
}

/// `net:[4026531840]`.
fn parse_link(link: &str) -> Option<u32> {
    link.strip_prefix("net:[")?.strip_suffix(']')?.parse().ok()
}

/// The namespace and mount point of a line of mountinfo (proc_pid_mountinfo(5)), if it is a network
/// namespace's.
fn parse_mount(line: &str) -> Option<(u32, PathBuf)> {
    let mut fields = line.split(' ').skip(3);
    let inum = parse_link(fields.next()?)?;
    Some((inum, PathBuf::from(unescape(fields.next()?)?)))
}

/// Undoes the octal escapes of mountinfo: `\040` is a space.
fn unescape(text: &str) -> Option<String> {
    let mut parts = text.split('\\');
    let mut plain = parts.next()?.to_owned();
    for part in parts {
        let (digits, rest) = part.split_at_checked(3)?;
        plain.push(char::from(u8::from_str_radix(digits, 8).ok()?));
        plain.push_str(rest);
    }
    Some(plain)
}

const LOCK_ATTEMPTS: u32 = 50;
const LOCK_PAUSE: Duration = Duration::from_millis(20);
const OWN: &str = "/proc/self/ns/net";
const NAMED: &str = "/run/netns";

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::{parse_link, parse_mount};

    #[test]
    fn the_inode_number_is_read_from_the_link() {
        assert_eq!(parse_link("net:[4026531840]"), Some(4_026_531_840));
        for link in ["mnt:[4026531840]", "net:[]", "net:[4026531840", "net:[99999999999]", ""] {
            assert_eq!(parse_link(link), None, "{link}");
        }
    }

    #[test]
    fn mounts_of_network_namespaces_are_found() {
        for (line, expected) in [
            (
                "611 29 0:4 net:[4026532345] /run/netns/a rw shared:5 - nsfs nsfs rw",
                Some((4_026_532_345, "/run/netns/a")),
            ),
            (
                r"611 29 0:4 net:[4026532345] /run/my\040netns\134x rw - nsfs nsfs rw",
                Some((4_026_532_345, r"/run/my netns\x")),
            ),
            ("612 29 0:4 mnt:[4026532345] /run/mnt/a rw - nsfs nsfs rw", None),
            ("22 29 0:21 / /proc rw,nosuid - proc proc rw", None),
            (r"611 29 0:4 net:[1] /run/a\0", None),
            (r"611 29 0:4 net:[1] /run/a\0é9", None),
            ("611 29 0:4 net:[1]", None),
            ("", None),
        ] {
            let expected = expected.map(|(inum, path)| (inum, PathBuf::from(path)));
            assert_eq!(parse_mount(line), expected, "{line}");
        }
    }
}
