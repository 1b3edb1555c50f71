//! The results as Markdown tables, and what got worse since the saved ones.

use std::fmt::Write;

use crate::results::{Row, Spread};

/// A row a monitor.
pub(crate) fn table(rows: &[Row]) -> String {
    let mut table = String::from(
        "| monitor | throughput ÷ none | total CPU ÷ none | own CPU, s per 100k | kernel, ns a connection, net \
         | lines a connection | reported whole, % | lost records a connection | RSS, MB |\n\
         |---|---|---|---|---|---|---|---|---|\n",
    );
    for row in rows {
        let _ = write!(table, "| {} |", row.title);
        if !row.installed {
            table.push_str(" not installed | | | | | | | |\n");
            continue;
        }
        for (spread, decimals) in [
            (row.throughput, 2),
            (row.total_cpu, 2),
            (row.own_cpu, 2),
            (row.kernel.as_ref().map(|kernel| kernel.net), 0),
            (row.lines_per_connection, 1),
            (row.whole.map(|whole| whole.scaled(100.0)), 1),
            (row.lost, 2),
            (row.resident_mb, 0),
        ] {
            let _ = write!(table, " {} |", cell(spread, decimals));
        }
        table.push('\n');
    }
    if let Some(rate) = rows.iter().find_map(|row| row.connections_per_second) {
        let _ = writeln!(table, "\nwithout a monitor: {} connections a second", cell(Some(rate), 0));
    }
    table
}

/// A row a program.
pub(crate) fn programs(rows: &[Row]) -> String {
    let mut table = String::from("| monitor | program | runs a connection | ns a run |\n|---|---|---|---|\n");
    for row in rows {
        for program in row.kernel.iter().flat_map(|kernel| &kernel.programs) {
            let (runs, ns) = (Some(program.runs_per_connection), Some(program.ns_per_run));
            let _ = writeln!(
                table,
                "| {} | `{}` | {} | {} |",
                row.title,
                program.name,
                cell(runs, 2),
                cell(ns, 0)
            );
        }
    }
    table
}

/// Compares time in the kernel, which hardly varies, with the saved result.
pub(crate) fn comparison(saved: &[Row], rows: &[Row]) -> String {
    let mut text = String::new();
    for row in rows {
        let before = saved.iter().find(|saved| saved.name == row.name);
        let before = before.and_then(|row| row.kernel.as_ref());
        let (Some(before), Some(now)) = (before, &row.kernel) else { continue };
        let ratio = now.net.median / before.net.median;
        // Empty programs do the same each time: how much they differ is how much the machine does.
        let spreads = [before.empty, now.empty, before.net, now.net];
        let width = spreads.map(Spread::relative_width).into_iter().fold(0.0, f64::max);
        let worse = if ratio > 1.0 + width { "WORSE" } else { "not worse" };
        let _ = writeln!(
            text,
            "{}: {:.0} ns a connection, saved {:.0}: {:+.1} %, {worse} (runs differ by {:.1} %)",
            row.title,
            now.net.median,
            before.net.median,
            (ratio - 1.0) * 100.0,
            width * 100.0,
        );
    }
    if text.is_empty() { "no saved result to compare with\n".to_owned() } else { text }
}

/// `median (low–high)`.
fn cell(spread: Option<Spread>, decimals: usize) -> String {
    let Some(Spread { median, low, high }) = spread else { return "–".to_owned() };
    let [median, low, high] = [median, low, high].map(|value| format!("{value:.decimals$}"));
    if low == high { median } else { format!("{median} ({low}–{high})") }
}
