//! What describes the code of an eBPF object and is not run: DWARF, which is removed, and BTF,
//! which the kernel and aya read.

use anyhow::{Context as _, Result};
use object::build::elf::{Builder, SectionData};
use object::elf::SHT_STRTAB;
use object::{Object as _, ObjectSection as _};

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

/// Whether two objects differ in nothing but BTF, which has the numbers of lines and the text of
/// the source.
///
/// # Errors
/// If one is no well-formed ELF file.
pub(crate) fn is_same_code(one: &[u8], other: &[u8]) -> Result<bool> {
    Ok(code(one)? == code(other)?)
}

/// The sections that are run or relocate what is run: name and content.
fn code(object: &[u8]) -> Result<Vec<(String, Vec<u8>)>> {
    let elf = object::File::parse(object).context("no ELF file")?;
    let mut sections = Vec::new();
    for section in elf.sections() {
        let name = section.name().context("a section without a name")?;
        if !name.contains(".BTF") {
            sections.push((name.to_owned(), section.data().context("a section without data")?.to_vec()));
        }
    }
    Ok(sections)
}

#[cfg(test)]
mod tests {
    use super::is_same_code;

    #[test]
    fn only_btf_may_differ_in_the_same_code() {
        let object = include_bytes!("../../tcp-monitor/bpf/tcp-monitor.bpf.o");
        // A line number: the last word of .BTF.ext is one.
        let elf = <object::File>::parse(object.as_slice()).expect("an ELF file");
        let changed_at = |name: &str| {
            let section = object::Object::section_by_name(&elf, name).expect(name);
            let (start, len) = object::ObjectSection::file_range(&section).expect("content");
            let mut changed = object.to_vec();
            changed[usize::try_from(start + len - 1).expect("in memory")] ^= 1;
            changed
        };
        assert!(is_same_code(object, &changed_at(".BTF.ext")).expect("an ELF file"));
        assert!(!is_same_code(object, &changed_at("classifier")).expect("an ELF file"));
        assert!(!is_same_code(object, &changed_at(".rodata")).expect("an ELF file"));
    }
}
