//! The file system a machine boots from: an archive in the "newc" format of cpio (the kernel's
//! Documentation/driver-api/early-userspace/buffer-format.rst).

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

use anyhow::{Context as _, Result, bail};

use super::kernel::Kernel;
use crate::process::{self, output};

const INIT: &str = include_str!("init.sh");
/// Modules for a classifier before 6.6 (from 6.6 on it is built in), and to list sockets.
const MODULES: [(&str, &str); 4] =
    [("sched", "cls_bpf"), ("sched", "sch_ingress"), ("ipv4", "inet_diag"), ("ipv4", "tcp_diag")];

const FOLDER: u32 = 0o040_755;
const PROGRAM: u32 = 0o100_755;
const LINK: u32 = 0o120_777;
/// The name of the entry that ends an archive.
const END: &str = "TRAILER!!!";

/// An archive with `agent`, this program, busybox, their libraries, and modules of `kernel`.
///
/// # Errors
/// If a file cannot be read, or a module unpacked.
pub(super) fn build(kernel: &Kernel, agent: &Path) -> Result<Vec<u8>> {
    let busybox = process::find("busybox").context("busybox is not installed")?;
    let xtask = env::current_exe().context("cannot find the program that runs")?;
    let programs = [(busybox.as_path(), "busybox"), (agent, "tcp-monitor"), (xtask.as_path(), "xtask")];

    let mut archive = Archive::default();
    for folder in ["dev", "proc", "sys"] {
        archive.folder(Path::new(folder));
    }
    archive.add(Path::new("init"), PROGRAM, INIT.as_bytes());
    archive.add(Path::new("sbin/modprobe"), LINK, b"/bin/busybox");
    let mut libraries = BTreeSet::new();
    for (file, name) in programs {
        archive.add(&Path::new("bin").join(name), PROGRAM, &read(file)?);
        libraries.extend(needed_libraries(file));
    }
    for library in libraries {
        archive.add(&library, PROGRAM, &read(&library)?);
    }
    for (folder, name) in MODULES {
        let path = Path::new("lib/modules").join(&kernel.release).join(format!("{name}.ko"));
        archive.add(&path, PROGRAM, &module(kernel, folder, name)?);
    }
    Ok(archive.finish())
}

/// The libraries that the dynamic linker loads for `program`, and the linker; none if it is static.
fn needed_libraries(program: &Path) -> Vec<PathBuf> {
    let list = output(Command::new("ldd").arg(program)).unwrap_or_default();
    list.split_whitespace().filter(|word| word.starts_with('/')).map(PathBuf::from).collect()
}

fn module(kernel: &Kernel, folder: &str, name: &str) -> Result<Vec<u8>> {
    let folder = kernel.modules.join("kernel/net").join(folder);
    let plain = folder.join(format!("{name}.ko"));
    if plain.is_file() {
        return read(&plain);
    }
    let packed = folder.join(format!("{name}.ko.xz"));
    let xz = Command::new("xz").arg("-dc").arg(&packed).output().context("cannot run xz")?;
    if !xz.status.success() {
        bail!("cannot unpack {}: {}", packed.display(), String::from_utf8_lossy(&xz.stderr).trim());
    }
    Ok(xz.stdout)
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}

#[derive(Default)]
struct Archive {
    bytes: Vec<u8>,
    folders: BTreeSet<PathBuf>,
    /// Number of the last entry; the kernel takes equal ones for links to one file.
    inode: usize,
}

impl Archive {
    /// Adds a file or a link, and the folders it lies in. A leading slash means nothing.
    fn add(&mut self, path: &Path, mode: u32, content: &[u8]) {
        if let Some(parent) = path.parent() {
            self.folder(parent);
        }
        self.entry(&path.to_string_lossy(), mode, content);
    }

    fn folder(&mut self, path: &Path) {
        let mut ancestors: Vec<_> = path.ancestors().filter(|path| path.file_name().is_some()).collect();
        ancestors.reverse();
        for folder in ancestors {
            let folder = folder.strip_prefix("/").unwrap_or(folder);
            if self.folders.insert(folder.to_owned()) {
                self.entry(&folder.to_string_lossy(), FOLDER, &[]);
            }
        }
    }

    fn finish(mut self) -> Vec<u8> {
        self.entry(END, 0, &[]);
        self.bytes
    }

    fn entry(&mut self, path: &str, mode: u32, content: &[u8]) {
        let path = path.trim_start_matches('/');
        self.inode += 1;
        // Inode, mode, owner, group, links, time, size, four device numbers, length of the name,
        // checksum.
        let (inode, size, name_len) = (self.inode, content.len(), path.len() + 1);
        let header = format!(
            "070701{inode:08x}{mode:08x}{0:08x}{0:08x}{1:08x}{0:08x}{size:08x}{0:08x}{0:08x}{0:08x}{0:08x}{name_len:08x}{0:08x}",
            0, 1
        );
        self.bytes.extend_from_slice(header.as_bytes());
        self.bytes.extend_from_slice(path.as_bytes());
        self.bytes.push(0);
        self.align();
        self.bytes.extend_from_slice(content);
        self.align();
    }

    fn align(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}
