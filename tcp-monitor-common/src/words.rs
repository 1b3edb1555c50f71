//! Counters as words: the agent adds them up without naming their fields, so that no counter can be
//! left out.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::abi::counters::{Histogram, InterfaceCounters, PortCounters, RecordCounters, TableCounters};

/// A layout of `u64` counters and nothing else.
pub trait Words: Sized + FromBytes + IntoBytes + Immutable + KnownLayout {
    /// Its counters, in the order of its fields.
    fn words(&self) -> &[u64] {
        const { assert!(size_of::<Self>().is_multiple_of(8) && align_of::<Self>() == align_of::<u64>()) };
        match <[u64]>::ref_from_bytes(self.as_bytes()) {
            Ok(words) => words,
            Err(_) => unreachable!("size and alignment are those of words"),
        }
    }

    /// Its counters, to change them.
    fn words_mut(&mut self) -> &mut [u64] {
        const { assert!(size_of::<Self>().is_multiple_of(8) && align_of::<Self>() == align_of::<u64>()) };
        match <[u64]>::mut_from_bytes(self.as_mut_bytes()) {
            Ok(words) => words,
            Err(_) => unreachable!("size and alignment are those of words"),
        }
    }

    /// Adds every counter of `more`. Counters wrap, as the programs' do.
    fn add(&mut self, more: &Self) {
        for (word, more) in self.words_mut().iter_mut().zip(more.words()) {
            *word = word.wrapping_add(*more);
        }
    }
}

impl Words for PortCounters {}
impl Words for Histogram {}
impl Words for InterfaceCounters {}
impl Words for RecordCounters {}
impl Words for TableCounters {}

#[cfg(test)]
mod tests {
    use super::Words;
    use crate::abi::counters::{InterfaceCounters, PortCounters, RecordCounters, TableCounters};

    /// Every word has a value of its own and is added once.
    fn is_added<C: Words + Copy>(zero: C) {
        let mut one = zero;
        for (place, word) in (1..).zip(one.words_mut()) {
            *word = place;
        }
        let mut total = one;
        total.add(&one);
        total.add(&one);
        assert_eq!(size_of::<C>(), size_of_val(total.words()));
        for (place, word) in (1..).zip(total.words()) {
            assert_eq!(*word, 3 * place);
        }
    }

    #[test]
    fn every_counter_is_added() {
        is_added(PortCounters::ZERO);
        is_added(InterfaceCounters::default());
        is_added(RecordCounters::default());
        is_added(TableCounters::default());
    }

    #[test]
    fn counters_wrap() {
        let mut total = TableCounters { evictions: [u64::MAX; 4] };
        total.add(&TableCounters { evictions: [2; 4] });
        assert_eq!(total.evictions, [1; 4]);
    }
}
