//! The agent's message and exit code when it cannot do what was asked.

use std::{
    fs::{self, Permissions},
    net::TcpListener,
    os::unix::fs::PermissionsExt,
    process::Command,
};

use anyhow::{Result, ensure};
use libtest_mimic::Trial;
use rustix::fs::{CWD, FileType, Mode, mknodat};

use crate::support::{
    agent::{Watch, agent_path, run_to_end},
    namespace::Namespace,
    trial::{self, Need, trial},
};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial(
            "without privilege the missing capability is named",
            &[trial::AGENT, &[Need::Tool("setpriv")]],
            unprivileged,
        ),
        trial("an address in use is named, with what to do", &[trial::AGENT], address_in_use),
        trial("an interface that does not exist is named", &[trial::AGENT], unknown_interface),
        trial("a namespace that does not exist is named", &[trial::AGENT], unknown_namespace),
        trial("an invalid port is a usage error", &[], bad_port),
        trial("a file that cannot be written is named before anything is attached", &[], unwritable_file),
    ]
}

fn unprivileged() -> Result<()> {
    // The build directory may be closed to others.
    let directory = tempfile::tempdir()?;
    fs::set_permissions(directory.path(), Permissions::from_mode(0o755))?;
    let agent = directory.path().join("tcp-monitor");
    fs::copy(agent_path(), &agent)?;
    fs::set_permissions(&agent, Permissions::from_mode(0o755))?;

    let mut command = Command::new("setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(agent);
    command.args(["--port", "8899", "--listen", "none"]);
    fails(&mut command, &[3], &["CAP_BPF"])
}

fn address_in_use() -> Result<()> {
    let namespace = Namespace::new()?;
    let occupant = TcpListener::bind("127.0.0.1:0")?;
    let address = occupant.local_addr()?.to_string();
    let mut command = Command::new(agent_path());
    command.args(["--port", "8899", "--netns", namespace.name(), "--listen", &address]);
    fails(&mut command, &[1], &[&address, "--listen"])
}

fn unknown_interface() -> Result<()> {
    let namespace = Namespace::new()?;
    let mut command = Watch::Inside(&namespace).command();
    fails(command.args(["--port", "8899", "--interface", "nosuch0"]), &[1, 2], &["nosuch0"])
}

fn unknown_namespace() -> Result<()> {
    let mut command = Command::new(agent_path());
    command.args(["--port", "8899", "--listen", "none", "--netns", "nosuchns"]);
    fails(&mut command, &[1, 2], &["nosuchns"])
}

fn bad_port() -> Result<()> {
    for port in ["99999", "0", "20-10", "http", "1-", ""] {
        let mut command = Command::new(agent_path());
        fails(command.args(["--listen", "none", &format!("--port={port}")]), &[2], &["--port"])?;
    }
    Ok(())
}

fn unwritable_file() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let (missing, fifo) = (directory.path().join("missing/a.pcapng"), directory.path().join("fifo"));
    mknodat(CWD, &fifo, FileType::Fifo, Mode::from_raw_mode(0o600), 0)?;
    for (path, what) in [(missing, "No such file"), (fifo, "the pipe has no reader")] {
        let mut command = Command::new(agent_path());
        // Were it after that, the cause would be the lack of this namespace.
        command.args(["--listen", "none", "--netns", "nosuchns", "--write"]).arg(&path);
        fails(&mut command, &[1], &[&path.display().to_string(), what])?;
    }
    Ok(())
}

/// The agent ends by itself with one of `codes`, prints no event and names every one of `words`.
fn fails(command: &mut Command, codes: &[i32], words: &[&str]) -> Result<()> {
    let report = run_to_end(command)?;
    let text = report.messages.join("\n");
    ensure!(
        report.status.code().is_some_and(|code| codes.contains(&code)),
        "{command:?}: {} instead of {codes:?}: {text}",
        report.status
    );
    ensure!(report.events.is_empty(), "events of an agent that failed: {:#?}", report.events);
    for word in words {
        ensure!(text.contains(word), "{command:?} does not name {word}: {text}");
    }
    Ok(())
}
