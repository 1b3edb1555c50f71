//! What BPF programs cost, by the kernel's own accounting.

use std::collections::BTreeSet;
use std::fs;
use std::os::fd::OwnedFd;

use anyhow::{Context, Result};
use aya::programs::loaded_programs;
use aya::sys::{Stats, enable_stats};

use crate::baseline::{Baseline, BaselineRuns};
use crate::site::Site;

/// The accounting, which is on as long as this lives, with empty programs beside the others.
pub(crate) struct Accounting {
    _on: OwnedFd,
    baseline: Baseline,
}

impl Accounting {
    pub(crate) fn start(site: &Site) -> Result<Self> {
        let baseline = site.server().enter(|| Baseline::attach(site.interface))?;
        Ok(Self { _on: enable_stats(Stats::RunTime).context("cannot account for programs")?, baseline })
    }

    /// What a run of an empty program takes.
    pub(crate) fn empty(&self) -> Result<BaselineRuns> {
        self.baseline.runs()
    }
}

/// What a program has cost.
#[derive(Clone)]
pub(crate) struct ProgramCost {
    id: u32,
    pub(crate) name: String,
    pub(crate) is_classifier: bool,
    pub(crate) runs: u64,
    pub(crate) ns: u64,
}

/// The programs of a process.
#[derive(Default)]
pub(crate) struct Programs {
    ids: BTreeSet<u32>,
}

impl Programs {
    /// Those that it has loaded or attached by now.
    pub(crate) fn of(pid: u32) -> Result<Self> {
        let mut ids = BTreeSet::new();
        for entry in fs::read_dir(format!("/proc/{pid}/fdinfo"))? {
            // A file may have been closed since.
            let Ok(info) = fs::read_to_string(entry?.path()) else { continue };
            ids.extend(
                info.lines().filter_map(|line| line.strip_prefix("prog_id:")?.trim().parse::<u32>().ok()),
            );
        }
        Ok(Self { ids })
    }

    /// What they have cost so far.
    pub(crate) fn costs(&self) -> Result<Vec<ProgramCost>> {
        let mut costs: Vec<ProgramCost> = Vec::new();
        for info in loaded_programs() {
            let info = info?;
            if self.ids.contains(&info.id()) {
                let mut name = info.name_as_str().unwrap_or_default().to_owned();
                // The kernel keeps 15 bytes of a name.
                if costs.iter().any(|other| other.name == name) {
                    name.push_str(", second");
                }
                costs.push(ProgramCost {
                    id: info.id(),
                    name,
                    is_classifier: info.program_type() as u32 == SCHED_CLS,
                    runs: info.run_count(),
                    ns: u64::try_from(info.run_time().as_nanos())?,
                });
            }
        }
        Ok(costs)
    }
}

/// The cost from one moment to another.
pub(crate) fn since(before: &[ProgramCost], mut after: Vec<ProgramCost>) -> Vec<ProgramCost> {
    for program in &mut after {
        if let Some(before) = before.iter().find(|before| before.id == program.id) {
            program.runs -= before.runs;
            program.ns -= before.ns;
        }
    }
    after.retain(|program| program.runs > 0);
    after
}

/// `BPF_PROG_TYPE_SCHED_CLS` (include/uapi/linux/bpf.h).
const SCHED_CLS: u32 = 3;
