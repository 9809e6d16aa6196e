//! One measurement, and the lines it is printed as.

use super::shapes::Shape;
use super::{Float, Op};
use crate::timing::Timing;
use serde_json::json;

/// What the machine can do at most, measured in the same run.
#[derive(Clone, Copy)]
pub struct Ceiling {
    /// int8 operations a second.
    pub operations: f64,
    /// Bytes a second to and from memory.
    pub bytes: f64,
}

impl Ceiling {
    /// Operations a second within reach at that many operations a byte.
    pub fn at(&self, intensity: f64) -> f64 {
        self.operations.min(self.bytes * intensity)
    }
}

/// A product that was timed.
pub struct Row {
    pub device: String,
    pub kernel: String,
    pub threads: Option<usize>,
    pub op: Op,
    pub float: Float,
    pub shape: Shape,
    pub timing: Timing,
    /// What the cost model says, in seconds.
    pub predicted: Option<f64>,
    pub ceiling: Option<Ceiling>,
}

/// The columns of `--csv`.
pub const CSV: &str =
    "device,kernel,op,dtype,m,n,k,threads,median_s,min_s,samples,tops,gb_per_s,percent_of_ceiling,predicted_s,version";

impl Row {
    pub fn tops(&self) -> f64 {
        self.shape.operations() / self.timing.median * 1e-12
    }

    /// Each operand read once and the output written once: the least that the product moves.
    pub fn gb_per_s(&self) -> f64 {
        self.op.bytes(self.shape, self.float.bytes()) / self.timing.median * 1e-9
    }

    /// Operations a byte moved.
    pub fn intensity(&self) -> f64 {
        self.shape.operations() / self.op.bytes(self.shape, self.float.bytes())
    }

    /// Of the roofline above this product's intensity.
    pub fn percent(&self) -> Option<f64> {
        let ceiling = self.ceiling?.at(self.intensity());
        Some(self.tops() * 1e14 / ceiling)
    }

    pub fn text(&self) -> String {
        let Shape { m, k, n } = self.shape;
        let threads = self.threads.map_or(String::new(), |t| format!(" T{t}"));
        let percent = self
            .percent()
            .map_or(String::new(), |p| format!("  {p:5.1} % of the ceiling"));
        let predicted = self
            .predicted
            .map_or(String::new(), |s| format!("  predicted {:.3} ms", s * 1e3));
        format!(
            "{:9} {m}x{k}x{n}  {} {}{threads}  {:10.3} ms  {:8.1} GOPS  {:7.1} GB/s{percent}{predicted}",
            self.op.name(),
            self.device,
            self.kernel,
            self.timing.median * 1e3,
            self.tops() * 1e3,
            self.gb_per_s(),
        )
    }

    pub fn json(&self) -> String {
        let Shape { m, k, n } = self.shape;
        json!({
            "device": self.device, "kernel": self.kernel, "op": self.op.name(), "dtype": self.float.name(),
            "m": m, "n": n, "k": k, "threads": self.threads,
            "median_s": self.timing.median, "min_s": self.timing.min, "samples": self.timing.samples,
            "tops": self.tops(), "gb_per_s": self.gb_per_s(), "percent_of_ceiling": self.percent(),
            "predicted_s": self.predicted,
            "ceiling_tops": self.ceiling.map(|c| c.operations * 1e-12),
            "ceiling_gb_per_s": self.ceiling.map(|c| c.bytes * 1e-9),
            "version": env!("CARGO_PKG_VERSION"),
        })
        .to_string()
    }

    /// A line under [`CSV`]; no field holds a comma but the device's name, whose commas become spaces.
    pub fn csv(&self) -> String {
        let Shape { m, k, n } = self.shape;
        let optional = |x: Option<String>| x.unwrap_or_default();
        [
            self.device.replace(',', " "),
            self.kernel.replace(',', " "),
            self.op.name().into(),
            self.float.name().into(),
            m.to_string(),
            n.to_string(),
            k.to_string(),
            optional(self.threads.map(|t| t.to_string())),
            self.timing.median.to_string(),
            self.timing.min.to_string(),
            self.timing.samples.to_string(),
            self.tops().to_string(),
            self.gb_per_s().to_string(),
            optional(self.percent().map(|p| p.to_string())),
            optional(self.predicted.map(|s| s.to_string())),
            env!("CARGO_PKG_VERSION").into(),
        ]
        .join(",")
    }
}
