//! What each kernel program has cost so far.

use std::{
    fs,
    os::fd::{AsFd, AsRawFd},
};

use aya::programs::ProgramFd;

use crate::counts::ProgramRuns;

/// A loaded program. It stays loaded as long as this lives.
#[derive(Debug)]
pub(super) struct LoadedProgram {
    pub(super) name: String,
    pub(super) fd: ProgramFd,
}

impl LoadedProgram {
    /// Runs and run time, or `None` if the kernel does not tell.
    pub(super) fn runs(&self) -> Option<ProgramRuns> {
        let fdinfo = format!("/proc/self/fdinfo/{}", self.fd.as_fd().as_raw_fd());
        Some(parse_fdinfo(&self.name, &fs::read_to_string(fdinfo).ok()?))
    }
}

/// Lines of `name:`, a tab and the value (kernel/bpf/syscall.c, `bpf_prog_show_fdinfo`).
fn parse_fdinfo(name: &str, fdinfo: &str) -> ProgramRuns {
    let value = |key: &str| {
        fdinfo
            .lines()
            .filter_map(|line| line.split_once(':'))
            .find(|(name, _)| *name == key)
            .and_then(|(_, value)| value.trim().parse().ok())
            .unwrap_or(0)
    };
    ProgramRuns { name: name.to_owned(), runs: value("run_cnt"), run_time_ns: value("run_time_ns") }
}

#[cfg(test)]
mod tests {
    use super::parse_fdinfo;

    #[test]
    fn runs_and_run_time_are_read_from_fdinfo() {
        let fdinfo = "pos:\t0\nflags:\t02000002\nprog_type:\t26\nprog_jited:\t1\nmemlock:\t4096\nprog_id:\t12\n\
                      run_time_ns:\t6200\nrun_cnt:\t7\nrecursion_misses:\t2\nverified_insns:\t90\n";
        let runs = parse_fdinfo("tcp_send_reset", fdinfo);
        assert_eq!((runs.runs, runs.run_time_ns), (7, 6200));
        let runs = parse_fdinfo("tcp_send_reset", "run_time_ns:\tmuch\n");
        assert_eq!((runs.runs, runs.run_time_ns), (0, 0));
    }
}
