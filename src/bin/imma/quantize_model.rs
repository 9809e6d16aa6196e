//! `imma quantize` of a model's folder.

use crate::{line, Failure};
use imma::checkpoint::{quantize_model, NamePattern, Progress, QuantizeOptions};
use imma::quant::Calibration;
use indicatif::{HumanBytes, ProgressBar, ProgressStyle};
use std::path::Path;

pub fn run(
    input: &Path,
    output: &Path,
    include: &[NamePattern],
    exclude: &[NamePattern],
    ignore: &[NamePattern],
    calibration: Calibration,
    group_size: Option<usize>,
) -> Result<(), Failure> {
    let mut options = QuantizeOptions::default();
    options.include = include.to_vec();
    options.calibration = calibration;
    options.group_size = group_size;
    for names in ignore {
        let open = std::mem::take(&mut options.open);
        options.open = open
            .ignore_tensors(names.clone())
            .ignore_keys(names.as_str());
    }
    if !exclude.is_empty() {
        options.exclude = exclude.to_vec();
    }
    // Drawn on a terminal only.
    let style = "{bar:32} {bytes}/{total_bytes} {prefix} {wide_msg}";
    let style = ProgressStyle::with_template(style).expect("a good template");
    let bar = ProgressBar::new(0).with_style(style);
    let mut tick = |p: Progress<'_>| {
        bar.set_length(p.bytes.1);
        bar.set_position(p.bytes.0);
        bar.set_prefix(format!("layer {}/{}", p.layers.0, p.layers.1));
        bar.set_message(p.tensor.to_string());
    };
    let report = quantize_model(input, output, &options, &mut tick);
    bar.finish_and_clear();
    let report = report?;
    line(report.table().trim_end());
    for name in &report.left_out {
        line(format!("not copied: {name}"));
    }
    if report.continued > 0 {
        let layers = report.continued;
        line(format!("{layers} layers were done by an interrupted run"));
    }
    line(format!(
        "{} layers quantised, {} matrices left as they were; {} -> {} in {}",
        report.layers.len(),
        report.ignored.len(),
        HumanBytes(report.bytes.0),
        HumanBytes(report.bytes.1),
        output.display()
    ));
    Ok(())
}
