//! The running kernel's release, and what follows from it where nothing better shows it.

use std::fmt;

/// A kernel release: the first two numbers of `uname -r`.
///
/// Vendors add features of later releases to earlier ones but take none away, so a feature that the
/// release promises is there. One that it does not promise is done without, though it may be there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Release {
    major: u32,
    minor: u32,
}

impl Release {
    pub(super) const fn new(major: u32, minor: u32) -> Self {
        Self { major, minor }
    }

    /// The running kernel's, and `uname -r` in full.
    pub(super) fn running() -> (Self, String) {
        let uname = rustix::system::uname();
        let text = uname.release().to_string_lossy().into_owned();
        // A release that cannot be read promises nothing.
        (Self::parse(&text).unwrap_or(Self::new(0, 0)), text)
    }

    fn parse(text: &str) -> Option<Self> {
        let mut numbers = text.split(|c: char| !c.is_ascii_digit());
        Some(Self { major: numbers.next()?.parse().ok()?, minor: numbers.next()?.parse().ok()? })
    }

    /// Maps are charged to the memory cgroup (5.11), not to RLIMIT_MEMLOCK.
    pub(super) fn charges_memory_to_cgroup(self) -> bool {
        self >= Self::new(5, 11)
    }

    /// `bpf_get_socket_cookie` may be called by tracing programs.
    pub(super) fn has_socket_cookie(self) -> bool {
        self >= Self::new(5, 12)
    }

    /// Whether the kernel may skip a tracing program because the CPU is running it already, so that
    /// a second copy is wanted. Kernels do so from 6.1 on, and some before it by a backported fix.
    /// The helper that distinguishes the copies is there from 5.12 on.
    pub(super) fn skips_nested_runs(self) -> bool {
        self >= Self::new(5, 12)
    }

    /// Classifiers attach by TCX links, which vanish with the process.
    pub(super) fn has_tcx(self) -> bool {
        self >= Self::new(6, 6)
    }
}

impl fmt::Display for Release {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

#[cfg(test)]
mod tests {
    use super::Release;

    #[test]
    fn releases_of_distributions_are_read() {
        for (text, release) in [
            ("5.10.0-30-amd64", Some(Release::new(5, 10))),
            ("6.18.44-fc-v669", Some(Release::new(6, 18))),
            ("7.2-rc3", Some(Release::new(7, 2))),
            ("6.6+", Some(Release::new(6, 6))),
            ("linux", None),
            ("6", None),
            ("", None),
        ] {
            assert_eq!(Release::parse(text), release, "{text}");
        }
        assert!(Release::new(5, 9) < Release::new(5, 10));
    }
}
