//! A run leaves nothing in the kernel, even if the run before it was killed.

use std::{collections::BTreeSet, fs, process::Command};

use anyhow::{Result, ensure};
use libtest_mimic::Trial;
use serde_json::Value;

use crate::support::{
    agent::{Agent, Watch},
    child_process::output,
    deadline::poll_until,
    namespace::Namespace,
    topology::{Network, Topology},
    traffic,
    trial::{self, Need, trial},
};

pub(crate) fn trials() -> Vec<Trial> {
    let needs = &[trial::AGENT, &[Need::Tool("bpftool"), Need::Tool("tc")]];
    vec![
        trial("a run leaves nothing in the kernel", needs, || nothing_stays(Attach::Default)),
        trial("a run with clsact leaves nothing in the kernel", needs, || nothing_stays(Attach::Clsact)),
        trial("the next run removes what a killed run left", needs, || {
            nothing_stays_of_killed(Attach::Default)
        }),
        trial("the next run removes what a killed run left on clsact", needs, || {
            nothing_stays_of_killed(Attach::Clsact)
        }),
        trial("two agents on clsact do not remove each other's filters", needs, two_at_once),
    ]
}

/// How the classifiers are attached: as the kernel allows, or the way of kernels before 6.6.
#[derive(Clone, Copy)]
enum Attach {
    Default,
    Clsact,
}

impl Attach {
    fn start(self, network: &Network) -> Result<Agent> {
        let flag = match self {
            Self::Default => "",
            Self::Clsact => "--force-clsact",
        };
        let agent = Agent::start(Watch::Inside(&network.server), &format!("{WATCHED} {flag}"))?;
        if let Self::Clsact = self {
            ensure!(!filters(&network.server)?.is_empty(), "{flag} attached no filter");
        }
        Ok(agent)
    }
}

fn nothing_stays(attach: Attach) -> Result<()> {
    let network = Network::new(Topology::LoopbackV4)?;
    let agent = attach.start(&network)?;
    let held = Objects::of(agent.process.pid())?;
    traffic::greeting(&network, PORT)?;
    let report = agent.stop()?;
    ensure!(report.of_kind("segment").count() > 0, "nothing was seen: {:#?}", report.messages);
    check_no_filter(&network.server)?;
    held.await_end()
}

fn nothing_stays_of_killed(attach: Attach) -> Result<()> {
    let network = Network::new(Topology::LoopbackV4)?;
    let mut killed = attach.start(&network)?;
    let mut held = Objects::of(killed.process.pid())?;
    killed.process.kill()?;

    let agent = attach.start(&network)?;
    held.add(Objects::of(agent.process.pid())?);
    traffic::greeting(&network, PORT)?;
    network.await_no_traffic(PORT)?;
    let report = agent.stop()?;
    // A remaining filter of the killed run would not report them twice, but its counters are in
    // another map.
    let syns = report.of_kind("segment").filter(|event| event["step"] == "syn").count();
    ensure!(syns == 1, "{syns} SYNs reported: {:#?}", report.events);
    check_no_filter(&network.server)?;
    held.await_end()
}

fn two_at_once() -> Result<()> {
    let network = Network::new(Topology::LoopbackV4)?;
    let start = || Agent::start(Watch::Named(&network.server), &format!("{WATCHED} --force-clsact"));
    let first = start()?;
    let second = start()?;
    ensure!(filters(&network.server)?.matches(" id ").count() == 4, "{}", filters(&network.server)?);
    second.stop()?;
    // Agents that attach by links do not remove these filters as those of a killed run, either.
    Agent::start(Watch::Named(&network.server), WATCHED)?.stop()?;

    traffic::greeting(&network, PORT)?;
    network.await_no_traffic(PORT)?;
    let third = start()?;
    let report = first.stop()?;
    let syns = report.of_kind("segment").filter(|event| event["step"] == "syn").count();
    ensure!(syns == 1, "{syns} SYNs reported: {:#?}", report.events);
    // The last agent removes the qdisc that the first created.
    third.stop()?;
    check_no_filter(&network.server)?;
    let qdiscs = output(network.server.command("tc").args(["qdisc", "show", "dev", "lo"]))?;
    ensure!(!qdiscs.contains("clsact"), "left on lo: {qdiscs}");
    Ok(())
}

/// Kernel ids of BPF objects.
struct Objects {
    programs: BTreeSet<u64>,
    maps: BTreeSet<u64>,
}

impl Objects {
    /// The programs and maps that a process holds, from /proc.
    fn of(pid: u32) -> Result<Self> {
        let mut objects = Self { programs: BTreeSet::new(), maps: BTreeSet::new() };
        for entry in fs::read_dir(format!("/proc/{pid}/fdinfo"))? {
            // A file may be closed while the directory is read.
            let Ok(text) = fs::read_to_string(entry?.path()) else { continue };
            for (name, number) in text.lines().filter_map(|line| line.split_once(':')) {
                match name {
                    "prog_id" => objects.programs.insert(number.trim().parse()?),
                    "map_id" => objects.maps.insert(number.trim().parse()?),
                    _ => false,
                };
            }
        }
        ensure!(
            !objects.programs.is_empty() && !objects.maps.is_empty(),
            "process {pid} holds no program or map"
        );
        Ok(objects)
    }

    fn add(&mut self, other: Self) {
        self.programs.extend(other.programs);
        self.maps.extend(other.maps);
    }

    /// Waits until the kernel has freed them, which it does some time after the last reference is
    /// dropped.
    fn await_end(&self) -> Result<()> {
        let loaded = || -> Result<[Vec<u64>; 2]> {
            let still =
                |kind, ours: &BTreeSet<u64>| anyhow::Ok(loaded(kind)?.intersection(ours).copied().collect());
            Ok([still("prog", &self.programs)?, still("map", &self.maps)?])
        };
        poll_until("the programs and maps to be freed", loaded, |[programs, maps]| {
            programs.is_empty() && maps.is_empty()
        })?;
        Ok(())
    }
}

/// The ids of every `kind` (`prog`, `map`) in the kernel.
fn loaded(kind: &str) -> Result<BTreeSet<u64>> {
    let list: Value = serde_json::from_str(&output(Command::new("bpftool").args(["-j", kind, "show"]))?)?;
    Ok(list.as_array().into_iter().flatten().filter_map(|object| object["id"].as_u64()).collect())
}

/// The filters on `lo`, both ways.
fn filters(namespace: &Namespace) -> Result<String> {
    let mut filters = String::new();
    for way in ["ingress", "egress"] {
        filters += &output(namespace.command("tc").args(["filter", "show", "dev", "lo", way]))?;
    }
    Ok(filters.trim().to_owned())
}

fn check_no_filter(namespace: &Namespace) -> Result<()> {
    let filters = filters(namespace)?;
    ensure!(filters.is_empty(), "left on lo: {filters}");
    Ok(())
}

/// What the agent watches.
const WATCHED: &str = "--port 8899";
const PORT: u16 = 8899;
