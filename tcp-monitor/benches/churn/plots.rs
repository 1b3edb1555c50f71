//! Plots of the saved result, as SVG.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, anyhow};
use plotters::backend::SVGBackend;
use plotters::chart::ChartBuilder;
use plotters::coord::Shift;
use plotters::coord::ranged1d::{IntoSegmentedCoord, SegmentValue};
use plotters::drawing::{DrawingArea, IntoDrawingArea};
use plotters::element::{PathElement, Rectangle};
use plotters::style::{BLACK, Color, RGBColor, WHITE};

use crate::results::{Row, Spread};
use crate::saved;

/// Draws the rows of one scenario into a file named after it.
pub(crate) fn draw(scenario: &str, rows: &[Row]) -> Result<()> {
    let name = scenario.split([',', ' ']).filter(|word| !word.is_empty()).collect::<Vec<_>>().join("-");
    let path = Path::new(saved::DIRECTORY).join(format!("churn-{name}.svg"));
    let mut image = String::new();
    {
        let root = SVGBackend::with_string(&mut image, SIZE).into_drawing_area();
        root.fill(&WHITE)?;
        let panels = root.split_evenly((3, 1));
        let [throughput, total, kernel] = &panels[..] else { return Err(anyhow!("no panels")) };
        bars(throughput, "throughput, with the monitor ÷ without", rows, |row| row.throughput)?;
        bars(total, "CPU time of the machine a connection, with the monitor ÷ without", rows, |row| {
            row.total_cpu
        })?;
        bars(kernel, "time in the kernel programs, µs a connection, net", rows, |row| {
            row.kernel.as_ref().map(|kernel| kernel.net.scaled(1e-3))
        })?;
        root.present()?;
    }
    fs::write(&path, image).with_context(|| format!("cannot write {}", path.display()))
}

/// A bar for each row that has the value: its median, and a line from the lowest to the highest.
fn bars(
    area: &DrawingArea<SVGBackend<'_>, Shift>,
    title: &str,
    rows: &[Row],
    value: impl Fn(&Row) -> Option<Spread>,
) -> Result<()> {
    // The first row is at the top.
    let bars: Vec<(&str, Spread)> =
        rows.iter().rev().filter_map(|row| Some((row.title.as_str(), value(row)?))).collect();
    let most = bars.iter().map(|(_, spread)| spread.high).fold(0.0, f64::max);
    let Some(last) = bars.len().checked_sub(1) else { return Ok(()) };
    let mut chart = ChartBuilder::on(area)
        .caption(title, ("sans-serif", 19))
        .margin(8)
        .x_label_area_size(24)
        .y_label_area_size(230)
        .build_cartesian_2d(0.0..most * 1.05, (0..last).into_segmented())?;
    let title_of = |place: &SegmentValue<usize>| match place {
        SegmentValue::CenterOf(place) => bars.get(*place).map_or("", |(title, _)| *title).to_owned(),
        SegmentValue::Exact(_) | SegmentValue::Last => String::new(),
    };
    chart
        .configure_mesh()
        .disable_y_mesh()
        .y_labels(bars.len())
        .y_label_formatter(&title_of)
        .label_style(("sans-serif", 16))
        .light_line_style(WHITE)
        .draw()?;
    chart.draw_series(bars.iter().enumerate().map(|(place, (_, spread))| {
        let next = SegmentValue::Exact(place + 1);
        let mut bar =
            Rectangle::new([(0.0, SegmentValue::Exact(place)), (spread.median, next)], BAR.filled());
        bar.set_margin(3, 3, 0, 0);
        bar
    }))?;
    chart.draw_series(bars.iter().enumerate().map(|(place, (_, spread))| {
        let middle = SegmentValue::CenterOf(place);
        PathElement::new([(spread.low, middle.clone()), (spread.high, middle)], BLACK.stroke_width(2))
    }))?;
    Ok(())
}

/// Width and height.
const SIZE: (u32, u32) = (800, 760);
const BAR: RGBColor = RGBColor(120, 160, 210);
