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

/// What the cost model says of a product.
#[derive(Clone, Copy)]
pub struct Predicted {
    /// The whole, in seconds.
    pub seconds: f64,
    /// The term that the model spends most of it in, and its seconds.
    pub dominant: (&'static str, f64),
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
    pub predicted: Option<Predicted>,
    pub ceiling: Option<Ceiling>,
}

/// The columns of `--csv`.
pub const CSV: &str =
    "device,kernel,op,dtype,m,n,k,threads,median_s,min_s,samples,tops,gb_per_s,percent_of_ceiling,predicted_s,version,floor_s,model_term,off_by";

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

    /// The least time that the ceiling allows, and what sets it.
    pub fn floor(&self) -> Option<(&'static str, f64)> {
        let ceiling = self.ceiling?;
        let multiply = self.shape.operations() / ceiling.operations;
        let memory = self.op.bytes(self.shape, self.float.bytes()) / ceiling.bytes;
        Some(match multiply > memory {
            true => ("operations", multiply),
            false => ("bytes", memory),
        })
    }

    /// Which of the model's terms was off, and by which factor it would have to be multiplied: the one that the model
    /// spends most time in takes the blame, `None` within a tenth of the measurement.
    pub fn off(&self) -> Option<(&'static str, f64)> {
        let Predicted { seconds, dominant } = self.predicted?;
        let (term, spent) = dominant;
        let missing = self.timing.median - seconds;
        (missing.abs() > 0.1 * seconds && spent > 0.0)
            .then(|| (term, ((spent + missing) / spent).max(0.0)))
    }

    pub fn text(&self) -> String {
        let Shape { m, k, n } = self.shape;
        let threads = self.threads.map_or(String::new(), |t| format!(" T{t}"));
        let percent = self
            .percent()
            .map_or(String::new(), |p| format!("  {p:5.1} % of the ceiling"));
        let floor = self.floor().map_or(String::new(), |(by, s)| {
            format!("  floor {:.4} ms by {by}", s * 1e3)
        });
        let predicted = self.predicted.map_or(String::new(), |p| {
            let off = match self.off() {
                Some((term, factor)) => format!("off: {term} x {factor:.2}"),
                None => "within 10 %".into(),
            };
            format!(
                "  predicted {:.4} ms, most of it {}, {off}",
                p.seconds * 1e3,
                p.dominant.0
            )
        });
        format!(
            "{:9} {m}x{k}x{n}  {} {}{threads}  {:10.3} ms  {:8.1} GOPS  {:7.1} GB/s{percent}{floor}{predicted}",
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
            "predicted_s": self.predicted.map(|p| p.seconds),
            "floor_s": self.floor().map(|f| f.1), "floor_by": self.floor().map(|f| f.0),
            "model_term": self.predicted.map(|p| p.dominant.0), "off_by": self.off().map(|o| o.1),
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
            optional(self.predicted.map(|p| p.seconds.to_string())),
            env!("CARGO_PKG_VERSION").into(),
            optional(self.floor().map(|f| f.1.to_string())),
            optional(self.predicted.map(|p| p.dominant.0.into())),
            optional(self.off().map(|o| o.1.to_string())),
        ]
        .join(",")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(median: f64, predicted: Option<Predicted>) -> Row {
        Row {
            device: "cuda:0".into(),
            kernel: "igemm_sm80 64x64x128".into(),
            threads: None,
            op: Op::Gemm,
            float: Float::F32,
            shape: Shape {
                m: 100,
                k: 100,
                n: 100,
            },
            timing: Timing {
                median,
                min: median,
                samples: 7,
            },
            predicted,
            ceiling: Some(Ceiling {
                operations: 2e6,
                bytes: 1e6,
            }),
        }
    }

    #[test]
    fn the_floor_and_the_term_that_was_off_are_said() {
        // 2e6 operations take a second, 60 000 bytes less.
        assert_eq!(row(2.0, None).floor(), Some(("operations", 1.0)));
        assert_eq!(row(2.0, None).off(), None);
        let predicted = Predicted {
            seconds: 1.25,
            dominant: ("multiply", 1.0),
        };
        let slow = row(2.25, Some(predicted));
        assert_eq!(slow.off(), Some(("multiply", 2.0)));
        assert_eq!(row(1.3, Some(predicted)).off(), None);
        let text = slow.text();
        assert!(text.contains("floor 1000.0000 ms by operations"), "{text}");
        assert!(text.contains("off: multiply x 2.00"), "{text}");
        let columns = CSV.split(',').count();
        assert_eq!(slow.csv().split(',').count(), columns);
        assert_eq!(row(1.0, None).csv().split(',').count(), columns);
    }
}
