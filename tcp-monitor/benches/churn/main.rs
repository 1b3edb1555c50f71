//! What short connections cost with a monitor: the same traffic without and with it in turn, in
//! fresh network namespaces each time.
//!
//! A row is a monitor: this one in its modes, other tools where they are installed, two programs
//! that are the floor of what any monitor costs, and as a control no monitor at all. Run by
//! `cargo xtask bench churn`, as root; `docs/performance.md` has the method and the results.

#[path = "../baseline/mod.rs"]
mod baseline;
mod floors;
mod machine;
mod measure;
mod monitors;
mod options;
mod plots;
mod process;
mod programs;
mod report;
mod results;
mod saved;
mod short;
mod site;
mod traffic;
mod whole;

/// The networks and processes of the kernel suite.
#[path = "../../tests/kernel/support"]
#[expect(dead_code, reason = "the kernel suite uses the rest")]
mod support {
    pub(crate) mod child_process;
    pub(crate) mod deadline;
    pub(crate) mod namespace;
    pub(crate) mod socket_table;
    pub(crate) mod topology;
}

use anyhow::Result;
use clap::Parser;

use crate::measure::measure;
use crate::monitors::{MONITORS, Monitor};
use crate::options::{Conditions, Options};
use crate::results::Row;
use crate::saved::Saved;

fn main() -> Result<()> {
    let options = Options::parse();
    if !rustix::process::geteuid().is_root() {
        eprintln!("ignored: the kernel programs can only be loaded as root");
        return Ok(());
    }
    support::namespace::remove_abandoned();
    if options.short {
        return short::check();
    }
    let conditions = options.conditions();
    let scenario = conditions.to_string();
    let mut saved = Saved::read()?;
    if options.saved {
        plots::draw(&scenario, saved.rows(&scenario))?;
        return print(&options, &scenario, saved.rows(&scenario));
    }
    let rows = MONITORS
        .iter()
        .filter(|monitor| options.includes(monitor.name))
        .map(|monitor| row(monitor, &conditions, options.pairs))
        .collect::<Result<Vec<_>>>()?;
    print(&options, &scenario, &rows)?;
    eprint!("\n{}", report::comparison(saved.rows(&scenario), &rows));
    if options.save {
        saved.replace(&scenario, rows);
        saved.write()?;
        plots::draw(&scenario, saved.rows(&scenario))?;
    }
    Ok(())
}

fn print(options: &Options, scenario: &str, rows: &[Row]) -> Result<()> {
    if options.json {
        println!("{}", serde_json::to_string_pretty(rows)?);
    } else {
        println!("{scenario}\n\n{}\n{}", report::table(rows), report::programs(rows));
    }
    Ok(())
}

/// Measures one monitor.
fn row(monitor: &Monitor, conditions: &Conditions, pairs: usize) -> Result<Row> {
    if !monitor.is_installed() {
        return Ok(Row::not_installed(monitor));
    }
    eprintln!("{}", monitor.title);
    let mut paired = Vec::new();
    for pair in 0..pairs {
        let without = || measure(conditions, &Monitor::NONE, false);
        let with = || measure(conditions, monitor, false);
        paired.push(if pair.is_multiple_of(2) {
            let without = without()?;
            (without, with()?)
        } else {
            let with = with()?;
            (without()?, with)
        });
    }
    let accounted =
        (0..ACCOUNTED_RUNS).map(|_| measure(conditions, monitor, true)).collect::<Result<Vec<_>>>()?;
    Row::new(monitor, &paired, &accounted)
}

/// Runs with the kernel's accounting of programs, which costs time itself.
const ACCOUNTED_RUNS: usize = 3;
