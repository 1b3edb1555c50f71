//! Which process holds a socket, from `/proc/*/fd` (proc_pid_fd(5)).

use std::collections::{HashMap, HashSet};
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::clock;
use crate::lifecycle::input::{Comm, Process};

/// Finds a process for each socket of interest, and remembers it as long as it holds the socket.
///
/// Of several processes that hold one socket, any is found. Processes that `/proc` does not show,
/// of another user or another PID namespace, are not found.
#[derive(Debug, Default)]
pub struct Owners {
    holders: HashMap<u32, Holder>,
    /// Where the last search ended.
    last_pid: u32,
    next_search: Option<Instant>,
}

/// A file descriptor of a process.
#[derive(Clone, Copy, Debug)]
struct Holder {
    pid: u32,
    fd: u32,
}

impl Owners {
    /// The processes that hold the sockets with these inode numbers, as far as they are found.
    ///
    /// A search ends when all are found or after 100 ms of CPU time, to go on from there the next
    /// time; and searching never takes more than one percent of a CPU.
    pub fn find(&mut self, sockets: &HashSet<u32>) -> HashMap<u32, Process> {
        self.holders.retain(|inode, holder| sockets.contains(inode) && holder.holds(*inode));
        let missing: HashSet<u32> =
            sockets.iter().copied().filter(|inode| !self.holders.contains_key(inode)).collect();
        if !missing.is_empty() && self.next_search.is_none_or(|next| next <= Instant::now()) {
            let begin = clock::thread_cpu_time();
            self.search(missing, begin + SEARCH_LIMIT);
            let rest = clock::thread_cpu_time().saturating_sub(begin) * REST;
            self.next_search = Some(Instant::now() + rest);
        }
        let found = self.holders.iter();
        found.filter_map(|(&inode, holder)| Some((inode, holder.process()?))).collect()
    }

    /// Searches until the thread has used `limit` of CPU time. Wall time says nothing on a busy
    /// host, where the thread mostly waits for a CPU.
    fn search(&mut self, mut missing: HashSet<u32>, limit: Duration) {
        let mut pids = numbers_in(Path::new("/proc"));
        pids.sort_unstable();
        let next = pids.partition_point(|pid| *pid <= self.last_pid);
        pids.rotate_left(next);
        for pid in pids {
            if missing.is_empty() || clock::thread_cpu_time() > limit {
                break;
            }
            self.last_pid = pid;
            for fd in numbers_in(Path::new(&format!("/proc/{pid}/fd"))) {
                let holder = Holder { pid, fd };
                if let Some(inode) = holder.socket()
                    && missing.remove(&inode)
                {
                    self.holders.insert(inode, holder);
                }
            }
        }
    }
}

impl Holder {
    /// The inode number of the socket that the descriptor refers to, if it does to one.
    fn socket(self) -> Option<u32> {
        let Self { pid, fd } = self;
        parse_link(fs::read_link(format!("/proc/{pid}/fd/{fd}")).ok()?.to_str()?)
    }

    fn holds(self, inode: u32) -> bool {
        self.socket() == Some(inode)
    }

    fn process(self) -> Option<Process> {
        let name = fs::read(format!("/proc/{}/comm", self.pid)).ok()?;
        let name = name.strip_suffix(b"\n").unwrap_or(&name);
        let mut comm = [0; 16];
        for (to, from) in comm.iter_mut().zip(name) {
            *to = *from;
        }
        Some(Process { pid: self.pid, comm: Comm(comm) })
    }
}

/// The entries of a directory whose names are numbers; none if it cannot be read.
fn numbers_in(directory: &Path) -> Vec<u32> {
    let entries = fs::read_dir(directory).into_iter().flatten().map_while(Result::ok);
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

/// `socket:[12345]`.
fn parse_link(link: &str) -> Option<u32> {
    link.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
}

/// The CPU time that a search may take.
const SEARCH_LIMIT: Duration = Duration::from_millis(100);
/// For how many times its CPU time there is no other search: one percent of a CPU.
const REST: u32 = 100;

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::net::TcpListener;
    use std::os::fd::AsFd;
    use std::process;
    use std::time::Instant;

    use rustix::fs::fstat;

    use super::{Owners, parse_link};

    fn inode(socket: &TcpListener) -> u32 {
        fstat(socket.as_fd()).expect("an open socket").st_ino.try_into().expect("a socket's inode number")
    }

    #[test]
    fn the_process_that_holds_a_socket_is_found_until_it_closes_it() {
        let socket = TcpListener::bind("127.0.0.1:0").expect("a port");
        let sockets = HashSet::from([inode(&socket)]);
        let mut owners = Owners::default();
        while owners.find(&sockets).is_empty() {
            // The search was cut short: this machine has very many processes.
            owners.next_search = Some(Instant::now());
        }
        let found = owners.find(&sockets);
        assert_eq!(found[&inode(&socket)].pid, process::id());
        assert!(!found[&inode(&socket)].comm.to_text().is_empty());
        drop(socket);
        assert!(owners.find(&sockets).is_empty());
        assert!(owners.holders.is_empty());
    }

    #[test]
    fn only_links_to_sockets_have_an_inode_number() {
        assert_eq!(parse_link("socket:[4294967295]"), Some(u32::MAX));
        for link in ["pipe:[1]", "socket:[]", "socket:[4294967296]", "socket:[1", "/dev/null", ""] {
            assert_eq!(parse_link(link), None, "{link}");
        }
    }
}
