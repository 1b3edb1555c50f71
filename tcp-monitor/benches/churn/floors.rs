//! The floor of what a monitor costs: a program that does nothing, and one that makes a record of
//! each state transition, with a reader that drops it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use aya::maps::{MapData, RingBuf};
use aya::{Ebpf, EbpfLoader};
use rustix::time::{ClockId, clock_gettime};
use tcp_monitor::kernel;
use tcp_monitor_common::abi::maps::{map, program};

use crate::baseline::attach_tracepoint;

/// A program that is attached as long as this lives.
pub(crate) struct Floor {
    _ebpf: Ebpf,
    reader: Option<(thread::JoinHandle<()>, Arc<Reader>)>,
}

#[derive(Default)]
struct Reader {
    stopped: AtomicBool,
    records: AtomicU64,
    /// What its thread has computed.
    cpu_ns: AtomicU64,
}

impl Floor {
    pub(crate) fn empty() -> Result<Self> {
        let mut ebpf = Ebpf::load(kernel::OBJECT)?;
        attach_tracepoint(&mut ebpf, program::BASELINE_TRACEPOINT)?;
        Ok(Self { _ebpf: ebpf, reader: None })
    }

    pub(crate) fn record() -> Result<Self> {
        let mut ebpf = EbpfLoader::new().map_max_entries(map::RECORDS, RING_SIZE).load(kernel::OBJECT)?;
        let ring = RingBuf::try_from(ebpf.take_map(map::RECORDS).context("no ring buffer")?)?;
        attach_tracepoint(&mut ebpf, program::BASELINE_RECORD)?;
        let shared = Arc::new(Reader::default());
        let reader = Arc::clone(&shared);
        Ok(Self { _ebpf: ebpf, reader: Some((thread::spawn(move || reader.read(ring)), shared)) })
    }

    pub(crate) fn cpu_time(&self) -> Duration {
        let reader = self.reader.as_ref();
        Duration::from_nanos(reader.map_or(0, |(_, reader)| reader.cpu_ns.load(Ordering::Relaxed)))
    }

    /// Records that were read so far.
    pub(crate) fn records(&self) -> Option<u64> {
        Some(self.reader.as_ref()?.1.records.load(Ordering::Relaxed))
    }

    pub(crate) fn stop(self) -> Result<()> {
        if let Some((thread, reader)) = self.reader {
            reader.stopped.store(true, Ordering::Relaxed);
            thread.join().map_err(|_| anyhow!("the reader panicked"))?;
        }
        Ok(())
    }
}

impl Reader {
    fn read(&self, mut ring: RingBuf<MapData>) {
        while !self.stopped.load(Ordering::Relaxed) {
            let mut records = 0;
            while ring.next().is_some() {
                records += 1;
            }
            self.records.fetch_add(records, Ordering::Relaxed);
            let cpu = clock_gettime(ClockId::ThreadCPUTime);
            let cpu_ns = cpu.tv_sec as u64 * 1_000_000_000 + cpu.tv_nsec as u64;
            self.cpu_ns.store(cpu_ns, Ordering::Relaxed);
            thread::sleep(POLL);
        }
    }
}

/// The agent's default.
const RING_SIZE: u32 = 4 << 20;
const POLL: Duration = Duration::from_millis(5);
