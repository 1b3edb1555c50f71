//! Values as text, appended to a buffer: an event is a dozen of them, and `core::fmt` takes several
//! times as long for each.

use std::fmt::{self, Write as _};
use std::iter;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use tcp_monitor_common::TcpState;

/// What can be appended to text. A tuple is its parts, one after the other.
pub(super) trait Append {
    /// Appends it to `to`.
    fn append_to(&self, to: &mut String);

    /// It alone.
    fn to_text(&self) -> String {
        let mut text = String::new();
        self.append_to(&mut text);
        text
    }
}

impl<T: Append + ?Sized> Append for &T {
    #[inline]
    fn append_to(&self, to: &mut String) {
        (**self).append_to(to);
    }
}

impl Append for str {
    #[inline]
    fn append_to(&self, to: &mut String) {
        to.push_str(self);
    }
}

impl Append for String {
    #[inline]
    fn append_to(&self, to: &mut String) {
        to.push_str(self);
    }
}

impl Append for char {
    #[inline]
    fn append_to(&self, to: &mut String) {
        to.push(*self);
    }
}

impl Append for TcpState {
    #[inline]
    fn append_to(&self, to: &mut String) {
        to.push_str(self.name());
    }
}

/// For what is seldom appended.
impl Append for fmt::Arguments<'_> {
    fn append_to(&self, to: &mut String) {
        // Writing to a string cannot fail.
        let _ = to.write_fmt(*self);
    }
}

macro_rules! append_integers {
    ($($integer:ty)*) => {$(
        impl Append for $integer {
            #[inline]
            fn append_to(&self, to: &mut String) {
                to.push_str(itoa::Buffer::new().format(*self));
            }
        }
    )*};
}

append_integers!(u8 u16 u32 u64 u128);

macro_rules! append_tuples {
    ($(($($part:ident)*))*) => {$(
        impl<$($part: Append),*> Append for ($($part,)*) {
            #[inline]
            fn append_to(&self, to: &mut String) {
                #[expect(non_snake_case, reason = "a part is named after its type")]
                let ($($part,)*) = self;
                $($part.append_to(to);)*
            }
        }
    )*};
}

append_tuples!((A B) (A B C) (A B C D));

/// As `Display`, for addresses without a zone.
impl Append for SocketAddr {
    fn append_to(&self, to: &mut String) {
        match self.ip() {
            IpAddr::V4(ip) => (ip, ':', self.port()).append_to(to),
            IpAddr::V6(ip) => ('[', ip, "]:", self.port()).append_to(to),
        }
    }
}

impl Append for Ipv4Addr {
    fn append_to(&self, to: &mut String) {
        let [a, b, c, d] = self.octets();
        ((a, '.', b, '.'), c, '.', d).append_to(to);
    }
}

/// RFC 5952: the longest run of zeros is shortened, of several the first.
impl Append for Ipv6Addr {
    fn append_to(&self, to: &mut String) {
        if let Some(ip) = self.to_ipv4_mapped() {
            return ("::ffff:", ip).append_to(to);
        }
        let segments = self.segments();
        let (start, len) = longest_zeros(&segments);
        append_segments(&segments[..start], to);
        if len > 0 {
            to.push_str("::");
        }
        append_segments(&segments[start + len..], to);
    }
}

fn append_segments(segments: &[u16], to: &mut String) {
    for (index, segment) in segments.iter().enumerate() {
        if index > 0 {
            to.push(':');
        }
        let digits = 4 - (segment.leading_zeros() / 4).min(3);
        for digit in (0..digits).rev() {
            to.push(HEX[usize::from(segment >> (4 * digit) & 0xf)]);
        }
    }
}

/// Where the longest run of at least two zeros begins, and its length; of a run that there is not,
/// the end and 0.
fn longest_zeros(segments: &[u16; 8]) -> (usize, usize) {
    let mut longest = (segments.len(), 0);
    let mut len = 0;
    for (index, segment) in segments.iter().enumerate() {
        len = if *segment == 0 { len + 1 } else { 0 };
        if len > longest.1.max(1) {
            longest = (index + 1 - len, len);
        }
    }
    longest
}

/// The text of the second of the latest time. Events come in order of time: many share it.
#[derive(Clone, Debug, Default)]
pub(super) struct SecondText {
    second: Option<u64>,
    text: String,
}

impl SecondText {
    /// The text of `second`, which `write` writes into an empty string if it is another than the
    /// last.
    pub(super) fn of(&mut self, second: u64, write: impl FnOnce(&mut String)) -> &str {
        if self.second != Some(second) {
            self.second = Some(second);
            self.text.clear();
            write(&mut self.text);
        }
        &self.text
    }
}

/// A number in as many digits, with zeros in front.
pub(super) struct Digits<const COUNT: usize>(pub(super) u32);

impl<const COUNT: usize> Append for Digits<COUNT> {
    fn append_to(&self, to: &mut String) {
        let mut digits = [b'0'; COUNT];
        let mut rest = self.0;
        for digit in digits.iter_mut().rev() {
            *digit += (rest % 10) as u8;
            rest /= 10;
        }
        // Digits are text.
        to.push_str(str::from_utf8(&digits).unwrap_or_default());
    }
}

/// As many spaces.
pub(super) struct Spaces(pub(super) usize);

impl Append for Spaces {
    fn append_to(&self, to: &mut String) {
        to.extend(iter::repeat_n(' ', self.0));
    }
}

const HEX: [char; 16] = ['0', '1', '2', '3', '4', '5', '6', '7', '8', '9', 'a', 'b', 'c', 'd', 'e', 'f'];

#[cfg(test)]
mod tests {
    use super::{Append, Digits, Ipv6Addr, SecondText, SocketAddr};

    #[test]
    fn an_address_is_written_as_the_standard_library_does() {
        let mut random = fastrand::Rng::with_seed(7);
        for _ in 0..20_000 {
            // Most segments are zero or short, so that runs of zeros of all lengths occur.
            let segment = |random: &mut fastrand::Rng| match random.u8(..4) {
                0 => random.u16(..),
                1 => random.u16(..0x100),
                _ => 0,
            };
            let ip = Ipv6Addr::from(std::array::from_fn::<_, 8, _>(|_| segment(&mut random)));
            let address = SocketAddr::from((ip, random.u16(..)));
            assert_eq!(address.to_text(), address.to_string());
            let address = SocketAddr::from((random.u32(..).to_be_bytes(), random.u16(..)));
            assert_eq!(address.to_text(), address.to_string());
        }
        for text in ["[::]:0", "[::1]:1", "[1::]:65535", "[::ffff:192.0.2.1]:443", "[1:0:0:2::]:9"] {
            let address: SocketAddr = text.parse().expect("an address");
            assert_eq!(address.to_text(), text);
        }
    }

    #[test]
    fn a_tuple_is_its_parts_and_digits_are_padded() {
        assert_eq!(("seq ", u32::MAX, '+', 0_u8).to_text(), "seq 4294967295+0");
        assert_eq!((Digits::<6>(42), '.', Digits::<2>(7)).to_text(), "000042.07");
    }

    #[test]
    fn a_second_is_written_once() {
        let mut seconds = SecondText::default();
        for (second, expected) in [(0, "0"), (0, "0"), (1, "1"), (0, "0")] {
            assert_eq!(seconds.of(second, |text| second.append_to(text)), expected);
        }
        assert_eq!(seconds.of(0, |_| panic!("it is known")), "0");
    }
}
