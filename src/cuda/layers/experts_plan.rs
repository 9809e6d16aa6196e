//! A pass through the experts with everything decided beforehand.
//!
//! ```text
//!   indices --moe_sort--> offsets, rows        x --moe_permute--> int8 rows --igemm_grouped, gated--> floats
//!       --quantize_grouped--> int8 rows --igemm_grouped--> results --moe_combine--> y
//! ```

use super::experts_weights::{ExpertParts, ExpertWeights};
use crate::cuda::kernels::{
    combine, grouped, hold_epilogue, igemm_grouped, moe_sort_workspace, permute, sort, Batches,
    CheckedProduct, HeldGroups, InRegions, Parts, Shape, Sort,
};
use crate::cuda::product::{ScalesView, PAD};
use crate::cuda::runtime::{
    DeviceFloats, DeviceOutput, DeviceVector, Held, Layout, Matrix, Region, Workspace,
};
use crate::element::DType;
use crate::epilogue::{Epilogue, Output, Scales};
use crate::error::{Error, Result};
use cudarc::driver::{CudaStream, DevicePtrMut};
use std::fmt;

/// A router's choices for some tokens, `[T, k]` each, in device memory: indices of experts, and their weights in the sum.
#[derive(Debug, Clone)]
pub struct DeviceChoices<'a> {
    indices: DeviceVector<'a, i32>,
    weights: DeviceVector<'a, f32>,
}

impl<'a> DeviceChoices<'a> {
    /// Of slices or views.
    pub fn new(
        indices: impl Into<DeviceVector<'a, i32>>,
        weights: impl Into<DeviceVector<'a, f32>>,
    ) -> Self {
        DeviceChoices {
            indices: indices.into(),
            weights: weights.into(),
        }
    }

    /// Pairs of a token and an expert: T * k.
    pub fn len(&self) -> usize {
        self.indices.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// The parts of a plan's workspace.
const PARTS: usize = 8;
const COUNTS: usize = 0;
const OFFSETS: usize = 1;
const ROWS: usize = 2;
const TOKENS: usize = 3;
const TOKEN_SCALES: usize = 4;
const INNER: usize = 5;
const INNER_SCALES: usize = 6;
/// Floats of the first product, then the results of the second.
const FLOATS: usize = 7;

/// What [`DeviceExperts::run`](super::DeviceExperts::run) does for a number of tokens and choices, whoever they choose.
#[derive(Debug, Clone, PartialEq)]
pub struct ExpertsPlan {
    tokens: usize,
    choices: usize,
    dtype: DType,
    experts: usize,
    features: usize,
    intermediate: usize,
    gate_up: igemm_grouped::Instance,
    down: igemm_grouped::Instance,
    layout: Layout<PARTS>,
}

impl ExpertsPlan {
    pub(super) fn new(
        experts: &ExpertWeights,
        tokens: usize,
        choices: usize,
        dtype: DType,
    ) -> Result<Self> {
        if matches!(dtype, DType::I8 | DType::I32) {
            return Err(Error::Value {
                what: "the tokens' type",
                found: dtype.to_string(),
                expected: "f32, f16 or bf16".into(),
            });
        }
        let too_many = || Error::Value {
            what: "the tokens",
            found: format!("{tokens} with {choices} choices each"),
            expected: "as many rows as int32 can number and the address space holds".into(),
        };
        let rows = tokens.checked_mul(choices);
        let rows = rows.filter(|rows| i32::try_from(*rows).is_ok());
        let rows = rows.ok_or_else(too_many)?;
        let (outer, inner) = (experts.features(), experts.intermediate());
        let (outer_padded, inner_padded) =
            (outer.next_multiple_of(PAD), inner.next_multiple_of(PAD));
        let bytes = |cols: usize, each: usize| {
            let bytes = rows.checked_mul(cols).and_then(|all| all.checked_mul(each));
            bytes.ok_or_else(too_many)
        };
        let mut parts = [0; PARTS];
        parts[COUNTS] = 4 * moe_sort_workspace(rows, experts.experts);
        parts[OFFSETS] = 4 * (experts.experts + 1);
        parts[ROWS] = bytes(1, 4)?;
        parts[TOKENS] = bytes(outer_padded, 1)?;
        parts[TOKEN_SCALES] = bytes(1, 4)?;
        parts[INNER] = bytes(inner_padded, 1)?;
        parts[INNER_SCALES] = bytes(1, 4)?;
        parts[FLOATS] = bytes(inner, 4)?.max(bytes(outer, dtype.bytes())?);
        // What comes here, spread evenly.
        let (_, total) = experts.place();
        let here = (rows as u64 * experts.experts as u64).div_ceil(total as u64) as usize;
        let choose = |n, k, groupwise: bool| {
            let (shape, groups) = (Shape::new(here, n, k), experts.experts);
            let device = experts.device.properties();
            igemm_grouped::Instance::choose(shape, groups, groupwise, true, device)
        };
        Ok(ExpertsPlan {
            tokens,
            choices,
            dtype,
            experts: experts.experts,
            features: outer,
            intermediate: inner,
            gate_up: choose(2 * inner, outer, experts.gate_up.scale_group().is_some()),
            down: choose(outer, inner, experts.down.scale_group().is_some()),
            layout: Layout::new(parts).ok_or_else(too_many)?,
        })
    }

    /// The same with other tiles of `igemm_grouped`, for gate and up and for down; the same bits.
    ///
    /// # Errors
    /// None here: a tile that does not serve the weights is refused by the run.
    pub fn with_instances(
        self,
        gate_up: igemm_grouped::Instance,
        down: igemm_grouped::Instance,
    ) -> Self {
        ExpertsPlan {
            gate_up,
            down,
            ..self
        }
    }

    /// The tiles, for gate and up and for down.
    pub fn instances(&self) -> [igemm_grouped::Instance; 2] {
        [self.gate_up, self.down]
    }

    /// Bytes of workspace that a run needs, at an address that is a multiple of 256 (as any allocation's is).
    pub fn workspace_bytes(&self) -> usize {
        self.layout.bytes()
    }

    /// Takes everything, checks it and enqueues.
    pub(super) fn run(
        &self,
        experts: &ExpertWeights,
        stream: &CudaStream,
        (x, choices, mut y): (
            Matrix<DeviceFloats<'_>>,
            DeviceChoices<'_>,
            Matrix<DeviceOutput<'_>>,
        ),
        workspace: &mut impl DevicePtrMut<u8>,
    ) -> Result<()> {
        self.check(experts, &x, &y)?;
        experts.device.check_faults()?;
        let gate_up = ExpertParts::new(&experts.gate_up, &experts.gate_up_bias);
        let down = ExpertParts::new(&experts.down, &experts.down_bias);
        let mut held = Held::new(&experts.device, stream)?;
        let pairs = self.tokens * self.choices;
        let x = x.hold("the tokens", &mut held)?;
        let indices = held.read_vector("the router's indices", &choices.indices.0, pairs)?;
        let weights = held.read_vector("the router's weights", &choices.weights.0, pairs)?;
        let (y, _) = y.hold("the output", &mut held)?;
        let room = Room {
            space: Workspace::new(&mut held, self.layout, workspace)?,
            plan: self,
        };
        let groups = HeldGroups::of_offsets(room.offsets()?, pairs);
        let (tokens, inner) = (room.tokens()?, room.inner()?);
        let first = Half {
            lhs: tokens,
            out: (inner.0, Some(inner.1)),
            epilogue: Epilogue::to(Output::Int8PerRow)
                .with_activation(experts.activation)
                .with_gated(true),
        };
        let second = Half {
            lhs: inner,
            out: (room.results()?, None),
            epilogue: Epilogue::to(match self.dtype {
                DType::F16 => Output::F16,
                DType::BF16 => Output::BF16,
                _ => Output::F32,
            }),
        };
        let first = first.product(&mut held, &gate_up, groups)?;
        let second = second.product(&mut held, &down, groups)?;
        if self.tokens == 0 {
            return Ok(());
        }
        let sorted = Sort {
            indices,
            offsets: room.offsets()?,
            rows: room.rows()?,
            counts: room.counts()?,
        };
        let (here, total) = experts.place();
        sort(&held, sorted, here, total)?;
        permute(&held, self.dtype, x, room.rows()?, tokens)?;
        grouped::enqueue(&held, self.gate_up, &first, Some(room.floats()?))?;
        grouped::enqueue(&held, self.down, &second, None)?;
        let rows = (room.rows()?, weights);
        combine(&held, self.dtype, room.results()?, rows, y)
    }

    /// Whether the plan is these experts', and the operands are the plan's.
    fn check(
        &self,
        experts: &ExpertWeights,
        x: &Matrix<DeviceFloats<'_>>,
        y: &Matrix<DeviceOutput<'_>>,
    ) -> Result<()> {
        let mine = [experts.experts, experts.features(), experts.intermediate()];
        let planned = [self.experts, self.features, self.intermediate];
        if mine != planned {
            return Err(Error::Value {
                what: "the plan",
                found: format!("one for [experts, features, intermediate] of {planned:?}"),
                expected: format!("one for {mine:?}"),
            });
        }
        let shape = (self.tokens, self.features);
        for (what, found, dtype) in [
            ("the tokens", x.dim(), x.data.dtype()),
            ("the output", y.dim(), y.data.dtype()),
        ] {
            if found != shape {
                return Err(Error::Shape {
                    op: "DeviceExperts::run",
                    what,
                    found: vec![found.0, found.1],
                    expected: format!("[{}, {}]", shape.0, shape.1),
                });
            }
            if dtype != self.dtype {
                return Err(Error::Value {
                    what,
                    found: dtype.to_string(),
                    expected: format!("{}, as planned", self.dtype),
                });
            }
        }
        Ok(())
    }
}

/// What runs, in one line.
impl fmt::Display for ExpertsPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} tokens to {} each of {} experts [{}, {}]: igemm_grouped {} and {}; workspace {} bytes",
            self.tokens,
            self.choices,
            self.experts,
            self.features,
            self.intermediate,
            self.gate_up,
            self.down,
            self.layout.bytes()
        )
    }
}

/// The workspace, part by part.
struct Room<'a, 'p> {
    space: Workspace<'a, PARTS>,
    plan: &'p ExpertsPlan,
}

impl<'a> Room<'a, '_> {
    fn part<T>(&self, part: usize, rows: usize, cols: usize) -> Result<Region<'a>> {
        self.space
            .part::<T>(part, rows, cols)
            .ok_or_else(|| Error::Value {
                what: "the plan's workspace",
                found: format!("no room for [{rows}, {cols}]"),
                expected: "the parts that were planned".into(),
            })
    }

    fn pairs(&self) -> usize {
        self.plan.tokens * self.plan.choices
    }

    fn counts(&self) -> Result<Region<'a>> {
        let counts = moe_sort_workspace(self.pairs(), self.plan.experts);
        self.part::<i32>(COUNTS, 1, counts)
    }

    fn offsets(&self) -> Result<Region<'a>> {
        self.part::<i32>(OFFSETS, 1, self.plan.experts + 1)
    }

    fn rows(&self) -> Result<Region<'a>> {
        self.part::<i32>(ROWS, 1, self.pairs())
    }

    /// Integers with rows a multiple of 16 bytes apart, and their scales.
    fn integers(&self, parts: [usize; 2], cols: usize) -> Result<(Region<'a>, Region<'a>)> {
        let data = self.part::<i8>(parts[0], self.pairs(), cols.next_multiple_of(PAD))?;
        let scales = self.part::<f32>(parts[1], 1, self.pairs())?;
        Ok((data.columns_to(cols), scales))
    }

    fn tokens(&self) -> Result<(Region<'a>, Region<'a>)> {
        self.integers([TOKENS, TOKEN_SCALES], self.plan.features)
    }

    fn inner(&self) -> Result<(Region<'a>, Region<'a>)> {
        self.integers([INNER, INNER_SCALES], self.plan.intermediate)
    }

    fn floats(&self) -> Result<Region<'a>> {
        self.part::<f32>(FLOATS, 1, self.pairs() * self.plan.intermediate)
    }

    fn results(&self) -> Result<Region<'a>> {
        let (rows, cols) = (self.pairs(), self.plan.features);
        match self.plan.dtype.bytes() {
            2 => self.part::<u16>(FLOATS, rows, cols),
            _ => self.part::<f32>(FLOATS, rows, cols),
        }
    }
}

/// One of the two products.
struct Half<'a> {
    /// Integers and their scales.
    lhs: (Region<'a>, Region<'a>),
    /// And scales, where rows get some.
    out: (Region<'a>, Option<Region<'a>>),
    epilogue: Epilogue<InRegions<'a>>,
}

impl<'a> Half<'a> {
    fn product(
        self,
        held: &mut Held<'a>,
        parts: &'a ExpertParts<'_>,
        rows: HeldGroups<'a>,
    ) -> Result<CheckedProduct<'a>> {
        let weights = &parts.weights;
        let data = &weights.data;
        let w = held.read("the experts' weights", &data.over(&data.data.0))?;
        let groups = match &weights.scales {
            ScalesView::PerGroup { scales, size } => {
                let scales = scales.over(&scales.data.0);
                Some((held.read("the experts' scales", &scales)?, *size))
            }
            _ => None,
        };
        let own = hold_epilogue(&parts.epilogue, held)?;
        let parts = Parts {
            a: self.lhs.0,
            w,
            out: self.out.0,
            row_scales_out: self.out.1,
            col_sums: None,
            groups,
            epilogue: Epilogue {
                row_scales: Scales::PerVector(self.lhs.1),
                col_scales: own.col_scales,
                bias: own.bias,
                ..self.epilogue
            },
            batches: Batches::ONE,
            group_rows: None,
        };
        CheckedProduct::new("DeviceExperts::run", parts.of_groups(rows)?)
    }
}
