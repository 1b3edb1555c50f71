//! The last result, which is kept in the repository.

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::monitors::MONITORS;
use crate::results::Row;

/// Rows by what was measured: the words of [`Conditions`](crate::options::Conditions).
#[derive(Default, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Saved(BTreeMap<String, Vec<Row>>);

impl Saved {
    pub(crate) fn read() -> Result<Self> {
        match fs::read(PATH) {
            Ok(text) => serde_json::from_slice(&text).with_context(|| format!("{PATH} cannot be read")),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(error).with_context(|| format!("{PATH} cannot be read")),
        }
    }

    pub(crate) fn rows(&self, scenario: &str) -> &[Row] {
        self.0.get(scenario).map_or(&[], Vec::as_slice)
    }

    /// Puts rows in the place of those with the same names, in the order of the table.
    pub(crate) fn replace(&mut self, scenario: &str, rows: Vec<Row>) {
        let saved = self.0.entry(scenario.to_owned()).or_default();
        for row in rows {
            match saved.iter_mut().find(|saved| saved.name == row.name) {
                Some(saved) => *saved = row,
                None => saved.push(row),
            }
        }
        saved.sort_by_key(|row| MONITORS.iter().position(|monitor| monitor.name == row.name));
    }

    pub(crate) fn write(&self) -> Result<()> {
        let mut text = serde_json::to_string_pretty(self)?;
        text.push('\n');
        fs::write(PATH, text).with_context(|| format!("cannot write {PATH}"))
    }
}

/// Where it is kept, with the plots of it.
pub(crate) const DIRECTORY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/bench");
const PATH: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/bench/churn.json");
