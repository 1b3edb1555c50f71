//! The short form, for CI: that the bench works, and that nothing is lost at a fixed rate. It
//! judges no times.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use crate::measure::{Run, measure};
use crate::monitors::{MONITORS, Monitor};
use crate::options::{Closing, Conditions, Network};

pub(crate) fn check() -> Result<()> {
    let conditions = Conditions {
        network: Network::Loopback,
        close: Closing::Mixed,
        rate: Some(RATE),
        duration: Duration::from_secs(3),
        force: true,
    };
    for attempt in 1.. {
        let run = measure(&conditions, &Monitor::JSON, false)?;
        let connections = run.traffic.connections;
        let (whole, lost) = (run.report.whole.context("no log")?, run.report.lost.context("no metrics")?);
        println!(
            "{connections} connections, {:.0} a second: {whole} reported whole, {lost} records lost",
            connections as f64 / run.traffic.elapsed.as_secs_f64()
        );
        if connections < u64::from(RATE) * conditions.duration.as_secs() * 9 / 10 {
            println!("this machine does not make {RATE} a second; what it made is checked");
        }
        if whole == connections && lost == 0 {
            break;
        }
        // Other work on the machine can delay the agent for longer than the ring buffer lasts.
        ensure!(attempt < ATTEMPTS, "the log is not whole, {ATTEMPTS} times");
    }
    for name in ["empty", "record", "metrics"] {
        let monitor = MONITORS.iter().find(|monitor| monitor.name == name).context("no such row")?;
        check_programs(monitor.title, &measure(&conditions, monitor, true)?)?;
    }
    Ok(())
}

/// Checks that each connection was seen by the monitor's programs.
fn check_programs(title: &str, run: &Run) -> Result<()> {
    let programs = &run.accounts.as_ref().context("programs were not accounted for")?.programs;
    let Some(most) = programs.iter().map(|program| program.runs).max() else {
        bail!("{title}: no program ran");
    };
    // A connection that is reset has six transitions.
    let expected = run.traffic.connections * 6;
    ensure!(
        most >= expected,
        "{title}: {most} runs of a program, for {} connections",
        run.traffic.connections
    );
    println!("{title}: {:.1} runs a connection", most as f64 / run.traffic.connections as f64);
    Ok(())
}

/// Connections a second.
const RATE: u32 = 4000;
const ATTEMPTS: u32 = 3;
