//! The kernel's types, read in place from its BTF (kernel: Documentation/bpf/btf.rst).
//!
//! A kernel has some 150,000. What is asked for are a few dozen fields, and to build an object of
//! each type takes ten times the memory of the file.

use std::ops::Range;

/// The types of a BTF file.
pub(super) struct Types {
    btf: Vec<u8>,
    /// Where each type begins, by its id less one: 0 is `void`.
    places: Vec<u32>,
    strings: Range<usize>,
}

/// Where a field is in its structure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Field {
    /// From the start of the structure.
    pub(super) bits: u32,
    /// Length of a bit field, 0 of any other.
    pub(super) bit_len: u32,
}

/// What all types have.
#[derive(Clone, Copy)]
struct Type {
    name: u32,
    kind: u32,
    /// How many members or parameters follow.
    count: usize,
    /// The offsets of members have the lengths of bit fields in them.
    has_bit_fields: bool,
    /// The size or, of a kind that refers to a type, that type.
    target: u32,
    /// Where its members begin.
    members: usize,
}

impl Types {
    /// Finds the beginnings of all types.
    pub(super) fn parse(btf: Vec<u8>) -> Result<Self, &'static str> {
        const TOO_SHORT: &str = "it ends too early";
        if btf.get(..2) != Some(&MAGIC.to_ne_bytes()) {
            return Err("it does not begin as BTF does");
        }
        let field = |at| word(&btf, at).ok_or(TOO_SHORT);
        let [start, types, types_len, strings, strings_len] =
            [field(4)?, field(8)?, field(12)?, field(16)?, field(20)?].map(|word| word as usize);
        let section = |offset: usize, len: usize| {
            let begin = start.saturating_add(offset);
            let section = begin..begin.saturating_add(len);
            if section.end <= btf.len() { Ok(section) } else { Err(TOO_SHORT) }
        };
        let (types, strings) = (section(types, types_len)?, section(strings, strings_len)?);
        let (mut places, mut next) = (Vec::new(), types.start);
        while next < types.end {
            places.push(u32::try_from(next).map_err(|_| "it is too long")?);
            let this = type_at(&btf, next).ok_or(TOO_SHORT)?;
            next = this.members + rest_len(this.kind, this.count).ok_or("it has types of an unknown kind")?;
        }
        if next > types.end {
            return Err(TOO_SHORT);
        }
        Ok(Self { btf, places, strings })
    }

    /// The field at `path` of `structure`, which may lie in unnamed structs and unions.
    pub(super) fn field(&self, structure: &str, path: &str) -> Option<Field> {
        // Structures private to one file may have the same name.
        let mut candidates = self.named(structure).filter(|candidate| candidate.kind == STRUCT);
        candidates.find_map(|candidate| {
            let mut names = path.split('.');
            let (mut found, mut id) = self.member(candidate, names.next()?, 0)?;
            for name in names {
                let (field, its_id) = self.member(self.resolve(id)?, name, 0)?;
                found = Field { bits: found.bits.checked_add(field.bits)?, ..field };
                id = its_id;
            }
            Some(found)
        })
    }

    /// How many parameters the function has that the typedef `name` is a pointer to.
    pub(super) fn parameters(&self, name: &str) -> Option<usize> {
        let typedef = self.named(name).find(|candidate| candidate.kind == TYPEDEF)?;
        let pointer = self.get(typedef.target).filter(|pointer| pointer.kind == POINTER)?;
        let prototype = self.get(pointer.target).filter(|prototype| prototype.kind == FUNCTION_PROTOTYPE)?;
        Some(prototype.count)
    }

    /// A member and the id of its type.
    fn member(&self, owner: Type, name: &str, depth: usize) -> Option<(Field, u32)> {
        if !matches!(owner.kind, STRUCT | UNION) || depth > MAX_DEPTH {
            return None;
        }
        (0..owner.count).find_map(|index| {
            let at = owner.members + index * MEMBER_LEN;
            let [its_name, id, offset] = [0, 4, 8].map(|field| word(&self.btf, at + field));
            let (its_name, id, offset) = (its_name?, id?, offset?);
            let field = if owner.has_bit_fields {
                Field { bits: offset & 0x00ff_ffff, bit_len: offset >> 24 }
            } else {
                Field { bits: offset, bit_len: 0 }
            };
            if its_name != 0 {
                return self.is_named(its_name, name).then_some((field, id));
            }
            let (inner, id) = self.member(self.resolve(id)?, name, depth + 1)?;
            Some((Field { bits: field.bits.checked_add(inner.bits)?, ..inner }, id))
        })
    }

    /// The type behind typedefs and qualifiers.
    fn resolve(&self, id: u32) -> Option<Type> {
        let mut this = self.get(id)?;
        for _ in 0..MAX_DEPTH {
            if !matches!(this.kind, TYPEDEF | VOLATILE | CONST | RESTRICT | TYPE_TAG) {
                return Some(this);
            }
            this = self.get(this.target)?;
        }
        None
    }

    fn named<'a>(&'a self, name: &'a str) -> impl Iterator<Item = Type> + 'a {
        let types = self.places.iter().filter_map(|place| type_at(&self.btf, *place as usize));
        types.filter(move |candidate| self.is_named(candidate.name, name))
    }

    fn get(&self, id: u32) -> Option<Type> {
        let place = self.places.get((id as usize).checked_sub(1)?)?;
        type_at(&self.btf, *place as usize)
    }

    fn is_named(&self, offset: u32, name: &str) -> bool {
        let strings = self.btf.get(self.strings.clone()).unwrap_or_default();
        let rest = strings.get(offset as usize..).and_then(|rest| rest.strip_prefix(name.as_bytes()));
        rest.is_some_and(|rest| rest.first() == Some(&0))
    }
}

fn type_at(btf: &[u8], at: usize) -> Option<Type> {
    let info = word(btf, at + 4)?;
    Some(Type {
        name: word(btf, at)?,
        kind: info >> 24 & 0x1f,
        count: (info & 0xffff) as usize,
        has_bit_fields: info >> 31 != 0,
        target: word(btf, at + 8)?,
        members: at + TYPE_LEN,
    })
}

fn word(btf: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(*btf.get(at..)?.first_chunk()?))
}

/// Bytes that follow what all types have, for a type of this kind and with so many members; `None`
/// if the kind is unknown.
fn rest_len(kind: u32, count: usize) -> Option<usize> {
    Some(match kind {
        POINTER | FORWARD | TYPEDEF | VOLATILE | CONST | RESTRICT | FUNCTION | FLOAT | TYPE_TAG => 0,
        INT | VARIABLE | DECL_TAG => 4,
        ARRAY => 12,
        STRUCT | UNION | SECTION | ENUM_64 => count * MEMBER_LEN,
        ENUM | FUNCTION_PROTOTYPE => count * 8,
        _ => return None,
    })
}

const MAGIC: u16 = 0xeb9f;
/// Bytes.
const TYPE_LEN: usize = 12;
const MEMBER_LEN: usize = 12;
/// Typedefs of typedefs, and unnamed structs in unnamed structs.
const MAX_DEPTH: usize = 32;

/// Kernel: `BTF_KIND_*`.
const INT: u32 = 1;
const POINTER: u32 = 2;
const ARRAY: u32 = 3;
const STRUCT: u32 = 4;
const UNION: u32 = 5;
const ENUM: u32 = 6;
const FORWARD: u32 = 7;
const TYPEDEF: u32 = 8;
const VOLATILE: u32 = 9;
const CONST: u32 = 10;
const RESTRICT: u32 = 11;
const FUNCTION: u32 = 12;
const FUNCTION_PROTOTYPE: u32 = 13;
const VARIABLE: u32 = 14;
const SECTION: u32 = 15;
const FLOAT: u32 = 16;
const DECL_TAG: u32 = 17;
const TYPE_TAG: u32 = 18;
const ENUM_64: u32 = 19;
