//! The roofline picture: what was reached, under what could be.

use super::report::{Ceiling, Row};
use crate::Failure;
use plotters::prelude::*;
use std::io::Write;
use std::path::Path;

/// Refuses a place that can't be written before anything is measured for it.
pub fn check(path: &Path) -> Result<(), Failure> {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() && !folder.is_dir() => {
            Err(Failure::new(format!(
                "{}: found no folder {}, expected one",
                path.display(),
                folder.display()
            )))
        }
        _ => Ok(()),
    }
}

/// Writes an SVG of all rows over operations a byte, with the ceiling measured in the same run.
pub fn roofline(path: &Path, rows: &[Row], ceiling: Ceiling) -> Result<(), Failure> {
    let mut svg = String::new();
    draw(&mut svg, rows, ceiling)
        .map_err(|error| Failure::new(format!("{}: {error}", path.display())))?;
    imma::files::write(path, |out| out.write_all(svg.as_bytes()))
        .map_err(|error| Failure::new(format!("{}: {error}", path.display())))
}

fn draw(svg: &mut String, rows: &[Row], ceiling: Ceiling) -> Result<(), String> {
    let error = |e: DrawingAreaErrorKind<_>| e.to_string();
    let peak = ceiling.operations * 1e-12;
    let slowest = rows.iter().map(Row::tops).fold(peak, f64::min);
    let intensities = || rows.iter().map(Row::intensity);
    let knee = ceiling.operations / ceiling.bytes;
    let x = intensities().fold(knee, f64::min) / 2.0..intensities().fold(knee, f64::max) * 2.0;
    let y = slowest / 2.0..peak * 2.0;

    let root = SVGBackend::with_string(svg, (900, 600)).into_drawing_area();
    root.fill(&WHITE).map_err(error)?;
    let device = rows.first().map_or("", |row| row.device.as_str());
    let caption = format!(
        "imma bench on {device}: ceiling {peak:.2} TOPS, {:.0} GB/s",
        ceiling.bytes * 1e-9
    );
    let mut chart = ChartBuilder::on(&root)
        .caption(caption, ("sans-serif", 18))
        .margin(12)
        .x_label_area_size(40)
        .y_label_area_size(60)
        .build_cartesian_2d(x.clone().log_scale(), y.log_scale())
        .map_err(error)?;
    chart
        .configure_mesh()
        .max_light_lines(1)
        .x_desc("operations per byte (operands read once, output written once)")
        .y_desc("TOPS")
        .draw()
        .map_err(error)?;
    let roof = [x.start, knee.clamp(x.start, x.end), x.end];
    let line = roof.map(|i| (i, ceiling.at(i) * 1e-12));
    chart
        .draw_series(LineSeries::new(line, BLACK.stroke_width(2)))
        .map_err(error)?;

    for (i, op) in super::Op::ALL.into_iter().enumerate() {
        let of_op: Vec<_> = rows.iter().filter(|row| row.op == op).collect();
        if of_op.is_empty() {
            continue;
        }
        let color = Palette99::pick(i).to_rgba();
        let points = of_op.iter().map(|row| (row.intensity(), row.tops()));
        chart
            .draw_series(points.map(|at| Circle::new(at, 4, color.filled())))
            .map_err(error)?
            .label(op.name())
            .legend(move |(x, y)| Circle::new((x + 8, y), 4, color.filled()));
        let names = of_op.iter().map(|row| {
            let shape = row.shape;
            let text = format!("{}x{}x{}", shape.m, shape.k, shape.n);
            Text::new(text, (row.intensity(), row.tops()), ("sans-serif", 10))
        });
        chart.draw_series(names).map_err(error)?;
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::LowerRight)
        .border_style(BLACK)
        .background_style(WHITE)
        .draw()
        .map_err(error)?;
    root.present().map_err(error)
}
