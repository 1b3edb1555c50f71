//! Programs that the kernel programs are compared with, attached beside them.

use anyhow::{Context, Result};
use aya::programs::links::LinkOrder;
use aya::programs::tc::{SchedClassifier, TcAttachOptions, TcAttachType};
use aya::programs::{BtfTracePoint, ProgramInfo};
use aya::{Btf, Ebpf};
use tcp_monitor::kernel;
use tcp_monitor_common::abi::maps::program;

/// Programs that do nothing, on state transitions and on packets that leave an interface.
pub(crate) struct Baseline {
    ebpf: Ebpf,
}

/// Nanoseconds a run.
pub(crate) struct BaselineRuns {
    pub(crate) tracepoint: f64,
    pub(crate) classifier: f64,
}

impl Baseline {
    /// Attaches them, the classifier in the network namespace of this thread.
    pub(crate) fn attach(interface: &str) -> Result<Self> {
        let mut ebpf = Ebpf::load(kernel::OBJECT)?;
        attach_tracepoint(&mut ebpf, program::BASELINE_TRACEPOINT)?;
        let classifier = ebpf.program_mut(program::BASELINE_CLASSIFIER).context("no baseline classifier")?;
        let classifier: &mut SchedClassifier = classifier.try_into()?;
        classifier.load()?;
        classifier
            .attach_with_options(
                interface,
                TcAttachType::Egress,
                TcAttachOptions::TcxOrder(LinkOrder::last()),
            )
            .context("the benchmark needs TCX, kernel 6.6 or later")?;
        Ok(Self { ebpf })
    }

    pub(crate) fn runs(&self) -> Result<BaselineRuns> {
        let mean = |name: &str| -> Result<f64> {
            let info = self.ebpf.program(name).context("no baseline program")?.info()?;
            Ok(mean_ns(&info))
        };
        Ok(BaselineRuns {
            tracepoint: mean(program::BASELINE_TRACEPOINT)?,
            classifier: mean(program::BASELINE_CLASSIFIER)?,
        })
    }
}

/// Attaches one of the object's baseline programs to state transitions.
pub(crate) fn attach_tracepoint(ebpf: &mut Ebpf, name: &str) -> Result<()> {
    let tracepoint = ebpf.program_mut(name).with_context(|| format!("no program {name}"))?;
    let tracepoint: &mut BtfTracePoint = tracepoint.try_into()?;
    tracepoint.load(program::TRACEPOINTS[0], &Btf::from_sys_fs()?)?;
    tracepoint.attach()?;
    Ok(())
}

fn mean_ns(info: &ProgramInfo) -> f64 {
    info.run_time().as_nanos() as f64 / info.run_count().max(1) as f64
}
