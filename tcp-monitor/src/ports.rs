//! Sets of TCP ports, as the operator writes them: `8899`, `12000-12010`, `80,443,8000-8100`; and
//! the ports that the kernel gives to clients.

use std::fmt;
use std::fs;
use std::ops::RangeInclusive;
use std::str::FromStr;

use thiserror::Error;

/// A set of TCP ports from 1 to 65535, kept as sorted ranges that neither overlap nor touch.
///
/// Parsed from a comma list of ports and ranges; several sets are joined with [`FromIterator`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PortSet {
    ranges: Vec<RangeInclusive<u16>>,
}

impl PortSet {
    /// Whether `port` is in the set.
    #[must_use]
    pub fn contains(&self, port: u16) -> bool {
        let next = self.ranges.partition_point(|range| *range.end() < port);
        self.ranges.get(next).is_some_and(|range| range.contains(&port))
    }

    /// Every port, in ascending order.
    pub fn iter(&self) -> impl Iterator<Item = u16> {
        self.ranges.iter().cloned().flatten()
    }

    /// The ports as ranges, ascending, that neither overlap nor touch.
    pub fn ranges(&self) -> impl Iterator<Item = &RangeInclusive<u16>> {
        self.ranges.iter()
    }

    /// Whether the set has no port.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// How many ports are in the set, 0 to 65535.
    #[must_use]
    pub fn len(&self) -> usize {
        self.ranges.iter().map(ExactSizeIterator::len).sum()
    }
}

impl FromStr for PortSet {
    type Err = PortSetError;

    fn from_str(list: &str) -> Result<Self, Self::Err> {
        list.split(',').map(|item| parse_item(item.trim())).collect()
    }
}

impl FromIterator<RangeInclusive<u16>> for PortSet {
    fn from_iter<I: IntoIterator<Item = RangeInclusive<u16>>>(ranges: I) -> Self {
        let mut sorted: Vec<_> = ranges.into_iter().collect();
        sorted.sort_unstable_by_key(|range| *range.start());
        let mut merged: Vec<RangeInclusive<u16>> = Vec::with_capacity(sorted.len());
        for range in sorted {
            match merged.last_mut() {
                Some(last) if *range.start() <= last.end().saturating_add(1) => {
                    *last = *last.start()..=*last.end().max(range.end());
                }
                Some(_) | None => merged.push(range),
            }
        }
        Self { ranges: merged }
    }
}

impl<'a> FromIterator<&'a PortSet> for PortSet {
    fn from_iter<I: IntoIterator<Item = &'a PortSet>>(sets: I) -> Self {
        sets.into_iter().flat_map(|set| set.ranges.iter().cloned()).collect()
    }
}

impl fmt::Display for PortSet {
    /// The shortest list that parses to the same set: `80,443,8000-8100`; nothing for the empty
    /// set.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, range) in self.ranges.iter().enumerate() {
            if index > 0 {
                f.write_str(",")?;
            }
            write!(f, "{}", range.start())?;
            if range.start() != range.end() {
                write!(f, "-{}", range.end())?;
            }
        }
        Ok(())
    }
}

/// Why a list of ports cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum PortSetError {
    /// Nothing between two commas, or nothing at all.
    #[error("a port is missing: write a port such as 8899 or a range such as 12000-12010")]
    Missing,
    /// Neither a number nor two numbers with a dash between them.
    #[error("`{0}` is neither a port nor a range: write 8899 or 12000-12010")]
    Unreadable(String),
    /// A number that is no TCP port. It is kept as written: it may be larger than any integer type.
    #[error("port {0} is out of range 1-65535")]
    OutOfRange(String),
    /// The first port of a range is above the last.
    #[error("range {first}-{last} runs backwards: write {last}-{first}")]
    Backwards {
        /// The port before the dash.
        first: u16,
        /// The port after it.
        last: u16,
    },
}

fn parse_item(item: &str) -> Result<RangeInclusive<u16>, PortSetError> {
    if item.is_empty() {
        return Err(PortSetError::Missing);
    }
    let (first, last) = item.split_once('-').unwrap_or((item, item));
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if !is_number(first) || !is_number(last) {
        return Err(PortSetError::Unreadable(item.to_owned()));
    }
    let (first, last) = (parse_port(first)?, parse_port(last)?);
    if first > last {
        return Err(PortSetError::Backwards { first, last });
    }
    Ok(first..=last)
}

fn parse_port(digits: &str) -> Result<u16, PortSetError> {
    match digits.parse() {
        Ok(port) if port != 0 => Ok(port),
        Ok(_) | Err(_) => Err(PortSetError::OutOfRange(digits.to_owned())),
    }
}

/// The ports that this host gives to sockets that connect without one (ip(7),
/// `ip_local_port_range`).
pub(crate) fn ephemeral_ports() -> RangeInclusive<u16> {
    let range = fs::read_to_string(PORT_RANGE_FILE).ok().as_deref().and_then(parse_range);
    range.unwrap_or_else(|| {
        log::warn!("{PORT_RANGE_FILE} cannot be read; ports 32768 to 60999 count as ephemeral");
        32768..=60999
    })
}

fn parse_range(text: &str) -> Option<RangeInclusive<u16>> {
    let (first, last) = text.trim().split_once(char::is_whitespace)?;
    Some(first.parse().ok()?..=last.trim_start().parse().ok()?)
}

const PORT_RANGE_FILE: &str = "/proc/sys/net/ipv4/ip_local_port_range";

#[cfg(test)]
mod tests {
    use super::{PortSet, PortSetError, parse_range};

    fn parse(list: &str) -> Result<PortSet, PortSetError> {
        list.parse()
    }

    #[test]
    fn ports_ranges_and_lists_are_sorted_and_merged() -> Result<(), PortSetError> {
        for (written, normal, len) in [
            ("8899", "8899", 1),
            ("12000-12010", "12000-12010", 11),
            ("80,443,8000-8100", "80,443,8000-8100", 103),
            ("443, 80", "80,443", 2),
            ("80,80", "80", 1),
            ("80-90,85-100", "80-100", 21),
            ("80-90,82", "80-90", 11),
            ("80,81,82", "80-82", 3),
            ("7-7", "7", 1),
            ("007", "7", 1),
            ("60000-65535,1", "1,60000-65535", 5537),
            ("1-65535,65535", "1-65535", 65535),
        ] {
            let set = parse(written)?;
            assert_eq!(set.to_string(), normal, "{written}");
            assert_eq!(set.len(), len, "{written}");
            assert_eq!(set.iter().count(), len, "{written}");
            assert_eq!(parse(normal)?, set, "{written}");
        }
        Ok(())
    }

    #[test]
    fn a_set_contains_exactly_what_it_iterates_over() -> Result<(), PortSetError> {
        for list in ["1", "65535", "5,7-9,100-200", "1-65535"] {
            let set = parse(list)?;
            let contained: Vec<u16> = (0..=u16::MAX).filter(|port| set.contains(*port)).collect();
            assert_eq!(contained, set.iter().collect::<Vec<_>>(), "{list}");
        }
        Ok(())
    }

    #[test]
    fn several_sets_join_into_one() -> Result<(), PortSetError> {
        let sets = [parse("8000-8100")?, parse("80")?, parse("8101")?];
        assert_eq!(sets.iter().collect::<PortSet>().to_string(), "80,8000-8101");
        assert!([].iter().collect::<PortSet>().is_empty());
        Ok(())
    }

    #[test]
    fn the_empty_set_contains_nothing() {
        let empty = PortSet::default();
        assert!(empty.is_empty());
        assert_eq!(empty.len(), 0);
        assert!(!empty.contains(1));
        assert_eq!(empty.to_string(), "");
    }

    #[test]
    fn errors_name_what_was_written_and_what_to_write() {
        for (written, message) in [
            ("70000", "port 70000 is out of range 1-65535"),
            ("0", "port 0 is out of range 1-65535"),
            ("1-65536", "port 65536 is out of range 1-65535"),
            ("99999999999999999999", "port 99999999999999999999 is out of range 1-65535"),
            ("20-10", "range 20-10 runs backwards: write 10-20"),
            ("http", "`http` is neither a port nor a range: write 8899 or 12000-12010"),
            ("80-", "`80-` is neither a port nor a range: write 8899 or 12000-12010"),
            ("-80", "`-80` is neither a port nor a range: write 8899 or 12000-12010"),
            ("1-2-3", "`1-2-3` is neither a port nor a range: write 8899 or 12000-12010"),
            ("+80", "`+80` is neither a port nor a range: write 8899 or 12000-12010"),
            ("80,", "a port is missing: write a port such as 8899 or a range such as 12000-12010"),
            ("", "a port is missing: write a port such as 8899 or a range such as 12000-12010"),
        ] {
            let error = parse(written).map(|set| set.to_string()).map_err(|error| error.to_string());
            assert_eq!(error, Err(message.to_owned()), "{written}");
        }
    }

    #[test]
    fn the_port_range_is_read() {
        assert_eq!(parse_range("32768\t60999\n"), Some(32768..=60999));
        for text in ["", "32768", "32768 99999", "a b"] {
            assert_eq!(parse_range(text), None, "{text}");
        }
    }
}
