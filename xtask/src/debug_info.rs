//! Removing DWARF from an eBPF object. BTF, which the kernel and aya read, stays.

use anyhow::{Context as _, Result};
use object::build::elf::{Builder, SectionData};
use object::elf::SHT_STRTAB;

/// `object`, an ELF file, without DWARF.
///
/// # Errors
/// If `object` is no well-formed ELF file.
pub(crate) fn strip(object: &[u8]) -> Result<Vec<u8>> {
    let mut elf = Builder::read(object).context("the built object is no ELF file")?;
    for section in &mut elf.sections {
        let name = section.name.to_string();
        section.delete = name.starts_with(".debug_") || name.starts_with(".rel.debug_");
    }
    // LLVM keeps the names of sections and those of symbols in one table, the writer needs two.
    let names = elf.sections.add();
    names.name = ".shstrtab".into();
    names.sh_type = SHT_STRTAB;
    names.sh_addralign = 1;
    names.data = SectionData::SectionString;
    elf.delete_orphans();
    elf.set_section_sizes();
    let mut stripped = Vec::new();
    elf.write(&mut stripped).context("cannot write the object without DWARF")?;
    Ok(stripped)
}
