//! Runs the workload of a seed: workers that make connections of every kind at the same time, in
//! three parts.

use std::{env, thread};

use anyhow::{Context, Result, anyhow};
use fastrand::Rng;

use crate::{
    support::testbed::{ExpectedCounts, Settings, Side, Testbed},
    workload::{
        outside_host_actions::OUTSIDE_HOST_ACTIONS,
        socket_actions::SOCKET_ACTIONS,
        worker::{Action, Worker},
    },
};

/// How many workers run at a time.
pub(crate) const WORKERS: u16 = 6;
/// How many actions each worker does in each part.
const ACTIONS_EACH: usize = 30;
/// How many parts there are.
const PARTS: usize = 3;

/// Runs the workload of this seed. `between` is called after each part but the last, with the
/// number of parts so far. Returns the expected counts.
pub(crate) fn run(
    testbed: &Testbed,
    seed: u64,
    mut between: impl FnMut(usize) -> Result<()>,
) -> Result<ExpectedCounts> {
    let mut rng = Rng::with_seed(seed);
    // One setting for the whole workload: otherwise fewer identities hold (see `identities`).
    let abort_on_overflow = rng.bool();
    let first = Settings { syncookies: 1, abort_on_overflow };
    let mut workers: Vec<_> =
        (0..WORKERS).map(|number| Worker::new(testbed, number, rng.u64(..), first)).collect();
    for part in 1..=PARTS {
        let settings = Settings { syncookies: rng.u8(..3), abort_on_overflow };
        testbed.apply(settings)?;
        side_by_side(&mut workers, |worker| run_actions(worker, settings))
            .with_context(|| format!("part {part} of {PARTS}, with {settings:?}"))?;
        if part < PARTS {
            between(part)?;
        }
    }
    side_by_side(&mut workers, Worker::finish)?;
    for side in Side::BOTH {
        testbed.namespace(side).await_all("the end of every connection", |rows| {
            rows.iter().all(|row| matches!(&*row.state, "time_wait" | "fin_wait2" | "listen"))
        })?;
    }
    let mut expected = ExpectedCounts::default();
    for worker in workers {
        expected.merge(worker.into_expected());
    }
    Ok(expected)
}

fn side_by_side<'a>(
    workers: &mut [Worker<'a>],
    work: impl Fn(&mut Worker<'a>) -> Result<()> + Sync,
) -> Result<()> {
    thread::scope(|scope| {
        let threads: Vec<_> = workers.iter_mut().map(|worker| scope.spawn(|| work(worker))).collect();
        threads
            .into_iter()
            .map(|thread| thread.join().map_err(|_| anyhow!("a worker panicked"))?)
            .collect::<Vec<_>>()
            .into_iter()
            .collect()
    })
}

/// Whether the environment selects some of the actions.
pub(crate) fn is_partial() -> bool {
    env::var_os(ONLY).is_some()
}

fn run_actions(worker: &mut Worker<'_>, settings: Settings) -> Result<()> {
    worker.settings = settings;
    let actions = possible_actions(settings);
    let lots: u32 = actions.iter().map(|(weight, ..)| weight).sum();
    for _ in 0..ACTIONS_EACH {
        let mut lot = worker.rng.u32(..lots.max(1));
        let drawn = actions.iter().find(|(weight, ..)| {
            let drawn = lot < *weight;
            lot = lot.saturating_sub(*weight);
            drawn
        });
        let Some((_, name, action)) = drawn else { break };
        action(worker).with_context(|| format!("while \"{name}\""))?;
    }
    Ok(())
}

/// The actions that are possible with these settings, with their weights in the draw.
fn possible_actions(settings: Settings) -> Vec<(u32, &'static str, Action)> {
    let only = env::var(ONLY).unwrap_or_default();
    let actions = SOCKET_ACTIONS.iter().map(|&(weight, name, action)| (weight, name, action));
    let outside = OUTSIDE_HOST_ACTIONS.iter().filter(|(_, _, cookies, _)| cookies.allow(settings.syncookies));
    actions
        .chain(outside.map(|&(weight, name, _, action)| (weight, name, action)))
        .filter(|(_, name, _)| name.contains(&only))
        .collect()
}

/// With this variable set, only actions whose name contains its value are drawn.
const ONLY: &str = "KERNEL_SUITE_ACTION";
