//! `imma quantize` of a tensor; a folder is a model, see `quantize_model`.

use crate::device::Device;
use crate::say::{self, Reports};
use crate::{quantize_model, Failure};
use imma::checkpoint::{NamePattern, QuantizeOptions};
use imma::npy::{self, NpyArray};
use imma::quant::{Calibration, Granularity, QuantizedTensor, Quantizer};
use imma::rounding::Rounding;
use imma::DType;
#[cfg(not(feature = "cuda"))]
use imma::Element;
use indicatif::{ProgressBar, ProgressStyle};
use ndarray::{ArrayD, ArrayView, Dimension};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

#[derive(clap::Args)]
pub struct Args {
    /// A tensor (.npy: float16, bfloat16, float32 or float64, one dimension or more), or a model: a folder of safetensors, or a .safetensors file.
    x: PathBuf,
    /// Of a tensor: an .npz of `data` (int8), `scales` (float32) and, when asymmetric, `zero_points` (int32). Of a model:
    /// a folder, as compressed-tensors W8A8.
    #[arg(short, long)]
    output: PathBuf,
    /// Of a tensor: per-tensor, per-token (the default), per-channel, per-group:SIZE or per-group:SIZE:AXIS. Of a model:
    /// per-channel (one for each output, the default) or per-group:SIZE with 32, 64 or 128 inputs.
    #[arg(long)]
    granularity: Option<Named<Granularity>>,
    /// absmax, constant:BOUND, percentile:P, mean-absolute:FACTOR or mse:STEPS.
    #[arg(long, default_value = "absmax")]
    calibration: Named<Calibration>,
    /// Quantise only these layers: names, globs or re:REGEX; repeatable; models only.
    #[arg(long, value_name = "PATTERN")]
    include: Vec<NamePattern>,
    /// Leave these layers alone too, beside embeddings, heads, routers and gates; repeatable; models only.
    #[arg(long, value_name = "PATTERN")]
    exclude: Vec<NamePattern>,
    /// Leave only the layers of --exclude alone: embeddings, heads, routers and gates are quantised like others; models only.
    #[arg(long)]
    no_default_excludes: bool,
    /// Leave out tensors of these names, which would change a layer, or this key of the config; repeatable; models only.
    #[arg(long, value_name = "PATTERN")]
    ignore: Vec<NamePattern>,
    /// A zero point and a minimum and maximum of its own for each slice; tensors only.
    #[arg(long)]
    asymmetric: bool,
    /// Round stochastically, with this seed; tensors only.
    #[arg(long)]
    stochastic: Option<u64>,
    /// Where to compute: auto, cpu, cuda or cuda:N. Devices have absmax and no other calibration; models are quantised
    /// by the CPU.
    #[arg(long, default_value = "auto")]
    device: Device,
}

/// A value spelled `name` or `name:parameter`.
#[derive(Clone, Copy)]
struct Named<T>(T);

fn parameter<T: FromStr>(text: Option<&str>, of: &str) -> Result<T, String> {
    let text = text.ok_or_else(|| format!("found '{of}' alone, expected '{of}:VALUE'"))?;
    text.parse()
        .map_err(|_| format!("found '{text}' after '{of}:', expected a number"))
}

impl FromStr for Named<Granularity> {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut parts = text.split(':');
        let name = parts.next().unwrap_or_default();
        let (first, second) = (parts.next(), parts.next());
        let granularity = match (name, first, second) {
            ("per-tensor", None, _) => Granularity::PerTensor,
            ("per-token", None, _) => Granularity::PerToken,
            ("per-channel", None, _) => Granularity::PerChannel,
            ("per-group", size, None) => Granularity::PerGroup {
                size: parameter(size, name)?,
            },
            ("per-group", size, axis) => Granularity::PerGroupAlong {
                size: parameter(size, name)?,
                axis: parameter(axis, name)?,
            },
            _ => {
                return Err(format!(
                    "found '{text}', expected per-tensor, per-token, per-channel or per-group:SIZE"
                ))
            }
        };
        Ok(Named(granularity))
    }
}

impl FromStr for Named<Calibration> {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, value) = match text.split_once(':') {
            Some((name, value)) => (name, Some(value)),
            None => (text, None),
        };
        let calibration = match (name, value) {
            ("absmax", None) => Calibration::AbsMax,
            ("constant", value) => Calibration::Constant(parameter(value, name)?),
            ("percentile", value) => Calibration::Percentile(parameter(value, name)?),
            ("mean-absolute", value) => Calibration::MeanAbsolute {
                factor: parameter(value, name)?,
            },
            ("mse", None) => Calibration::MeanSquaredError { steps: 100 },
            ("mse", value) => Calibration::MeanSquaredError {
                steps: parameter(value, name)?,
            },
            _ => {
                return Err(format!(
                    "found '{text}', expected absmax, constant:BOUND, percentile:P, mean-absolute:FACTOR or mse:STEPS"
                ))
            }
        };
        Ok(Named(calibration))
    }
}

/// A folder, or a file of a checkpoint by its name.
fn is_model(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let file = name.ends_with(".safetensors") || name.ends_with(".safetensors.index.json");
    path.is_dir() || file
}

pub fn run(args: Args) -> Result<(), Failure> {
    let refuse = |found: &str, of: &str| {
        let path = args.x.display();
        Err(Failure::new(format!(
            "{path}: found {found}, expected it for {of} only"
        )))
    };
    if is_model(&args.x) {
        let calibration = args.calibration.0;
        if let Device::Cuda(_) = args.device {
            return refuse("--device cuda", "a tensor");
        }
        return match (&args.granularity, args.asymmetric, args.stochastic) {
            (Some(Named(Granularity::PerTensor | Granularity::PerToken)), ..)
            | (Some(Named(Granularity::PerGroupAlong { .. })), ..) => refuse(
                "a --granularity other than per-channel or per-group:SIZE",
                "a tensor",
            ),
            (_, true, _) => refuse("--asymmetric", "a tensor"),
            (_, _, Some(_)) => refuse("--stochastic", "a tensor"),
            (granularity, ..) => {
                let group_size = match granularity {
                    Some(Named(Granularity::PerGroup { size })) => Some(*size),
                    _ => None,
                };
                let mut options = QuantizeOptions::default();
                options.include = args.include;
                options.calibration = calibration;
                options.group_size = group_size;
                for names in &args.ignore {
                    let open = std::mem::take(&mut options.open);
                    options.open = open
                        .ignore_tensors(names.clone())
                        .ignore_keys(names.as_str());
                }
                if args.no_default_excludes {
                    options.recognise = false;
                    options.exclude.clear();
                }
                options.exclude.extend(args.exclude);
                quantize_model::run(&args.x, &args.output, &options)
            }
        };
    }
    let names = [&args.include, &args.exclude, &args.ignore];
    if args.no_default_excludes || names.iter().any(|names| !names.is_empty()) {
        return refuse(
            "--include, --exclude, --no-default-excludes or --ignore",
            "a model's folder",
        );
    }
    let granularity = args.granularity.map_or_else(Default::default, |g| g.0);
    let quantizer = Quantizer::builder()
        .granularity(granularity)
        .calibration(args.calibration.0)
        .asymmetric(args.asymmetric)
        .rounding(match args.stochastic {
            Some(seed) => Rounding::Stochastic { seed },
            None => Rounding::NearestEven,
        })
        .build()?;
    let (x, note) = npy::read_with_note(&args.x)?;
    if let Some(note) = note {
        say::note(format!("{}: {note}", args.x.display()));
    }
    match x {
        NpyArray::F16(x) => quantize(&args, &quantizer, x.view(), DType::F16),
        NpyArray::BF16(x) => quantize(&args, &quantizer, x.view(), DType::BF16),
        NpyArray::F32(x) => quantize(&args, &quantizer, x.view(), DType::F32),
        other => Err(Failure::new(format!(
            "{}: found {}, expected float16, bfloat16, float32 or float64",
            args.x.display(),
            other.dtype()
        ))),
    }
}

fn quantize<T: OnDevice, D: Dimension>(
    args: &Args,
    quantizer: &Quantizer,
    x: ArrayView<'_, T, D>,
    dtype: DType,
) -> Result<(), Failure> {
    let elements = x.len() as u64;
    imma::memory::check(
        "quantize",
        "the quantised tensor",
        elements.saturating_mul(2),
    )?;
    // Searches and sorts over large tensors take a while; drawn on a terminal only.
    let spinner = ProgressBar::new_spinner().with_style(ProgressStyle::default_spinner());
    spinner.set_message(format!("quantising {} elements", x.len()));
    spinner.enable_steady_tick(Duration::from_millis(200));
    let quantized = computed(args.device, quantizer, x.view());
    spinner.finish_and_clear();
    let (quantized, place) =
        quantized.map_err(|e| Failure::new(format!("{}: {e}", args.x.display())))?;
    let shape = quantized.scales_shape();
    let shaped = |what: &str| Failure::new(format!("{what} do not have shape {shape:?}"));
    let scales = ArrayD::from_shape_vec(shape.clone(), quantized.scales().to_vec())
        .map_err(|_| shaped("scales"))?;
    let zero_points = match quantized.zero_points() {
        None => None,
        Some(z) => Some(
            ArrayD::from_shape_vec(shape.clone(), z.to_vec()).map_err(|_| shaped("zero points"))?,
        ),
    };
    let mut reports = Reports::about(&args.output);
    npy::write_npz(&args.output, |npz| {
        npz.add_array("data", quantized.data())?;
        npz.add_array("scales", &scales)?;
        match &zero_points {
            None => Ok(()),
            Some(z) => npz.add_array("zero_points", z),
        }
    })?;
    reports.line(format!(
        "{:?} {} -> int8, scales {shape:?} -> {} on {place}",
        x.shape(),
        dtype,
        args.output.display()
    ));
    // The floats and what the integers stand for, side by side. The tensor is there with or without this line.
    let error = imma::memory::check("compare", "the comparison", elements.saturating_mul(8));
    reports.line(match error.and_then(|()| quantized.error(x)) {
        Ok(error) => format!("error against the floats: {error}"),
        Err(refused) => format!("error against the floats: not computed: {refused}"),
    });
    Ok(())
}

/// A float that a device takes, in a build that knows devices.
#[cfg(feature = "cuda")]
trait OnDevice: imma::cuda::DeviceElement {}
#[cfg(feature = "cuda")]
impl<T: imma::cuda::DeviceElement> OnDevice for T {}
#[cfg(not(feature = "cuda"))]
trait OnDevice: Element {}
#[cfg(not(feature = "cuda"))]
impl<T: Element> OnDevice for T {}

/// The integers, and where they were computed.
fn computed<T: OnDevice, D: Dimension>(
    device: Device,
    quantizer: &Quantizer,
    x: ArrayView<'_, T, D>,
) -> Result<(QuantizedTensor, String), Failure> {
    #[cfg(feature = "cuda")]
    if let Some(number) = device.number() {
        let opened = imma::cuda::Device::open(number);
        match opened.and_then(|gpu| Ok((imma::cuda::quantize(&gpu, quantizer, x.view())?, gpu))) {
            Ok((quantized, gpu)) => return Ok((quantized, imma::Backend::name(&*gpu))),
            // The CPU knows more ways, and where nothing was asked for it may serve.
            Err(imma::Error::Unavailable { .. }) if device == Device::Auto => {}
            Err(error) => return Err(Failure::new(error.to_string())),
        }
    }
    #[cfg(not(feature = "cuda"))]
    if let Device::Cuda(number) = device {
        return Err(Failure::new(format!(
            "device cuda:{number} is not available: {}",
            crate::device::cuda_status()
        )));
    }
    Ok((quantizer.quantize(x)?, "the CPU".into()))
}
