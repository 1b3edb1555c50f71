//! Which capabilities the process needs, which it lacks, and what is lost without each.

use std::{env, fmt, fs, os::unix::fs::MetadataExt};

use rustix::thread::{CapabilitySet, capabilities};
use thiserror::Error;

use super::release::Release;

/// Capabilities that are missing and cannot be done without.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub struct MissingPrivilege {
    missing: Vec<Need>,
    /// What a `setcap` must name for this invocation.
    needed: Vec<Need>,
}

/// What this invocation will do.
#[derive(Clone, Copy, Debug)]
pub(super) struct Intent {
    /// Watch segments on interfaces.
    pub(super) classifiers: bool,
    /// Which other network namespaces to enter.
    pub(super) enter: Enter,
    /// The running kernel.
    pub(super) release: Release,
}

/// Network namespaces other than the process's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Enter {
    /// None.
    Never,
    /// Those that can be entered.
    IfPossible,
    /// One that was named.
    Must,
}

/// What the process may do beyond what it must.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Granted {
    /// It may enter other network namespaces.
    pub(super) enter: bool,
    /// It may look up the namespaces of other users' processes.
    pub(super) inspect: bool,
}

/// Whether the process is in the user namespace that the system began with: the kernel asks for
/// capabilities there.
pub(super) fn is_in_initial_user_namespace() -> bool {
    // Without /proc nothing is known; the kernel then says what it thinks.
    fs::metadata("/proc/self/ns/user").map_or(true, |namespace| namespace.ino() == INITIAL_USER_NAMESPACE)
}

/// Checks the effective capabilities of the calling thread.
///
/// # Errors
/// If one that cannot be done without is missing.
pub(super) fn check(intent: Intent) -> Result<Granted, MissingPrivilege> {
    // The call fails only for another process or an old kernel; then nothing is known to be
    // granted.
    let effective = capabilities(None).map_or(CapabilitySet::empty(), |sets| sets.effective);
    judge(effective, intent)
}

fn judge(effective: CapabilitySet, intent: Intent) -> Result<Granted, MissingPrivilege> {
    let needed: Vec<Need> = Need::ALL.into_iter().filter(|need| need.applies(intent)).collect();
    let missing: Vec<Need> = needed.iter().copied().filter(|need| !need.is_met(effective)).collect();
    if missing.iter().any(|need| !need.is_optional(intent)) {
        return Err(MissingPrivilege { missing, needed });
    }
    Ok(Granted { enter: Need::SysAdmin.is_met(effective), inspect: Need::SysPtrace.is_met(effective) })
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Need {
    Bpf,
    Perfmon,
    NetAdmin,
    SysAdmin,
    SysPtrace,
    SysResource,
}

impl Need {
    const ALL: [Self; 6] =
        [Self::Bpf, Self::Perfmon, Self::NetAdmin, Self::SysAdmin, Self::SysPtrace, Self::SysResource];

    fn applies(self, intent: Intent) -> bool {
        match self {
            Self::Bpf | Self::Perfmon => true,
            Self::NetAdmin => intent.classifiers,
            Self::SysAdmin => intent.classifiers && intent.enter != Enter::Never,
            Self::SysPtrace => intent.classifiers && intent.enter == Enter::IfPossible,
            Self::SysResource => !intent.release.charges_memory_to_cgroup(),
        }
    }

    fn is_optional(self, intent: Intent) -> bool {
        match self {
            Self::Bpf | Self::Perfmon | Self::NetAdmin | Self::SysResource => false,
            Self::SysAdmin => intent.enter != Enter::Must,
            Self::SysPtrace => true,
        }
    }

    /// CAP_SYS_ADMIN implies the two that were split from it in 5.8.
    fn is_met(self, effective: CapabilitySet) -> bool {
        match self {
            Self::Bpf => effective.intersects(CapabilitySet::BPF | CapabilitySet::SYS_ADMIN),
            Self::Perfmon => effective.intersects(CapabilitySet::PERFMON | CapabilitySet::SYS_ADMIN),
            Self::NetAdmin => effective.contains(CapabilitySet::NET_ADMIN),
            Self::SysAdmin => effective.contains(CapabilitySet::SYS_ADMIN),
            Self::SysPtrace => effective.contains(CapabilitySet::SYS_PTRACE),
            Self::SysResource => effective.contains(CapabilitySet::SYS_RESOURCE),
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Bpf => "CAP_BPF",
            Self::Perfmon => "CAP_PERFMON",
            Self::NetAdmin => "CAP_NET_ADMIN",
            Self::SysAdmin => "CAP_SYS_ADMIN",
            Self::SysPtrace => "CAP_SYS_PTRACE",
            Self::SysResource => "CAP_SYS_RESOURCE",
        }
    }

    fn lost(self) -> &'static str {
        match self {
            Self::Bpf => "no kernel program can be loaded, so nothing can be seen",
            Self::Perfmon => "no tracepoint can be watched, so no state of a socket can be seen",
            Self::NetAdmin => "no interface can be watched, so no segment can be seen",
            Self::SysAdmin => "no other network namespace can be entered (--netns self does without)",
            Self::SysPtrace => "network namespaces that only other users' processes are in cannot be found",
            Self::SysResource => "this kernel, older than 5.11, does not grant the memory that the maps take",
        }
    }
}

impl fmt::Display for MissingPrivilege {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "missing privilege")?;
        for need in &self.missing {
            writeln!(f, "  {}: without it, {}", need.name(), need.lost())?;
        }
        let names: Vec<String> = self.needed.iter().map(|need| need.name().to_ascii_lowercase()).collect();
        let program =
            env::current_exe().map_or_else(|_| "tcp-monitor".to_owned(), |path| path.display().to_string());
        write!(f, "run with sudo, or: sudo setcap {}+ep {program}", names.join(","))
    }
}

/// `PROC_USER_INIT_INO` of linux/proc_ns.h.
const INITIAL_USER_NAMESPACE: u64 = 0xefff_fffd;

#[cfg(test)]
mod tests {
    use rustix::thread::CapabilitySet;

    use super::{Enter, Granted, Intent, judge};
    use crate::kernel::release::Release;

    const NEW: Release = Release::new(6, 18);
    const OLD: Release = Release::new(5, 10);

    fn intent(classifiers: bool, enter: Enter, release: Release) -> Intent {
        Intent { classifiers, enter, release }
    }

    #[test]
    fn the_message_for_an_unprivileged_process_names_each_capability_and_what_is_lost() {
        let error =
            judge(CapabilitySet::empty(), intent(true, Enter::Must, NEW)).expect_err("nothing is granted");
        let text = error.to_string();
        for part in [
            "CAP_BPF: without it, no kernel program",
            "CAP_PERFMON: without it, no tracepoint",
            "CAP_NET_ADMIN: without it, no interface",
            "CAP_SYS_ADMIN: without it, no other network namespace",
            "run with sudo, or: sudo setcap cap_bpf,cap_perfmon,cap_net_admin,cap_sys_admin+ep /",
        ] {
            assert!(text.contains(part), "{part} is not in:\n{text}");
        }
        assert!(!text.contains("CAP_SYS_RESOURCE"), "{text}");
    }

    #[test]
    fn sys_admin_stands_for_bpf_and_perfmon_but_not_for_net_admin() {
        let error =
            judge(CapabilitySet::SYS_ADMIN, intent(true, Enter::Never, NEW)).expect_err("no CAP_NET_ADMIN");
        assert!(!error.to_string().contains("CAP_BPF:"), "{error}");
        assert!(error.to_string().contains("CAP_NET_ADMIN:"), "{error}");
        assert!(judge(CapabilitySet::SYS_ADMIN, intent(false, Enter::Never, NEW)).is_ok());
    }

    #[test]
    fn entering_other_namespaces_is_needed_only_when_one_is_named() {
        let own = CapabilitySet::BPF | CapabilitySet::PERFMON | CapabilitySet::NET_ADMIN;
        let nothing_more = Granted { enter: false, inspect: false };
        assert_eq!(judge(own, intent(true, Enter::Never, NEW)), Ok(nothing_more));
        assert_eq!(judge(own, intent(true, Enter::IfPossible, NEW)), Ok(nothing_more));
        assert!(judge(own, intent(true, Enter::Must, NEW)).is_err());
    }

    #[test]
    fn old_kernels_need_the_right_to_lock_memory() {
        let own = CapabilitySet::BPF | CapabilitySet::PERFMON | CapabilitySet::NET_ADMIN;
        let error = judge(own, intent(true, Enter::Never, OLD)).expect_err("no CAP_SYS_RESOURCE");
        assert!(error.to_string().contains("CAP_SYS_RESOURCE: without it"), "{error}");
        assert!(judge(own | CapabilitySet::SYS_RESOURCE, intent(true, Enter::Never, OLD)).is_ok());
    }
}
