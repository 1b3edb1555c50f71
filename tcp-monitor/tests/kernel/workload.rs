//! A workload drawn from a seed: actors that make connections of every kind side by side, in three parts.

use std::{env, thread};

use anyhow::{Context, Result, anyhow};
use fastrand::Rng;

use crate::{
    actor::{Act, Actor},
    acts::ACTS,
    forged::FORGED,
    stage::{Ledger, Settings, Side, Stage},
};

/// How many connections are made at a time, about.
pub(crate) const ACTORS: u16 = 6;
/// How many acts each actor does in each part.
const ACTS_EACH: usize = 30;
/// How many parts there are.
const PARTS: usize = 3;

/// Plays the workload of this seed; `between` is called after each part but the last, with how many there were.
pub(crate) fn play(stage: &Stage, seed: u64, mut between: impl FnMut(usize) -> Result<()>) -> Result<Ledger> {
    let mut rng = Rng::with_seed(seed);
    // With one setting for all of it, more can be told from the kernel's counters (see `identities`).
    let abort_on_overflow = rng.bool();
    let first = Settings { syncookies: 1, abort_on_overflow };
    let mut actors: Vec<_> =
        (0..ACTORS).map(|number| Actor::new(stage, number, rng.u64(..), first)).collect();
    for part in 1..=PARTS {
        let settings = Settings { syncookies: rng.u8(..3), abort_on_overflow };
        stage.apply(settings)?;
        side_by_side(&mut actors, |actor| act(actor, settings))
            .with_context(|| format!("part {part} of {PARTS}, with {settings:?}"))?;
        if part < PARTS {
            between(part)?;
        }
    }
    side_by_side(&mut actors, Actor::finish)?;
    for side in Side::BOTH {
        stage.namespace(side).await_all("the end of every connection", |rows| {
            rows.iter().all(|row| matches!(&*row.state, "time_wait" | "fin_wait2" | "listen"))
        })?;
    }
    let mut ledger = Ledger::default();
    for actor in actors {
        ledger.merge(actor.leave());
    }
    Ok(ledger)
}

fn side_by_side<'a>(
    actors: &mut [Actor<'a>],
    work: impl Fn(&mut Actor<'a>) -> Result<()> + Sync,
) -> Result<()> {
    thread::scope(|scope| {
        let threads: Vec<_> = actors.iter_mut().map(|actor| scope.spawn(|| work(actor))).collect();
        threads
            .into_iter()
            .map(|thread| thread.join().map_err(|_| anyhow!("an actor panicked"))?)
            .collect::<Vec<_>>()
            .into_iter()
            .collect()
    })
}

/// Whether only some acts are asked for, to find out what is wrong with them.
pub(crate) fn is_partial() -> bool {
    env::var_os(ONLY).is_some()
}

fn act(actor: &mut Actor<'_>, settings: Settings) -> Result<()> {
    actor.settings = settings;
    let acts = possible_acts(settings);
    let lots: u32 = acts.iter().map(|(weight, ..)| weight).sum();
    for _ in 0..ACTS_EACH {
        let mut lot = actor.rng.u32(..lots.max(1));
        let drawn = acts.iter().find(|(weight, ..)| {
            let drawn = lot < *weight;
            lot = lot.saturating_sub(*weight);
            drawn
        });
        let Some((_, name, act)) = drawn else { break };
        act(actor).with_context(|| format!("while \"{name}\""))?;
    }
    Ok(())
}

/// With how many lots each is in the draw.
fn possible_acts(settings: Settings) -> Vec<(u32, &'static str, Act)> {
    let only = env::var(ONLY).unwrap_or_default();
    let acts = ACTS.iter().map(|&(weight, name, act)| (weight, name, act));
    let forged = FORGED.iter().filter(|(_, _, cookies, _)| cookies.allow(settings.syncookies));
    acts.chain(forged.map(|&(weight, name, _, act)| (weight, name, act)))
        .filter(|(_, name, _)| name.contains(&only))
        .collect()
}

/// Names a part of the names of the only acts that are to be done.
const ONLY: &str = "KERNEL_SUITE_ACT";
