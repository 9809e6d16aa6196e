//! Writes a planned model: shard by shard, then what lies around them, config.json last.
//!
//! ```text
//!   open          claims the folder, reads the journal of an interrupted run
//!   write_shard   a hidden part, filled unit by unit, then renamed     .model.safetensors.part -> model.safetensors
//!   finish        index, other files, reports, config.json             the journal goes
//! ```
//!
//! The journal gets a line when a unit's bytes are on the disk: what it says is done is not done again. A file
//! has its final name only when it is whole.

use super::error::CheckpointError;
use super::file::RawTensor;
use super::float_model::FloatModel;
use super::journal::Journal;
use super::model_files::{claim, updated, Others, PICTURE, TABLE};
use super::model_plan::{fingerprint, ModelPlan, PlannedLayer, Shard, Unit};
use super::options::{Progress, QuantizeOptions};
use super::report::{LayerReport, ModelReport};
use super::rows::{self, Part};
use super::source::INDEX;
use super::writer::{refused, write_whole, PartFile};
use super::Checkpoint;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;

/// A model that is being written into its folder.
pub(super) struct ModelWriter<'a> {
    output: &'a Path,
    checkpoint: &'a Checkpoint,
    plan: &'a ModelPlan,
    options: &'a QuantizeOptions,
    journal: Journal,
    /// The reports of the layers done, by name.
    layers: BTreeMap<String, LayerReport>,
    /// Layers that an earlier, interrupted run had done.
    continued: usize,
    state: Progress<'a>,
    progress: &'a mut dyn FnMut(Progress<'_>),
}

impl<'a> ModelWriter<'a> {
    /// Claims the folder `output`, empty or left by an interrupted run, for the model of `checkpoint`.
    pub fn open(
        output: &'a Path,
        checkpoint: &'a Checkpoint,
        plan: &'a ModelPlan,
        options: &'a QuantizeOptions,
        progress: &'a mut dyn FnMut(Progress<'_>),
    ) -> Result<Self, CheckpointError> {
        claim(checkpoint.path(), output)?;
        let journal = Journal::open(output, &fingerprint(checkpoint, options)?)?;
        Ok(ModelWriter {
            output,
            checkpoint,
            plan,
            options,
            journal,
            layers: BTreeMap::new(),
            continued: 0,
            state: Progress {
                tensor: "",
                layers: (0, plan.layers()),
                bytes: (0, checkpoint.total_bytes()),
            },
            progress,
        })
    }

    /// Writes one file of the output, or what is still missing of it.
    pub fn write_shard(&mut self, shard: &'a Shard) -> Result<(), CheckpointError> {
        let mut part = self.open_part(shard)?;
        // What the journal says holds for the files it was written with.
        let trusted = part.as_ref().is_none_or(|part| part.continued);
        for unit in &shard.units {
            let source = shard.source(unit);
            let raw = self.checkpoint.require(source)?;
            self.state.tensor = source;
            (self.progress)(self.state);
            let done = self.journal.done.get(source).filter(|_| trusted);
            match unit {
                Unit::Copy { .. } if done.is_some() => {}
                Unit::Copy { tensor } => self.copy(shard, part.as_mut(), *tensor, &raw)?,
                Unit::Layer(layer) => {
                    let report = match done.and_then(LayerReport::of_json) {
                        Some(report) => {
                            self.continued += 1;
                            report
                        }
                        None => self.quantize(shard, part.as_mut(), layer, &raw)?,
                    };
                    self.state.layers.0 += 1;
                    self.layers.insert(layer.prefix.clone(), report);
                }
            }
            self.state.bytes.0 += raw.bytes.len() as u64;
            (self.progress)(self.state);
        }
        part.map_or(Ok(()), PartFile::finish)
    }

    /// The file that a shard is written to; `None` when an earlier run has finished it.
    fn open_part(&self, shard: &Shard) -> Result<Option<PartFile>, CheckpointError> {
        let target = self.output.join(&shard.name);
        if !self.journal.same && target.is_file() {
            // Of an interrupted run with other input or options.
            std::fs::remove_file(&target).map_err(|e| refused(&target, e))?;
        }
        match target.is_file() {
            true => Ok(None),
            false => PartFile::open(&target, &shard.layout).map(Some),
        }
    }

    /// Copies a tensor; a shard without a part has it already.
    fn copy(
        &mut self,
        shard: &Shard,
        part: Option<&mut PartFile>,
        tensor: usize,
        raw: &RawTensor<'_>,
    ) -> Result<(), CheckpointError> {
        let Some(part) = part else {
            return Ok(());
        };
        part.write(&shard.layout, tensor, 0, raw.bytes)?;
        part.sync()?;
        self.journal.note(self.state.tensor, Value::Null)
    }

    /// Quantises a layer; a shard without a part has it already, and only the report is made again.
    fn quantize(
        &mut self,
        shard: &Shard,
        mut part: Option<&mut PartFile>,
        layer: &PlannedLayer,
        raw: &RawTensor<'_>,
    ) -> Result<LayerReport, CheckpointError> {
        let source = self.state.tensor;
        let mut write = |of: Part, at: u64, bytes: &[u8]| {
            let Some(part) = &mut part else {
                return Ok(());
            };
            let tensor = match of {
                Part::Weight => layer.weight,
                Part::Scale => layer.scale,
            };
            part.write(&shard.layout, tensor, at, bytes)
        };
        let made = rows::quantize(raw, &layer.prefix, self.options, &mut write);
        let report =
            made.map_err(|found| self.checkpoint.wrong(source, found, "finite weights"))??;
        if let Some(part) = part {
            part.sync()?;
        }
        self.journal.note(source, report.to_json())?;
        Ok(report)
    }

    /// Writes what lies around the shards, config.json last: only then is the folder a model.
    pub fn finish(self, model: &FloatModel) -> Result<ModelReport, CheckpointError> {
        if self.plan.shards.len() > 1 {
            write_whole(&self.output.join(INDEX), &self.plan.index())?;
        }
        let left_out = self.copy_others()?;
        let report = ModelReport {
            layers: self.layers.into_values().collect(),
            ignored: self.plan.ignored.clone(),
            left_out,
            bytes: (self.state.bytes.1, self.plan.bytes()),
            continued: self.continued,
        };
        write_reports(self.output, &report)?;
        let config = updated(model, &report.ignored, self.options.group_size);
        let config = config.ok_or_else(|| {
            let found = "config.json without an object";
            CheckpointError::file(self.checkpoint.path(), found, "a model's config.json")
        })?;
        write_whole(&self.output.join("config.json"), config.as_bytes())?;
        self.journal.finish()?;
        Ok(report)
    }

    /// Copies the model's other files; answers those that are left out.
    fn copy_others(&self) -> Result<Vec<String>, CheckpointError> {
        let input = self.checkpoint.path();
        if !input.is_dir() {
            return Ok(Vec::new());
        }
        let shards = self.plan.shards.iter().map(|s| s.name.as_str());
        Others::copy(input, self.output, shards.collect())
    }
}

/// What happened to each layer, as a table and as a picture.
fn write_reports(output: &Path, report: &ModelReport) -> Result<(), CheckpointError> {
    let mut table = format!("# Quantised layers\n\n{}", report.table());
    if !report.ignored.is_empty() {
        let names = report.ignored.iter().map(|name| format!("* {name}\n"));
        table.push_str("\n# Layers left as floats\n\n");
        table.extend(names);
    }
    write_whole(&output.join(TABLE), table.as_bytes())?;
    write_whole(&output.join(PICTURE), report.svg().as_bytes())
}
