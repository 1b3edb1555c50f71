//! Keeps the captures of the suite, on request, for tests that need no root: one file a scenario.

use std::{env, fs, path::Path, process::Command};

use anyhow::{Context, Result};

use crate::support::{capture::Captured, child_process::output};

/// With this variable set, captures are kept in the directory it names, in place of those of the
/// same name.
const RECORD: &str = "KERNEL_SUITE_RECORD";

/// Keeps the TCP packets of a capture as `name.pcap`, if the environment asks for it.
pub(crate) fn keep(name: &str, captured: &Captured) -> Result<()> {
    let Some(directory) = env::var_os(RECORD) else { return Ok(()) };
    let directory = Path::new(&directory);
    fs::create_dir_all(directory).with_context(|| format!("cannot make {}", directory.display()))?;
    let whole = tempfile::tempdir()?;
    let whole = whole.path().join("capture.pcap");
    fs::write(&whole, &captured.file)?;
    let mut trim = Command::new("tshark");
    trim.args(["-r"]).arg(&whole).args(["-Y", "tcp", "-F", "pcap", "-w"]);
    output(trim.arg(directory.join(format!("{name}.pcap"))))?;
    Ok(())
}
