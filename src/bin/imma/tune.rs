//! `imma tune`: measures who multiplies best, for the layers of a model.

use crate::bench::shapes::Suite;
use crate::device::Device;
#[cfg(feature = "cuda")]
use crate::say;
use crate::Failure;
use imma::checkpoint::{Checkpoint, NamePattern, QuantizeOptions};
#[cfg(feature = "cuda")]
use imma::DType;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

#[derive(clap::Args)]
pub struct Args {
    /// A checkpoint: a folder or a .safetensors file. Its linear layers are tuned, embeddings and heads left out.
    #[arg(required_unless_present = "suite", conflicts_with = "suite")]
    model: Option<PathBuf>,
    /// The layers of a known model instead, or a sweep.
    #[arg(long, value_enum, value_delimiter = ',')]
    suite: Vec<Suite>,
    /// Numbers of tokens; several with commas (default: 1,16,128,2048 for a checkpoint, a suite's own).
    #[arg(long, value_delimiter = ',')]
    m: Vec<usize>,
    /// The type of the floats in and out.
    #[arg(long, value_enum, default_value = "bf16")]
    dtype: Float,
    /// Where: auto, cuda or cuda:N.
    #[arg(long, default_value = "auto")]
    device: Device,
}

/// A float type.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Float {
    F32,
    F16,
    Bf16,
}

/// Numbers of tokens where none are asked for.
const TOKENS: [usize; 4] = [1, 16, 128, 2048];

/// What decides which kernel serves a layer, apart from the number of tokens.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Layer {
    n: usize,
    k: usize,
    bias: Option<&'static str>,
    group: Option<usize>,
    inputs: Inputs,
}

/// How the layer's inputs are quantised.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Inputs {
    PerToken,
    Static,
    StaticAsymmetric,
}

pub fn run(args: Args) -> Result<(), Failure> {
    let products = products(&args)?;
    let number =
        match args.device {
            Device::Cuda(number) => number,
            Device::Auto => 0,
            Device::Cpu => return Err(Failure::new(
                "--device is cpu, expected cuda: nothing is measured to choose the CPU's kernel",
            )),
        };
    on_device(number, args.dtype, &products)
}

/// The products to tune, each once, with their numbers of tokens.
fn products(args: &Args) -> Result<Vec<(usize, Layer)>, Failure> {
    let mut products = Vec::new();
    if let Some(model) = &args.model {
        let tokens = if args.m.is_empty() {
            &TOKENS[..]
        } else {
            &args.m
        };
        for layer in layers(model)? {
            products.extend(tokens.iter().map(|&m| (m, layer.clone())));
        }
    }
    for shape in args.suite.iter().flat_map(|suite| suite.shapes(&args.m)) {
        let layer = Layer {
            n: shape.n,
            k: shape.k,
            bias: None,
            group: None,
            inputs: Inputs::PerToken,
        };
        if !products.contains(&(shape.m, layer.clone())) {
            products.push((shape.m, layer));
        }
    }
    if let Some((m, _)) = products.iter().find(|(m, _)| *m == 0) {
        return Err(Failure::new(format!("--m has {m}, expected 1 or more")));
    }
    Ok(products)
}

/// The kinds of linear layers of a checkpoint.
fn layers(model: &Path) -> Result<BTreeSet<Layer>, Failure> {
    let checkpoint = Checkpoint::open(model)?;
    let exclude = QuantizeOptions::DEFAULT_EXCLUDE.iter().map(|p| p.parse());
    let exclude: Vec<NamePattern> = exclude
        .collect::<Result<_, String>>()
        .map_err(Failure::new)?;
    let mut layers = BTreeSet::new();
    for name in checkpoint.names() {
        let Some(prefix) = name.strip_suffix(".weight") else {
            continue;
        };
        if let Some(layer) = layer(&checkpoint, prefix)? {
            if !exclude.iter().any(|pattern| pattern.matches(prefix)) {
                layers.insert(layer);
            }
        }
    }
    if layers.is_empty() {
        return Err(Failure::new(format!(
            "{} has no linear layer: no matrix P.weight of floats or int8 that is no embedding and no head",
            model.display()
        )));
    }
    Ok(layers)
}

/// The layer of that name; `None` where its weight is no matrix of a type that this crate reads.
fn layer(checkpoint: &Checkpoint, prefix: &str) -> Result<Option<Layer>, Failure> {
    let info = |part: &str| checkpoint.info(&format!("{prefix}.{part}"));
    let Some(weight) = info("weight") else {
        return Ok(None);
    };
    let known = ["F32", "F16", "BF16", "I8"].contains(&weight.dtype.as_str());
    let (n, k) = match weight.shape[..] {
        [n, k] if known && n > 0 && k > 0 => (n, k),
        _ => return Ok(None),
    };
    let bias = match info("bias") {
        None => None,
        Some(bias) => match ["F32", "F16", "BF16"].iter().find(|t| **t == bias.dtype) {
            Some(dtype) => Some(*dtype),
            None => {
                let found = bias.dtype;
                return Err(Failure::new(format!(
                    "{prefix}.bias is {found}, expected F32, F16 or BF16"
                )));
            }
        },
    };
    let group = match info("weight_scale").map(|scale| scale.shape) {
        Some(shape) if shape.len() == 2 && shape[1] > 1 => {
            let groups = shape[1];
            let size = [32, 64, 128]
                .into_iter()
                .find(|size| k.div_ceil(*size) == groups);
            Some(size.ok_or_else(|| {
                Failure::new(format!(
                    "{prefix}.weight_scale has {groups} scales an output of {k} inputs, expected groups of 32, 64 or 128"
                ))
            })?)
        }
        _ => None,
    };
    let inputs = match (info("input_scale"), info("input_zero_point")) {
        (None, _) => Inputs::PerToken,
        (Some(_), None) => Inputs::Static,
        (Some(_), Some(_)) => Inputs::StaticAsymmetric,
    };
    Ok(Some(Layer {
        n,
        k,
        bias,
        group,
        inputs,
    }))
}

#[cfg(not(feature = "cuda"))]
fn on_device(number: usize, _: Float, _: &[(usize, Layer)]) -> Result<(), Failure> {
    let status = crate::device::cuda_status();
    Err(Failure::new(format!(
        "device cuda:{number} is not available: {status}"
    )))
}

#[cfg(feature = "cuda")]
impl Layer {
    /// As a layer on the device asks for it.
    fn problem(&self, m: usize, float: Float) -> imma::cuda::Problem {
        use imma::cuda::{Input, Problem};
        use imma::gemm::ActivationQuant;
        let dtype = match float {
            Float::F32 => DType::F32,
            Float::F16 => DType::F16,
            Float::Bf16 => DType::BF16,
        };
        // A measurement is the same for any scale.
        let quant = match self.inputs {
            Inputs::PerToken => ActivationQuant::PerToken,
            Inputs::Static => ActivationQuant::Static { scale: 1.0 },
            Inputs::StaticAsymmetric => ActivationQuant::StaticAsymmetric {
                scale: 1.0,
                zero_point: 1,
            },
        };
        let mut problem =
            Problem::floats(m, self.n, self.k, dtype, dtype).with_input(Input::Float(dtype, quant));
        if let Some(bias) = self.bias {
            problem = problem.with_bias(match bias {
                "F16" => DType::F16,
                "BF16" => DType::BF16,
                _ => DType::F32,
            });
        }
        match self.group {
            Some(size) => problem.with_scale_group(size),
            None => problem,
        }
    }
}

#[cfg(feature = "cuda")]
fn on_device(number: usize, float: Float, products: &[(usize, Layer)]) -> Result<(), Failure> {
    use imma::cuda::{tune, CacheKey, ChoiceCache};
    let device = imma::cuda::Device::open(number)
        .map_err(|e| Failure::new(format!("device cuda:{number} is not available: {e}")))?;
    // Drawn on a terminal only.
    let style = "{bar:32} {pos}/{len} {prefix} {wide_msg}";
    let style = indicatif::ProgressStyle::with_template(style).expect("a good template");
    let bar = indicatif::ProgressBar::new(products.len() as u64).with_style(style);
    let (mut was, mut is, mut known) = (0.0, 0.0, 0);
    for (m, layer) in products {
        let problem = layer.problem(*m, float);
        let key = CacheKey::of(&problem);
        let name = format!("{m}x{}x{} {}", layer.k, layer.n, key.kind);
        bar.set_prefix(name.clone());
        let tuning = tune(&device, &problem, &mut |p| {
            bar.set_message(format!("{}/{} {}", p.done, p.of, p.instance));
        })?;
        bar.inc(1);
        let best = tuning.best;
        let how = match tuning.all.len() {
            0 => "measured earlier".into(),
            of => format!("best of {of}"),
        };
        known += usize::from(tuning.all.is_empty());
        let gain = best.heuristic / best.microseconds;
        bar.suspend(|| {
            say::result(format!(
                "{name}  {}  {:.2} us, heuristic {:.2} us: {gain:.3}x, {how}",
                best.instance, best.microseconds, best.heuristic
            ))
        })?;
        was += best.heuristic;
        is += best.microseconds;
    }
    bar.finish_and_clear();
    let total = products.len();
    say::result(format!(
        "{total} products ({known} measured earlier): {is:.1} us where the heuristic takes {was:.1} us, {:.3}x",
        was / is
    ))?;
    say::result(match ChoiceCache::path(device.properties()) {
        Some(path) => format!("kept in {}", path.display()),
        None => "not kept: neither IMMA_CHOICES, XDG_CACHE_HOME nor HOME is set".into(),
    })
}
