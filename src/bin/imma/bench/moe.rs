//! `imma bench moe`: the experts of known models, with routing made up for them.
//!
//! ```text
//!   gate_up    rows sorted by expert, int8 -> SiLU(gate) * up, int8 with a scale a row
//!   down       the same rows, int8 -> bf16
//!   experts    all of it: sorting, quantising, both products, the weighted sum
//! ```
//!
//! On the CPU each product stands beside a single product of as many rows with one expert's weights: what grouping costs.

use super::host;
use super::report::Ceiling;
use crate::device::DeviceArgs;
use crate::timing::{measure, Timing};
use crate::{say, Failure};
use clap::ValueEnum;
use half::bf16;
use imma::element::OutputMut;
use imma::epilogue::{Output, Scales};
use imma::gemm::{Gemm, GroupedGemm, GroupedWeights, Lhs, PackedWeights, Weights};
use imma::ops::{moe_combine, moe_permute, Routing};
use imma::{memory, Backend, Cpu, Epilogue};
use ndarray::{Array2, ArrayView2};
use serde_json::json;

#[derive(clap::Args)]
pub struct MoeArgs {
    /// Whose experts.
    #[arg(
        long,
        value_enum,
        value_delimiter = ',',
        default_value = "qwen3-30b-a3b"
    )]
    model: Vec<Model>,
    /// Numbers of tokens.
    #[arg(long, value_delimiter = ',', default_values_t = [1, 16, 128, 1024])]
    tokens: Vec<usize>,
    /// How tokens choose.
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = [Choice::Uniform, Choice::Skewed])]
    routing: Vec<Choice>,
    /// The first so many experts are here, as on a rank of an expert-parallel group (default: all, 32 of deepseek-v3's 256).
    #[arg(long)]
    experts: Option<usize>,
    #[command(flatten)]
    pub device: DeviceArgs,
    /// Seconds a measurement takes, about.
    #[arg(long, default_value_t = 2.0)]
    seconds: f64,
    /// Also measure what the machine can do at most, and print the least time that it allows.
    #[arg(long)]
    ceiling: bool,
    /// One JSON object a line.
    #[arg(long)]
    json: bool,
}

/// A model by its experts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Model {
    /// 128 experts of [2048, 768], 8 a token.
    #[value(name = "qwen3-30b-a3b")]
    Qwen3,
    /// 256 experts of [7168, 2048], 8 a token.
    #[value(name = "deepseek-v3")]
    DeepSeekV3,
    /// 8 experts of [4096, 14336], 2 a token.
    #[value(name = "mixtral-8x7b")]
    Mixtral,
}

/// How tokens choose their experts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Choice {
    /// Each as often as any other.
    Uniform,
    /// The n-th with a likelihood of 1 / n: the first is a favourite.
    Skewed,
}

/// Experts and what goes to them.
#[derive(Clone, Copy, Debug)]
pub struct Layer {
    pub name: &'static str,
    /// Of the model, here, and of each token.
    pub total: usize,
    pub here: usize,
    pub choices: usize,
    pub features: usize,
    pub intermediate: usize,
}

impl Model {
    fn layer(self, here: Option<usize>) -> Result<Layer, Failure> {
        let (name, [total, own, choices, features, intermediate]) = match self {
            Model::Qwen3 => ("qwen3-30b-a3b", [128, 128, 8, 2048, 768]),
            Model::DeepSeekV3 => ("deepseek-v3", [256, 32, 8, 7168, 2048]),
            Model::Mixtral => ("mixtral-8x7b", [8, 8, 2, 4096, 14336]),
        };
        let here = here.unwrap_or(own);
        if here == 0 || here > total {
            return Err(Failure::new(format!(
                "--experts is {here}, expected 1 to the {total} of {name}"
            )));
        }
        Ok(Layer {
            name,
            total,
            here,
            choices,
            features,
            intermediate,
        })
    }
}

impl Choice {
    fn name(self) -> &'static str {
        match self {
            Choice::Uniform => "uniform",
            Choice::Skewed => "skewed",
        }
    }

    /// Choices `[tokens, k]` of different experts each, the same in every run.
    pub fn indices(self, layer: &Layer, tokens: usize) -> Array2<i32> {
        let weight = |e: usize| match self {
            Choice::Uniform => 1.0,
            Choice::Skewed => 1.0 / (e + 1) as f64,
        };
        let mut random = Random(0x9E37_79B9_7F4A_7C15);
        let mut indices = Array2::zeros((tokens, layer.choices));
        for mut row in indices.rows_mut() {
            let mut weights: Vec<f64> = (0..layer.total).map(weight).collect();
            for index in &mut row {
                let whole: f64 = weights.iter().sum();
                let mut at = random.fraction() * whole;
                let found = weights.iter().position(|w| {
                    at -= w;
                    *w > 0.0 && at < 0.0
                });
                let last = || weights.iter().rposition(|w| *w > 0.0).unwrap_or(0);
                let expert = found.unwrap_or_else(last);
                weights[expert] = 0.0;
                *index = expert as i32;
            }
        }
        indices
    }
}

/// Xorshift: zeros or small values would draw less power and run faster.
pub struct Random(pub u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn fraction(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }

    pub fn bytes(&mut self, rows: usize, cols: usize) -> Array2<i8> {
        Array2::from_shape_simple_fn((rows, cols), || self.next() as i8)
    }
}

/// What was measured of one layer for some tokens.
pub struct Measured {
    /// `gate_up`, `down` or `experts`.
    pub part: &'static str,
    pub kernel: String,
    pub timing: Timing,
    /// A single product of as many rows.
    pub single: Option<Timing>,
}

/// One line.
struct Row<'a> {
    layer: &'a Layer,
    routing: Choice,
    tokens: usize,
    /// Rows of all experts here, and experts that have some.
    rows: usize,
    busy: usize,
    device: String,
    measured: Measured,
    ceiling: Option<Ceiling>,
}

impl Row<'_> {
    /// Multiplications and additions.
    fn operations(&self) -> f64 {
        let product = 2.0 * (self.rows * self.layer.features * self.layer.intermediate) as f64;
        match self.measured.part {
            "gate_up" => 2.0 * product,
            "down" => product,
            _ => 3.0 * product,
        }
    }

    /// The weights of experts that have rows, what goes in and what comes out, each once.
    fn bytes(&self) -> f64 {
        let (h, i) = (self.layer.features as f64, self.layer.intermediate as f64);
        let (busy, rows, tokens) = (self.busy as f64, self.rows as f64, self.tokens as f64);
        match self.measured.part {
            "gate_up" => busy * 2.0 * h * i + rows * (h + i),
            "down" => busy * h * i + rows * (i + 2.0 * h),
            _ => busy * 3.0 * h * i + tokens * 4.0 * h,
        }
    }

    /// The least time that the ceiling allows, and what sets it.
    fn floor(&self) -> Option<(&'static str, f64)> {
        let ceiling = self.ceiling?;
        let multiply = self.operations() / ceiling.operations;
        let memory = self.bytes() / ceiling.bytes;
        Some(match multiply > memory {
            true => ("operations", multiply),
            false => ("bytes", memory),
        })
    }

    /// The grouped product's speed beside one product of as many rows; of no rows there is none.
    fn ratio(&self) -> Option<f64> {
        if self.rows == 0 {
            return None;
        }
        let single = self.measured.single.as_ref()?;
        Some(single.median / self.measured.timing.median)
    }

    fn text(&self) -> String {
        let Layer {
            name, here, total, ..
        } = self.layer;
        let seconds = self.measured.timing.median;
        let floor = self.floor().map_or(String::new(), |(by, s)| {
            format!("  floor {:.4} ms by {by}", s * 1e3)
        });
        let single = self.measured.single.as_ref().zip(self.ratio());
        let single = single.map_or(String::new(), |(s, ratio)| {
            let seconds = s.median * 1e3;
            format!("  single product {seconds:.4} ms, {ratio:.2} of its speed")
        });
        format!(
            "{name} {here}/{total} {:7} {:7} T{:<5} ({:5} rows, {:3} experts)  {} {}  {:9.4} ms  {:8.1} GOPS  {:7.1} GB/s{floor}{single}",
            self.measured.part,
            self.routing.name(),
            self.tokens,
            self.rows,
            self.busy,
            self.device,
            self.measured.kernel,
            seconds * 1e3,
            self.operations() / seconds * 1e-9,
            self.bytes() / seconds * 1e-9,
        )
    }

    fn json(&self) -> String {
        let Layer {
            name,
            total,
            here,
            choices,
            features,
            intermediate,
        } = self.layer;
        let (timing, seconds) = (&self.measured.timing, self.measured.timing.median);
        json!({
            "model": name, "experts": total, "here": here, "choices": choices,
            "features": features, "intermediate": intermediate,
            "op": self.measured.part, "routing": self.routing.name(), "tokens": self.tokens,
            "rows": self.rows, "busy": self.busy,
            "device": self.device, "kernel": self.measured.kernel,
            "median_s": seconds, "min_s": timing.min, "samples": timing.samples,
            "tops": self.operations() / seconds * 1e-12, "gb_per_s": self.bytes() / seconds * 1e-9,
            "single_s": self.measured.single.as_ref().map(|s| s.median), "of_single": self.ratio(),
            "floor_s": self.floor().map(|f| f.1), "floor_by": self.floor().map(|f| f.0),
            "version": env!("CARGO_PKG_VERSION"),
        })
        .to_string()
    }
}

pub fn run(args: &MoeArgs) -> Result<(), Failure> {
    super::check_seconds(args.seconds)?;
    let layers: Vec<_> = args.model.iter().map(|m| m.layer(args.experts)).collect();
    let layers = layers.into_iter().collect::<Result<Vec<_>, _>>()?;
    #[cfg(feature = "cuda")]
    if let Some(number) = args.device.gpu() {
        return on_device(args, &layers, number);
    }
    let cpu = args.device.cpu()?;
    let ceiling = match args.ceiling {
        true => Some(host::ceiling(&cpu, args.seconds)?),
        false => None,
    };
    let device = format!("cpu T{}", cpu.threads());
    for layer in &layers {
        let host = Host::new(&cpu, layer)?;
        each(args, layer, &device, ceiling, |routing, tokens| {
            host.measure(routing, tokens, args.seconds)
        })?;
    }
    Ok(())
}

#[cfg(feature = "cuda")]
fn on_device(args: &MoeArgs, layers: &[Layer], number: usize) -> Result<(), Failure> {
    let gpu = super::device::Gpu::open(number)?;
    let ceiling = match args.ceiling {
        true => Some(gpu.ceiling(args.seconds)?),
        false => None,
    };
    for layer in layers {
        let experts = gpu.experts(layer)?;
        each(args, layer, &gpu.name(), ceiling, |routing, tokens| {
            let indices = routing.indices(layer, tokens);
            Ok(vec![gpu.time_experts(&experts, &indices, args.seconds)?])
        })?;
    }
    Ok(())
}

/// Measures and prints all tokens and ways to choose.
fn each(
    args: &MoeArgs,
    layer: &Layer,
    device: &str,
    ceiling: Option<Ceiling>,
    measure: impl Fn(Choice, usize) -> Result<Vec<Measured>, Failure>,
) -> Result<(), Failure> {
    for &tokens in &args.tokens {
        for &routing in &args.routing {
            let indices = routing.indices(layer, tokens);
            let sorted = Routing::of_slice(indices.view(), layer.total, 0..layer.here)?;
            let busy = sorted.offsets().windows(2).filter(|o| o[0] < o[1]).count();
            for measured in measure(routing, tokens)? {
                let row = Row {
                    layer,
                    routing,
                    tokens,
                    rows: sorted.len(),
                    busy,
                    device: device.into(),
                    measured,
                    ceiling,
                };
                say::result(if args.json { row.json() } else { row.text() })?;
            }
        }
    }
    Ok(())
}

/// A layer's experts on the CPU.
struct Host<'a> {
    cpu: &'a Cpu,
    layer: &'a Layer,
    gate_up: GroupedWeights,
    down: GroupedWeights,
}

impl<'a> Host<'a> {
    fn new(cpu: &'a Cpu, layer: &'a Layer) -> Result<Self, Failure> {
        let bytes = 3 * layer.here * layer.features * layer.intermediate;
        memory::check("bench moe", "the experts' weights", bytes as u64)?;
        let pack = |n: usize, k: usize, seed: u64| -> Result<GroupedWeights, Failure> {
            let mut random = Random(seed);
            let expert = |_| -> Result<PackedWeights, Failure> {
                let w = random.bytes(n, k);
                let packed = cpu.pack(Weights::Int8(w.t()))?;
                Ok(packed.with_scales(&[0.011])?)
            };
            let experts = (0..layer.here).map(expert).collect::<Result<_, _>>()?;
            Ok(GroupedWeights::new(experts)?)
        };
        Ok(Host {
            cpu,
            layer,
            gate_up: pack(2 * layer.intermediate, layer.features, 0x85EB_CA6B)?,
            down: pack(layer.features, layer.intermediate, 0xC2B2_AE35)?,
        })
    }

    fn measure(
        &self,
        routing: Choice,
        tokens: usize,
        seconds: f64,
    ) -> Result<Vec<Measured>, Failure> {
        let Layer {
            total,
            here,
            features,
            intermediate,
            ..
        } = *self.layer;
        let indices = routing.indices(self.layer, tokens);
        let sorted = Routing::of_slice(indices.view(), total, 0..here)?;
        let rows = sorted.len();
        let mut random = Random(0x27D4_EB2F);
        let (x, h) = (
            random.bytes(rows, features),
            random.bytes(rows, intermediate),
        );
        let scales = vec![0.01f32; rows];
        let mut products = Products::new(rows, features, intermediate);
        let measured = |part, timing, single| Measured {
            part,
            kernel: self.cpu.kernel_name().into(),
            timing,
            single: Some(single),
        };
        let gate_up = measure(seconds, || {
            products.gate_up(self.cpu, x.view(), &scales, &sorted, &self.gate_up)
        })?;
        let single = self.gate_up.expert(0);
        let alone = measure(seconds, || {
            let gemm = Gemm::new(Lhs::Int8(x.view()), single, Products::gated(&scales))?;
            self.cpu.gemm(&gemm, products.inner())
        })?;
        let gate_up = measured("gate_up", gate_up, alone);
        let down = measure(seconds, || {
            products.down(self.cpu, h.view(), &scales, &sorted, &self.down)
        })?;
        let single = self.down.expert(0);
        let alone = measure(seconds, || {
            let gemm = Gemm::new(Lhs::Int8(h.view()), single, Products::plain(&scales))?;
            self.cpu.gemm(&gemm, OutputMut::BF16(products.y.view_mut()))
        })?;
        let down = measured("down", down, alone);
        let tokens = random
            .bytes(tokens, features)
            .mapv(|x| bf16::from_f32(f32::from(x)));
        let weights = Array2::from_elem(indices.raw_dim(), 0.125f32);
        let experts = measure(seconds, || {
            let sorted = Routing::of_slice(indices.view(), total, 0..here)?;
            let q = moe_permute(tokens.view(), &sorted)?;
            products.gate_up(self.cpu, q.matrix()?, q.scales(), &sorted, &self.gate_up)?;
            let h = std::mem::take(&mut products.h);
            let h_scales = std::mem::take(&mut products.h_scales);
            products.down(self.cpu, h.view(), &h_scales, &sorted, &self.down)?;
            (products.h, products.h_scales) = (h, h_scales);
            moe_combine(products.y.view(), &sorted, weights.view()).map(|_| ())
        })?;
        let experts = Measured {
            part: "experts",
            kernel: self.cpu.kernel_name().into(),
            timing: experts,
            single: None,
        };
        Ok(vec![gate_up, down, experts])
    }
}

/// The places of both products' results.
struct Products {
    h: Array2<i8>,
    h_scales: Vec<f32>,
    y: Array2<bf16>,
}

impl Products {
    fn new(rows: usize, features: usize, intermediate: usize) -> Self {
        Products {
            h: Array2::zeros((rows, intermediate)),
            h_scales: vec![0.0; rows],
            y: Array2::from_elem((rows, features), bf16::ZERO),
        }
    }

    fn inner(&mut self) -> OutputMut<'_> {
        OutputMut::I8PerRow {
            data: self.h.view_mut(),
            scales: &mut self.h_scales,
        }
    }

    fn gated(scales: &[f32]) -> Epilogue<imma::epilogue::Host<'_>> {
        Epilogue::to(Output::Int8PerRow)
            .with_row_scales(Scales::PerVector(scales))
            .with_activation(imma::activation::Activation::Silu)
            .with_gated(true)
    }

    fn plain(scales: &[f32]) -> Epilogue<imma::epilogue::Host<'_>> {
        Epilogue::to(Output::BF16).with_row_scales(Scales::PerVector(scales))
    }

    fn gate_up(
        &mut self,
        cpu: &Cpu,
        x: ArrayView2<'_, i8>,
        scales: &[f32],
        routing: &Routing,
        weights: &GroupedWeights,
    ) -> imma::Result<()> {
        let lhs = Lhs::Int8(x);
        let grouped = GroupedGemm::new(lhs, routing.offsets(), weights, Self::gated(scales))?;
        cpu.grouped_gemm(&grouped, self.inner())
    }

    fn down(
        &mut self,
        cpu: &Cpu,
        h: ArrayView2<'_, i8>,
        scales: &[f32],
        routing: &Routing,
        weights: &GroupedWeights,
    ) -> imma::Result<()> {
        let lhs = Lhs::Int8(h);
        let grouped = GroupedGemm::new(lhs, routing.offsets(), weights, Self::plain(scales))?;
        cpu.grouped_gemm(&grouped, OutputMut::BF16(self.y.view_mut()))
    }
}
