//! Loads the kernel programs, fills in their globals and tables, and attaches those of tracepoints.

use std::{
    collections::HashMap,
    io,
    panic::resume_unwind,
    sync::{Mutex, PoisonError},
    thread,
};

use aya::{
    Btf, Ebpf, EbpfLoader,
    maps::{self, Array, Map, MapData, MapError},
    programs::{BtfTracePoint, Program, ProgramError, SchedClassifier},
};
use tcp_monitor_common::abi::{
    layout::{KernelLayout, Settings},
    maps::{PortTable, global, map, program, slot},
};

use super::{
    error::{KernelError, with_causes},
    programs::LoadedProgram,
    slots::Slots,
};

/// What to load.
pub(super) struct Load<'a> {
    pub(super) layout: KernelLayout,
    pub(super) settings: Settings,
    pub(super) slots: &'a Slots,
    /// Bytes of the ring buffer.
    pub(super) ring_size: u32,
    /// The programs may log.
    pub(super) log: bool,
    /// `uname -r`.
    pub(super) release: &'a str,
}

impl Load<'_> {
    /// Loads the object and fills its tables. No program runs yet.
    pub(super) fn object(&self) -> Result<Ebpf, KernelError> {
        let log_level = if self.log { LOG_DEBUG } else { LOG_OFF };
        let slots = u32::from(self.slots.count);
        let mut ebpf = EbpfLoader::new()
            .override_global(global::KERNEL_LAYOUT, &self.layout, true)
            .override_global(global::SETTINGS, &self.settings, true)
            .override_global(global::LOG_LEVEL, &log_level, false)
            .map_max_entries(map::RECORDS, self.ring_size)
            .map_max_entries(map::PORT_COUNTERS, slots)
            .map_max_entries(map::SLOT_PORTS, slots)
            .map_max_entries(map::INTERFACE_COUNTERS, INTERFACES)
            .load(OBJECT)
            .map_err(|error| {
                KernelError::file_limit("load the kernel programs", &error)
                    .unwrap_or(KernelError::Object(error))
            })?;
        self.fill_tables(&mut ebpf).map_err(|(map, cause)| KernelError::Map { map, cause })?;
        Ok(ebpf)
    }

    fn fill_tables(&self, ebpf: &mut Ebpf) -> Result<(), (&'static str, MapError)> {
        let failed = |map| move |error| (map, error);
        let table: &mut Map = ebpf.map_mut(map::PORTS).ok_or((map::PORTS, MapError::ElementNotFound))?;
        let mut table: Array<&mut MapData, PortTable> = table.try_into().map_err(failed(map::PORTS))?;
        table.set(0, PortTable::new(&self.slots.table), 0).map_err(failed(map::PORTS))?;
        let names = ebpf.map_mut(map::SLOT_PORTS).ok_or((map::SLOT_PORTS, MapError::ElementNotFound))?;
        let mut names: maps::HashMap<&mut MapData, u32, u16> =
            names.try_into().map_err(failed(map::SLOT_PORTS))?;
        for (index, port) in (u32::from(slot::FIRST)..).zip(&self.slots.ports) {
            names.insert(index, port, 0).map_err(failed(map::SLOT_PORTS))?;
        }
        let free = ebpf.map_mut(map::FREE_SLOT).ok_or((map::FREE_SLOT, MapError::ElementNotFound))?;
        let mut free: Array<&mut MapData, u32> = free.try_into().map_err(failed(map::FREE_SLOT))?;
        free.set(0, self.slots.ports.len() as u32, 0).map_err(failed(map::FREE_SLOT))
    }

    /// Loads the programs of tracepoints, and the classifiers if they are wanted. No program runs
    /// yet.
    ///
    /// The verifier takes nearly all the time of a start, and each program is verified by itself:
    /// several are loaded at once.
    pub(super) fn programs(&self, ebpf: &mut Ebpf, classifiers: bool) -> Result<(), KernelError> {
        let btf = Btf::from_sys_fs().map_err(|error| {
            KernelError::file_limit("read the kernel's types", &error)
                .unwrap_or(KernelError::Object(error.into()))
        })?;
        let tracepoints = self.tracepoint_programs();
        let mut programs: HashMap<&str, &mut Program> = ebpf.programs_mut().collect();
        let mut wanted = Vec::new();
        // The largest first, so that none is verified alone at the end.
        for name in [program::INGRESS, program::EGRESS].into_iter().filter(|_| classifiers) {
            wanted.push((name, programs.remove(name).ok_or(KernelError::Incomplete(name))?, None));
        }
        for (tracepoint, name) in &tracepoints {
            let program = programs.remove(name.as_str()).ok_or(KernelError::Incomplete(tracepoint))?;
            wanted.push((name, program, Some(*tracepoint)));
        }
        let wanted = Mutex::new(wanted.into_iter());
        let load_rest = || {
            loop {
                let next = wanted.lock().unwrap_or_else(PoisonError::into_inner).next();
                let Some((name, program, tracepoint)) = next else { return Ok(()) };
                let loaded = match tracepoint {
                    Some(tracepoint) => load_tracepoint(program, tracepoint, &btf),
                    None => load_classifier(program),
                };
                loaded.map_err(self.refused(name, "load"))?;
            }
        };
        let others = thread::available_parallelism().map_or(0, |cpus| cpus.get() - 1).min(LOADERS);
        thread::scope(|scope| {
            let others: Vec<_> = (0..others).map(|_| scope.spawn(load_rest)).collect();
            let mut result = load_rest();
            for other in others {
                result = result.and(other.join().unwrap_or_else(|panic| resume_unwind(panic)));
            }
            result
        })
    }

    /// Attaches the programs of tracepoints: from here on, they count.
    pub(super) fn attach_tracepoints(&self, ebpf: &mut Ebpf) -> Result<(), KernelError> {
        for (tracepoint, name) in &self.tracepoint_programs() {
            let program = ebpf.program_mut(name).ok_or(KernelError::Incomplete(tracepoint))?;
            let program: &mut BtfTracePoint = program.try_into().map_err(self.refused(name, "attach"))?;
            program.attach().map_err(self.refused(name, "attach"))?;
        }
        Ok(())
    }

    /// The tracepoints and the names of their programs. The kernel calls programs in the order in
    /// which they were attached.
    fn tracepoint_programs(&self) -> Vec<(&'static str, String)> {
        let copies: &[&str] = if self.layout.task_stack == 0 { &[""] } else { &["", program::SECOND] };
        let programs = copies.iter().flat_map(|copy| {
            program::TRACEPOINTS.map(|tracepoint| (tracepoint, format!("{tracepoint}{copy}")))
        });
        programs.collect()
    }

    fn refused(&self, program: &str, step: &'static str) -> impl FnOnce(ProgramError) -> KernelError {
        let (program, release) = (program.to_owned(), self.release.to_owned());
        move |error| {
            if let Some(error) = KernelError::file_limit(&format!("{step} program `{program}`"), &error) {
                return error;
            }
            let (system, log) = if let ProgramError::LoadError { io_error, verifier_log } = &error {
                (Some(io_error), last_lines(&verifier_log.to_string()))
            } else if let ProgramError::SyscallError(error) = &error {
                (Some(&error.io_error), String::new())
            } else {
                (None, String::new())
            };
            let forbidden =
                log.is_empty() && system.is_some_and(|error| error.kind() == io::ErrorKind::PermissionDenied);
            let cause = system.map_or_else(|| with_causes(&error), ToString::to_string);
            let advice = if forbidden {
                "kernel lockdown, a security module or a container's seccomp filter may forbid it"
            } else {
                "please report this with all that is printed here"
            };
            KernelError::Program {
                program,
                step,
                release,
                cause: format!("{cause}; {advice}"),
                log,
                forbidden,
            }
        }
    }
}

fn load_tracepoint(program: &mut Program, tracepoint: &str, btf: &Btf) -> Result<(), ProgramError> {
    let program: &mut BtfTracePoint = program.try_into()?;
    program.load(tracepoint, btf)
}

/// Classifiers are attached interface by interface.
fn load_classifier(program: &mut Program) -> Result<(), ProgramError> {
    let program: &mut SchedClassifier = program.try_into()?;
    program.load()
}

/// Every program that was loaded.
pub(super) fn loaded_programs(ebpf: &Ebpf) -> Vec<LoadedProgram> {
    ebpf.programs()
        .filter_map(|(name, program)| {
            let fd = program.fd().ok()?.try_clone().ok()?;
            Some(LoadedProgram { name: name.to_owned(), fd })
        })
        .collect()
}

/// Takes a map out of the object, as the type it must have.
pub(super) fn take<T: TryFrom<Map, Error = MapError>>(
    ebpf: &mut Ebpf,
    name: &'static str,
) -> Result<T, KernelError> {
    let map = ebpf.take_map(name).ok_or(KernelError::Incomplete(name))?;
    map.try_into().map_err(|cause| KernelError::Map { map: name, cause })
}

/// The end of the verifier's log, where it says what is wrong, one line each after a line break.
fn last_lines(log: &str) -> String {
    let lines: Vec<&str> = log.lines().map(str::trim_end).filter(|line| !line.is_empty()).collect();
    let last = lines.get(lines.len().saturating_sub(LOG_LINES)..).unwrap_or_default();
    last.iter().map(|line| format!("\n  {line}")).collect()
}

/// Threads that load programs beside the calling one, at most.
const LOADERS: usize = 3;
/// Lines of the verifier's log that are shown.
const LOG_LINES: usize = 12;
/// Entries of the map of interface counters: more than are ever watched at once, since old ones go
/// after new ones come.
const INTERFACES: u32 = 1024;
/// aya-log's levels.
const LOG_OFF: u8 = 0;
const LOG_DEBUG: u8 = 4;

/// The kernel programs, compiled.
pub static OBJECT: &[u8] = aya::include_bytes_aligned!(env!("TCP_MONITOR_BPF_OBJECT_PATH"));

#[cfg(test)]
mod tests {
    use super::last_lines;

    #[test]
    fn of_a_long_log_the_end_is_shown() {
        let log: String = (1..=100).map(|line| format!("{line}: r0 = 0\n\n")).collect();
        let shown = last_lines(&log);
        assert_eq!(shown.lines().count(), 13);
        assert!(shown.starts_with("\n  89: r0") && shown.ends_with("\n  100: r0 = 0"), "{shown}");
        assert_eq!(last_lines(""), "");
        assert_eq!(last_lines("R1 invalid\n"), "\n  R1 invalid");
    }
}
