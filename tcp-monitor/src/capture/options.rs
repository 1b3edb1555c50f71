//! The options at the end of a pcapng block: code, length, value.

use super::fields::Fields;

/// The options in `fields`, up to the end mark or the first that is truncated.
pub(super) fn options<'a>(mut fields: Fields<'a>) -> impl Iterator<Item = (u16, &'a [u8])> {
    std::iter::from_fn(move || {
        let (code, len) = (fields.u16()?, fields.u16()?);
        if code == END {
            return None;
        }
        Some((code, fields.padded(len.into())?))
    })
}

const END: u16 = 0;
