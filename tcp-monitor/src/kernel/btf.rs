//! Where the running kernel keeps the fields that the programs read, and how many arguments its
//! tracepoints have: from its BTF.

use std::{fs, io, path::Path};

use tcp_monitor_common::abi::{
    layout::{Feature, KernelLayout, Source},
    maps::program,
};
use thiserror::Error;

use super::{
    error::KernelError,
    release::Release,
    types::{Field, Types},
};

/// Why the kernel's layout is not known.
#[derive(Debug, Error)]
pub enum BtfError {
    /// The kernel does not publish its types.
    #[error(
        "the kernel's type information cannot be read: {BTF_FILE}: {0}; \
         a kernel of at least 5.10 with CONFIG_DEBUG_INFO_BTF=y is needed"
    )]
    Unavailable(io::Error),
    /// What it publishes makes no sense.
    #[error("the kernel's type information in {BTF_FILE} cannot be understood: {0}")]
    Unreadable(&'static str),
    /// The kernel lacks a tracepoint.
    #[error("this kernel has no tracepoint `{0}`; a kernel of at least 5.10 is needed")]
    NoTracepoint(String),
    /// The kernel lacks a field.
    #[error(
        "this kernel has no field `{path}` in `struct {structure}`; a kernel of at least 5.10 with IPv6 and \
         network namespaces is needed"
    )]
    NoField {
        /// The structure.
        structure: &'static str,
        /// The field's path in it.
        path: &'static str,
    },
    /// The field is not made of whole bytes, so it cannot be read by its offset.
    #[error("field `{path}` of `struct {structure}` is a bit field in this kernel, which is not supported")]
    BitField {
        /// The structure.
        structure: &'static str,
        /// The field's path in it.
        path: &'static str,
    },
}

/// Reads the running kernel's BTF.
///
/// # Errors
/// If there is none, or it lacks something that the programs rely on.
pub(super) fn kernel_layout(release: Release) -> Result<KernelLayout, KernelError> {
    let types = KernelTypes::read(Path::new(BTF_FILE)).map_err(|error| {
        if let BtfError::Unavailable(cause) = &error
            && let Some(error) = KernelError::file_limit("read the kernel's types", cause)
        {
            return error;
        }
        error.into()
    })?;
    Ok(types.layout(release)?)
}

struct KernelTypes(Types);

impl KernelTypes {
    fn read(path: &Path) -> Result<Self, BtfError> {
        Self::parse(fs::read(path).map_err(BtfError::Unavailable)?)
    }

    fn parse(btf: Vec<u8>) -> Result<Self, BtfError> {
        Types::parse(btf).map(Self).map_err(BtfError::Unreadable)
    }

    fn layout(&self, release: Release) -> Result<KernelLayout, BtfError> {
        for tracepoint in program::TRACEPOINTS {
            self.arguments(tracepoint)?;
        }
        KernelLayout::find(|source| self.find(source, release))
    }

    fn find(&self, source: Source, release: Release) -> Result<u32, BtfError> {
        let has = |feature| match feature {
            Feature::SocketCookie => release.has_socket_cookie(),
            Feature::SkipsNestedRuns => release.skips_nested_runs(),
        };
        match source {
            Source::Offset(structure, path) => self.offset(structure, path),
            Source::OffsetIfAny(structure, path) => Ok(self.offset(structure, path).unwrap_or(0)),
            Source::OffsetWith(feature, structure, path) if has(feature) => self.offset(structure, path),
            Source::OffsetWith(..) => Ok(0),
            Source::ControlBlock(path) => {
                Ok(self.offset("sk_buff", "cb")? + self.offset("tcp_skb_cb", path)?)
            }
            Source::EndOfByte(structure, path) => self.end_of_byte(structure, path),
            Source::Has(feature) => Ok(has(feature).into()),
            Source::HasArguments(tracepoint, count) => Ok((self.arguments(tracepoint)? >= count).into()),
        }
    }

    /// Bytes from the start of `structure` to the field at `path`, which may lie in unnamed structs
    /// and unions.
    fn offset(&self, structure: &'static str, path: &'static str) -> Result<u32, BtfError> {
        match self.0.field(structure, path) {
            Some(Field { bits, bit_len }) if bits % 8 == 0 && bit_len % 8 == 0 => Ok(bits / 8),
            Some(_) => Err(BtfError::BitField { structure, path }),
            None => Err(BtfError::NoField { structure, path }),
        }
    }

    /// The same in bits, of a field that begins anywhere in a byte and goes on to its end.
    fn end_of_byte(&self, structure: &'static str, path: &'static str) -> Result<u32, BtfError> {
        match self.0.field(structure, path) {
            Some(Field { bits, bit_len }) if bit_len == 0 || bits % 8 + bit_len == 8 => Ok(bits),
            Some(_) => Err(BtfError::BitField { structure, path }),
            None => Err(BtfError::NoField { structure, path }),
        }
    }

    /// How many arguments `tracepoint` has.
    ///
    /// The kernel describes it as a typedef of a pointer to a function that takes a `void *` before
    /// them.
    fn arguments(&self, tracepoint: &str) -> Result<usize, BtfError> {
        let parameters = self.0.parameters(&format!("btf_trace_{tracepoint}"));
        let parameters = parameters.ok_or_else(|| BtfError::NoTracepoint(tracepoint.to_owned()))?;
        Ok(parameters.saturating_sub(1))
    }
}

const BTF_FILE: &str = "/sys/kernel/btf/vmlinux";

#[cfg(test)]
mod tests {
    use std::path::Path;

    use tcp_monitor_common::abi::layout::{Feature, KernelLayout, Source};

    use super::{BTF_FILE, BtfError, KernelTypes};
    use crate::kernel::release::Release;

    const INT: u32 = 1;
    const PTR: u32 = 2;
    const STRUCT: u32 = 4;
    const UNION: u32 = 5;
    const TYPEDEF: u32 = 8;
    const FUNC: u32 = 12;
    const FUNC_PROTO: u32 = 13;

    /// Writes BTF (Documentation/bpf/btf.rst): a header, types, strings.
    #[derive(Default)]
    struct Builder {
        types: Vec<u32>,
        strings: Vec<u8>,
    }

    impl Builder {
        fn name(&mut self, name: &str) -> u32 {
            if self.strings.is_empty() {
                self.strings.push(0);
            }
            if name.is_empty() {
                return 0;
            }
            let offset = u32::try_from(self.strings.len()).expect("short");
            self.strings.extend(name.bytes().chain([0]));
            offset
        }

        fn add(
            &mut self,
            kind: u32,
            name: &str,
            size_or_type: u32,
            rest: &[(&str, u32, Option<u32>)],
            bits: bool,
        ) {
            let name = self.name(name);
            let count = u32::try_from(rest.len()).expect("few");
            let vlen = if kind == INT { 0 } else { count };
            self.types.extend([name, u32::from(bits) << 31 | kind << 24 | vlen, size_or_type]);
            if kind == INT {
                self.types.push(size_or_type * 8);
            }
            for (member, id, offset) in rest {
                let member = self.name(member);
                self.types.extend([member, *id]);
                self.types.extend(*offset);
            }
        }

        fn build(self) -> Vec<u8> {
            let words = |n: usize| u32::try_from(n).expect("short").to_ne_bytes();
            let mut btf = 0xeb9f_u16.to_ne_bytes().to_vec();
            btf.extend([1, 0]);
            btf.extend(words(24));
            btf.extend(words(0));
            btf.extend(words(self.types.len() * 4));
            btf.extend(words(self.types.len() * 4));
            btf.extend(words(self.strings.len()));
            btf.extend(self.types.iter().flat_map(|word| word.to_ne_bytes()));
            btf.extend(self.strings);
            btf
        }
    }

    fn types() -> KernelTypes {
        let mut btf = Builder::default();
        btf.add(INT, "int", 4, &[], false); // 1
        btf.add(STRUCT, "", 8, &[("low", 1, Some(0)), ("high", 1, Some(32))], false); // 2
        btf.add(UNION, "", 8, &[("word", 1, Some(0)), ("", 2, Some(0))], false); // 3
        btf.add(STRUCT, "inner", 4, &[("inum", 1, Some(0))], false); // 4
        let fields: [(&str, u32, Option<u32>); 5] = [
            ("first", 1, Some(0)),
            ("", 3, Some(64)),
            ("inner", 4, Some(128)),
            ("half", 1, Some(4 << 24 | 164)),
            ("middle", 1, Some(2 << 24 | 170)),
        ];
        btf.add(STRUCT, "sock", 24, &fields, true); // 5
        btf.add(FUNC_PROTO, "", 0, &[("", 1, None), ("sk", 1, None), ("skb", 1, None)], false); // 6
        btf.add(FUNC, "sock", 6, &[], false); // 7
        btf.add(PTR, "", 6, &[], false); // 8
        btf.add(TYPEDEF, "btf_trace_tcp_send_reset", 8, &[], false); // 9
        btf.add(TYPEDEF, "btf_trace_no_function", 1, &[], false); // 10
        KernelTypes::parse(btf.build()).expect("well-formed BTF")
    }

    #[test]
    fn fields_are_found_in_unnamed_structs_and_unions_and_by_path() {
        let types = types();
        assert_eq!(types.offset("sock", "first").expect("a field"), 0);
        assert_eq!(types.offset("sock", "word").expect("in a union"), 8);
        assert_eq!(types.offset("sock", "high").expect("in a struct in a union"), 12);
        assert_eq!(types.offset("sock", "inner.inum").expect("by path"), 16);
    }

    #[test]
    fn a_bit_field_is_taken_where_the_rest_of_its_byte_is_it() {
        let types = types();
        assert_eq!(types.end_of_byte("sock", "half").expect("the upper half of a byte"), 164);
        assert_eq!(types.end_of_byte("sock", "first").expect("no bit field"), 0);
        assert!(matches!(types.end_of_byte("sock", "middle"), Err(BtfError::BitField { .. })));
    }

    #[test]
    fn each_source_is_found_as_it_says() {
        let types = types();
        let find = |source, major, minor| types.find(source, Release::new(major, minor)).expect("a value");
        let nested = Source::OffsetWith(Feature::SkipsNestedRuns, "sock", "inner.inum");
        let table = [
            (Source::Offset("sock", "word"), 8),
            (Source::OffsetIfAny("sock", "high"), 12),
            (Source::OffsetIfAny("sock", "third"), 0),
            (Source::EndOfByte("sock", "half"), 164),
            (Source::HasArguments("tcp_send_reset", 2), 1),
            (Source::HasArguments("tcp_send_reset", 3), 0),
        ];
        for (source, value) in table {
            assert_eq!(find(source, 6, 1), value, "{source:?}");
        }
        let by_release = |source| [find(source, 5, 10), find(source, 5, 12)];
        assert_eq!(by_release(Source::Has(Feature::SocketCookie)), [0, 1]);
        assert_eq!(by_release(nested), [0, 16]);
    }

    #[test]
    fn the_running_kernel_has_every_field() {
        // Kernels without it cannot run the programs.
        let Ok(types) = KernelTypes::read(Path::new(BTF_FILE)) else { return };
        let (release, _) = Release::running();
        let layout = types.layout(release).expect("every field");
        assert_ne!(layout, KernelLayout::UNSET);
    }

    #[test]
    fn what_is_missing_is_named() {
        let types = types();
        for (error, text) in [
            (types.offset("sock", "third"), "field `third` in `struct sock`"),
            (types.offset("net", "ns.inum"), "field `ns.inum` in `struct net`"),
            (types.offset("sock", "half"), "field `half` of `struct sock` is a bit field"),
        ] {
            let error = error.expect_err(text).to_string();
            assert!(error.contains(text), "{error}");
        }
        for tracepoint in ["tcp_retransmit_skb", "no_function"] {
            let error = types.arguments(tracepoint).expect_err(tracepoint);
            assert!(matches!(&error, BtfError::NoTracepoint(name) if name == tracepoint), "{error}");
        }
    }

    #[test]
    fn the_leading_void_pointer_is_no_argument_of_a_tracepoint() {
        assert_eq!(types().arguments("tcp_send_reset").expect("a tracepoint"), 2);
    }

    #[test]
    fn damaged_type_information_is_an_error() {
        let mut btf = Builder::default();
        btf.add(STRUCT, "sock", 4, &[("first", 1, Some(0))], false);
        let btf = btf.build();
        for end in 0..btf.len() {
            assert!(KernelTypes::parse(btf[..end].to_vec()).is_err(), "cut at {end}");
        }
    }
}
