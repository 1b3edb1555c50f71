//! Every metric family: its name, type, labels, help and how its samples are read from what was
//! counted.

pub(super) mod agent;
pub(super) mod ports;
pub(super) mod sockets;

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::{agent, ports, sockets};

    #[test]
    fn every_name_and_label_is_allowed_and_no_name_occurs_twice() {
        let described = ports::FAMILIES.iter().map(|family| family.describe());
        let described = described.chain(agent::FAMILIES.iter().map(|family| family.describe()));
        let described = described.chain(sockets::FAMILIES.iter().map(|family| family.describe()));
        let mut names = BTreeSet::new();
        for description in described {
            let name = description.expect("allowed").fq_name;
            assert!(names.insert(name.clone()), "{name}");
        }
    }
}
