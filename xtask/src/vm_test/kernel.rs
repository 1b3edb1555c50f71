//! Debian's kernel packages, unpacked into a folder of their own and never installed.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::process::{self, output};

/// A kernel that can be booted.
pub(super) struct Kernel {
    /// As `uname -r` prints it.
    pub(super) release: String,
    pub(super) image: PathBuf,
    /// Where its modules are.
    pub(super) modules: PathBuf,
}

/// The kernels that `wanted` names: series, or package files. If it names none, the newest of every
/// series there is.
///
/// # Errors
/// If there is no such kernel, or it cannot be fetched.
pub(super) fn find(wanted: &[String]) -> Result<Vec<Kernel>> {
    let cache = crate::cache_dir()?.join("kernels");
    fs::create_dir_all(&cache).with_context(|| format!("cannot make {}", cache.display()))?;
    let known = newest_of_each_series(&cache);
    if known.is_empty() && wanted.is_empty() {
        bail!("apt offers no package linux-image-*-cloud-amd64 (are its lists there? `apt-get update`)");
    }
    let all: Vec<String> = known.keys().map(|(major, minor)| format!("{major}.{minor}")).collect();
    let wanted = if wanted.is_empty() { &all } else { wanted };
    wanted.iter().map(|name| unpacked(name, &known, &cache)).collect()
}

type Series = (u32, u32);

fn unpacked(name: &str, known: &BTreeMap<Series, String>, cache: &Path) -> Result<Kernel> {
    if name.ends_with(".deb") {
        return unpack(Path::new(name), cache);
    }
    let package = series(name).and_then(|series| known.get(&series)).with_context(|| {
        format!("apt offers no kernel {name}; a file from https://packages.debian.org will do: cargo xtask vm-test FILE.deb")
    })?;
    let folder = cache.join(package);
    if !folder.is_dir() {
        process::run(Command::new("apt-get").args(["download", "--quiet", package]).current_dir(cache))?;
        let file = entries(cache)
            .find(|name| name.ends_with(".deb") && name.split('_').next() == Some(package))
            .with_context(|| format!("apt-get left no {package} in {}", cache.display()))?;
        let file = cache.join(file);
        unpack(&file, cache)?;
        fs::remove_file(&file).with_context(|| format!("cannot remove {}", file.display()))?;
    }
    open(&folder)
}

fn unpack(file: &Path, cache: &Path) -> Result<Kernel> {
    let package = output(Command::new("dpkg-deb").arg("--field").arg(file).arg("Package"))
        .with_context(|| format!("{} is no Debian package", file.display()))?;
    let folder = cache.join(&package);
    if !folder.is_dir() {
        // Renamed when complete, so that an interrupted unpacking leaves no kernel.
        let partial = cache.join("partial");
        if partial.is_dir() {
            fs::remove_dir_all(&partial).with_context(|| format!("cannot remove {}", partial.display()))?;
        }
        process::run(Command::new("dpkg-deb").arg("--extract").args([file, &partial]))?;
        fs::rename(&partial, &folder).with_context(|| format!("cannot make {}", folder.display()))?;
    }
    open(&folder)
}

fn open(folder: &Path) -> Result<Kernel> {
    let modules = folder.join("lib/modules");
    let release = entries(&modules).next().with_context(|| {
        format!("{} holds no kernel image: {} is empty", folder.display(), modules.display())
    })?;
    Ok(Kernel {
        image: folder.join(format!("boot/vmlinuz-{release}")),
        modules: modules.join(&release),
        release,
    })
}

/// The packages that apt offers, and those unpacked before. The cloud images have all that is
/// needed in a third of the size.
fn newest_of_each_series(cache: &Path) -> BTreeMap<Series, String> {
    let offered = output(Command::new("apt-cache").args([
        "search",
        "--names-only",
        "^linux-image-[0-9].*-cloud-amd64$",
    ]))
    .unwrap_or_default();
    let offered = offered.lines().filter_map(|line| line.split(' ').next()).map(str::to_owned);

    let mut newest: BTreeMap<Series, String> = BTreeMap::new();
    for package in offered.chain(entries(cache)) {
        // A package without a third number depends on the newest and is empty itself.
        let numbers = numbers(&package);
        if let [major, minor, _, ..] = numbers[..] {
            let best = newest.entry((major, minor)).or_default();
            if self::numbers(best) < numbers {
                *best = package;
            }
        }
    }
    newest
}

fn series(name: &str) -> Option<Series> {
    match numbers(name)[..] {
        [major, minor] => Some((major, minor)),
        _ => None,
    }
}

/// The names in a folder; none if there is no such folder.
fn entries(folder: &Path) -> impl Iterator<Item = String> {
    let entries = fs::read_dir(folder).into_iter().flatten();
    entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok())
}

/// The numbers of a version up to the architecture, which order packages by age.
fn numbers(package: &str) -> Vec<u32> {
    let version = package.split("-cloud").next().unwrap_or_default();
    version.split(|c: char| !c.is_ascii_digit()).filter_map(|number| number.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::numbers;

    #[test]
    fn later_packages_have_larger_numbers() {
        let ordered = [
            "linux-image-5.10.0-46-cloud-amd64",
            "linux-image-6.1.0-0.deb11.52-cloud-amd64",
            "linux-image-6.1.0-9-cloud-amd64",
            "linux-image-6.1.0-56-cloud-amd64",
            "linux-image-6.12.9+deb12-cloud-amd64",
            "linux-image-6.12.117+deb12-cloud-amd64",
        ];
        assert!(ordered.is_sorted_by_key(|package| numbers(package)));
    }
}
