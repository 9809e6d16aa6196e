//! A row-parallel linear layer of which every rank has its inputs.
//!
//! ```text
//!   x [M, own inputs]
//!      | row_extents                     M integers (2 M asymmetric)
//!   max over the ranks                   NCCL
//!      | quantize_rows_by                int8, the whole rows' scales
//!   the product's exact sums             igemm_*, as planned
//!   sum over the ranks                   NCCL, M N integers
//!      | epilogue                        bias, activation, residual: once
//!   y [M, N] on every rank
//! ```

use super::group::Group;
use crate::activation::Activation;
use crate::cuda::kernels::{
    epilogue, quantize_rows_by, quantize_rows_given, row_extents, OnDevice, Shape,
};
use crate::cuda::layers::{DeviceWeights, WeightOrder};
use crate::cuda::product::{Algorithm, DeviceLhs, Input, Operands, Plan, Problem, PAD};
use crate::cuda::runtime::{
    download, driver, zeros, DeviceElement, DeviceFloats, DeviceOutput, DeviceVector, FloatBuffer,
    Matrix,
};
use crate::element::DType;
use crate::epilogue::{Epilogue, Output, Scales, ZeroPoints};
use crate::error::{Error, Result};
use crate::gemm::agreement::{digest, Agreement};
use crate::gemm::groupwise::check_finite;
use crate::gemm::{check_contraction, check_k, ActivationQuant, Split};
use cudarc::driver::{CudaSlice, CudaStream, DevicePtr};
use std::sync::Arc;

/// `y = activation(x . weight^T + bias)` through int8, the inputs split over the ranks of a [`Group`], with the bits of
/// [`DeviceLinear`](crate::cuda::DeviceLinear) on one device.
///
/// All ranks construct the layer, and run it, together; construction compares what they brought. A column-parallel layer is a
/// `DeviceLinear` of the rank's rows of the weight: its ranks exchange nothing.
///
/// ```no_run
/// use half::bf16;
/// use imma::cuda::parallel::{Group, ShardedLinear, UniqueId};
/// use imma::cuda::{Device, Matrix};
/// use imma::gemm::Split;
/// use imma::DType;
/// # fn rank(rank: usize, id: UniqueId) -> imma::Result<()> {
/// let device = Device::open(rank)?;
/// let group = std::sync::Arc::new(Group::new(&device, id, rank, 4)?); // the id came from rank 0
/// let stream = device.context().new_stream().expect("a stream");
/// let split = Split::even(4096, 4)?; // of K
/// let weight = stream.alloc_zeros::<bf16>(1024 * 1024).expect("memory"); // [N, this rank's inputs]
/// let layer = ShardedLinear::from_float(&group, &stream, &split, Matrix::new(&weight, 1024, 1024))?;
/// let plan = layer.plan(8, DType::BF16, DType::BF16)?;
/// let mut workspace = plan.workspace(&stream)?;
/// let x = stream.alloc_zeros::<bf16>(8 * 1024).expect("memory");
/// let mut y = stream.alloc_zeros::<bf16>(8 * 1024).expect("memory");
/// // Allocates nothing, waits for nothing; a graph can hold it.
/// layer.run(&plan, &stream, Matrix::new(&x, 8, 1024), None, Matrix::new(&mut y, 8, 1024), &mut workspace)?;
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct ShardedLinear {
    group: Arc<Group>,
    split: Split,
    /// This rank's inputs, without scales.
    weights: DeviceWeights,
    /// `[N]`, of the whole weight.
    scales: CudaSlice<f32>,
    col_sums: CudaSlice<i32>,
    bias: Option<FloatBuffer>,
    activation: Activation,
    quant: ActivationQuant,
}

/// Everything decided for a layer and a number of rows.
#[derive(Debug, Clone)]
pub struct ShardedPlan {
    m: usize,
    input: DType,
    output: Output,
    /// Of the exact sums.
    product: Plan,
    asymmetric: bool,
}

/// What a run writes on its way; of one plan, or of plans of the same shape.
#[derive(Debug)]
pub struct ShardedWorkspace {
    extents: CudaSlice<i32>,
    q: CudaSlice<i8>,
    scales: CudaSlice<f32>,
    zero_points: CudaSlice<i32>,
    sums: CudaSlice<i32>,
    product: CudaSlice<u8>,
}

impl ShardedPlan {
    /// Elements from a row of integers to the next.
    fn stride(&self) -> usize {
        self.product.problem().k.next_multiple_of(PAD)
    }

    /// Bytes on the device that a run needs.
    pub fn workspace_bytes(&self) -> usize {
        let (m, n) = (self.m, self.product.problem().n);
        let rows = 4 * m * if self.asymmetric { 2 } else { 1 } + 8 * m;
        rows + m * self.stride() + 4 * m * n + self.product.workspace_bytes()
    }

    /// Allocates what a run needs.
    ///
    /// # Errors
    /// [`Error::Cuda`] where memory is short.
    pub fn workspace(&self, stream: &Arc<CudaStream>) -> Result<ShardedWorkspace> {
        let (m, n) = (self.m, self.product.problem().n);
        Ok(ShardedWorkspace {
            extents: zeros(stream, 2 * m)?,
            q: zeros(stream, m * self.stride())?,
            scales: zeros(stream, m)?,
            zero_points: zeros(stream, m)?,
            sums: zeros(stream, m * n)?,
            product: zeros(stream, self.product.workspace_bytes())?,
        })
    }

    /// The plan of this rank's product.
    pub fn product(&self) -> &Plan {
        &self.product
    }
}

impl ShardedLinear {
    /// Quantises this rank's inputs of a float weight, `[N, own inputs]`, with the scales of the whole weight, for which the
    /// ranks exchange N maxima. Waits for the other ranks.
    ///
    /// # Errors
    /// [`Error::Group`] when ranks disagree or another one fails, [`Error::Value`] for a split of another number of ranks,
    /// [`Error::Shape`] for a weight of another width, [`Error::KTooLong`] when the whole K is; otherwise as
    /// [`DeviceWeights::pack`]. Then the group is of no more use.
    pub fn from_float<T: DeviceElement>(
        group: &Arc<Group>,
        stream: &Arc<CudaStream>,
        split: &Split,
        weight: Matrix<&impl DevicePtr<T>>,
    ) -> Result<Self> {
        group.or_abort(|| {
            let (n, k) = weight.dim();
            check(group, split, [n, k])?;
            group.agree(
                stream,
                &agreement(split, n, T::DTYPE, "of the whole weight"),
            )?;
            let device = &**group.device();
            let mut q = zeros::<i8>(stream, n * k)?;
            let mut scales = zeros::<f32>(stream, n)?;
            if n > 0 {
                let mut extents = zeros::<i32>(stream, n)?;
                row_extents(device, stream, weight, &mut extents, false)?;
                group.all_reduce_max(stream, &mut extents)?;
                let place = Matrix::new(&mut q, n, k);
                quantize_rows_by(device, stream, weight, &extents, place, &mut scales, None)?;
            }
            Self::new(group, stream, split, Matrix::new(&q, n, k), scales)
        })
    }

    /// Packs this rank's inputs of an int8 weight, `[N, own inputs]`; the scales are the whole weight's, one for all or N.
    /// Waits for the other ranks.
    ///
    /// # Errors
    /// [`Error::Length`] for another number of scales, [`Error::Value`] for one that is not finite; otherwise as
    /// [`from_float`](Self::from_float).
    pub fn from_int8(
        group: &Arc<Group>,
        stream: &Arc<CudaStream>,
        split: &Split,
        weight: Matrix<&impl DevicePtr<i8>>,
        scales: &[f32],
    ) -> Result<Self> {
        group.or_abort(|| {
            let (n, k) = weight.dim();
            check(group, split, [n, k])?;
            check_finite(scales)?;
            let all = match scales {
                [one] => vec![*one; n],
                all if all.len() == n => all.to_vec(),
                other => {
                    return Err(Error::Length {
                        what: "the list of weight scales",
                        found: other.len(),
                        expected: n,
                    })
                }
            };
            let said = digest(all.iter().map(|s| s.to_bits()));
            group.agree(stream, &agreement(split, n, DType::I8, &said))?;
            let scales = crate::cuda::runtime::upload(stream, &all)?;
            Self::new(group, stream, split, weight, scales)
        })
    }

    fn new(
        group: &Arc<Group>,
        stream: &Arc<CudaStream>,
        split: &Split,
        weight: Matrix<&impl DevicePtr<i8>>,
        scales: CudaSlice<f32>,
    ) -> Result<Self> {
        let (n, order) = (weight.dim().0, WeightOrder::Outputs);
        let weights = DeviceWeights::pack_int8(group.device(), stream, weight, order, None)?;
        let mut col_sums = zeros::<i32>(stream, n)?;
        if n > 0 {
            let own = weights.col_sums();
            let copied = stream.memcpy_dtod(&own, &mut col_sums);
            copied.map_err(driver("cuMemcpyDtoDAsync"))?;
            group.all_reduce_sum(stream, &mut col_sums)?;
        }
        let wait = stream.synchronize();
        wait.map_err(driver("cuStreamSynchronize"))?;
        Ok(ShardedLinear {
            group: group.clone(),
            split: split.clone(),
            weights,
            scales,
            col_sums,
            bias: None,
            activation: Activation::None,
            quant: ActivationQuant::PerToken,
        })
    }

    /// The same layer with a bias of N elements, which all ranks have alike; waits for them to say so.
    ///
    /// # Errors
    /// [`Error::Length`] if `bias` does not have N elements, [`Error::Group`] when the ranks' differ.
    pub fn with_bias(self, stream: &Arc<CudaStream>, bias: CudaSlice<f32>) -> Result<Self> {
        self.group.clone().or_abort(|| {
            if bias.len() != self.outputs() {
                return Err(Error::Length {
                    what: "bias",
                    found: bias.len(),
                    expected: self.outputs(),
                });
            }
            let values: Vec<f32> = download(stream, &bias)?;
            let said = digest(values.iter().map(|b| b.to_bits()));
            let said = Agreement::default().with("the bias", said);
            self.group.agree(stream, &said)?;
            let bias = Some(FloatBuffer::F32(bias));
            Ok(ShardedLinear { bias, ..self })
        })
    }

    /// The same layer with an activation function after the bias: the same on all ranks.
    pub fn with_activation(self, activation: Activation) -> Self {
        ShardedLinear { activation, ..self }
    }

    /// The same layer with its inputs quantised in another way: the same on all ranks.
    ///
    /// # Errors
    /// [`Error::Value`] for constants that can't be used, [`Error::KTooLong`] for asymmetric inputs and a longer K than
    /// [`MAX_K_ZERO_POINT`](crate::numerics::MAX_K_ZERO_POINT).
    pub fn with_activation_quant(self, quant: ActivationQuant) -> Result<Self> {
        quant.check()?;
        check_k(self.inputs(), quant.has_zero_points())?;
        Ok(ShardedLinear { quant, ..self })
    }

    /// N.
    pub fn outputs(&self) -> usize {
        self.weights.n()
    }

    /// K of the whole layer.
    pub fn inputs(&self) -> usize {
        self.split.length()
    }

    /// The plan for `m` rows of these types.
    ///
    /// # Errors
    /// As [`Plan::new`].
    pub fn plan(&self, m: usize, input: DType, output: DType) -> Result<ShardedPlan> {
        let output = Problem::floats(m, 1, 1, input, output).epilogue.output;
        let (n, k) = (self.outputs(), self.weights.k());
        let lhs = Input::int8(k.next_multiple_of(PAD));
        let sums = Problem::new(Shape::new(m, n, k), lhs, Epilogue::to(Output::Raw));
        Ok(ShardedPlan {
            m,
            input,
            output,
            product: Plan::new(self.group.device(), sums, Algorithm::Heuristic)?,
            asymmetric: self.quant == ActivationQuant::PerTokenAsymmetric,
        })
    }

    /// Enqueues the layer: reads `x [M, own inputs]`, writes `y [M, N]`, with a residual `[M, N]` added last.
    ///
    /// # Errors
    /// [`Error::ShapeMismatch`], [`Error::Value`] and [`Error::Length`] for operands that are not the plan's,
    /// [`Error::Group`] when a rank failed. After an error this rank's part of the group is ended: the others do not wait.
    pub fn run<'a>(
        &self,
        plan: &ShardedPlan,
        stream: &CudaStream,
        x: Matrix<impl Into<DeviceFloats<'a>>>,
        residual: Option<Matrix<DeviceFloats<'a>>>,
        y: Matrix<impl Into<DeviceOutput<'a>>>,
        workspace: &mut ShardedWorkspace,
    ) -> Result<()> {
        let (x, y) = (x.map(Into::into), y.map(Into::into));
        self.group.or_abort(|| {
            self.check_run(plan, &x, workspace)?;
            if plan.m == 0 || self.outputs() == 0 {
                return Ok(());
            }
            match &x.data {
                DeviceFloats::F32(view) => self.quantise(plan, stream, x.over(view), workspace),
                DeviceFloats::F16(view) => self.quantise(plan, stream, x.over(view), workspace),
                DeviceFloats::BF16(view) => self.quantise(plan, stream, x.over(view), workspace),
            }?;
            self.sums(plan, stream, workspace)?;
            self.finish(plan, stream, residual, y, workspace)
        })
    }

    fn check_run(
        &self,
        plan: &ShardedPlan,
        x: &Matrix<DeviceFloats<'_>>,
        workspace: &ShardedWorkspace,
    ) -> Result<()> {
        let (n, k) = (self.outputs(), self.weights.k());
        let problem = plan.product.problem();
        let asymmetric = self.quant == ActivationQuant::PerTokenAsymmetric;
        let same = (problem.n, problem.k, plan.asymmetric) == (n, k, asymmetric)
            && Arc::ptr_eq(plan.product.device(), self.group.device());
        if !same {
            return Err(Error::Value {
                what: "the plan",
                found: format!("one for [{}, {}] weights", problem.n, problem.k),
                expected: format!("this layer's, for [{n}, {k}] weights"),
            });
        }
        let (m, columns) = x.dim();
        check_contraction("ShardedLinear", [m, columns], [k, n])?;
        if (m, x.data.dtype()) != (plan.m, plan.input) {
            return Err(Error::Value {
                what: "the inputs",
                found: format!("{m} rows of {}", x.data.dtype()),
                expected: format!("{} rows of {}", plan.m, plan.input),
            });
        }
        let room = (
            workspace.q.len(),
            workspace.sums.len(),
            workspace.scales.len(),
        );
        let needed = ((m * plan.stride()).max(1), (m * n).max(1), m.max(1));
        if room != needed || workspace.product.len() < plan.product.workspace_bytes() {
            return Err(Error::Value {
                what: "the workspace",
                found: format!("one of {} sums and {} integers", room.1, room.0),
                expected: format!("the plan's, of {} sums and {} integers", needed.1, needed.0),
            });
        }
        Ok(())
    }

    /// This rank's slice of the rows, by the whole rows' constants.
    fn quantise<T: DeviceElement>(
        &self,
        plan: &ShardedPlan,
        stream: &CudaStream,
        x: Matrix<&impl DevicePtr<T>>,
        workspace: &mut ShardedWorkspace,
    ) -> Result<()> {
        let (device, m) = (&**self.group.device(), plan.m);
        let q = Matrix::new(&mut workspace.q, m, plan.stride());
        let scales = &mut workspace.scales;
        let given = |scale, zero_point, scales: &mut CudaSlice<f32>, q| {
            quantize_rows_given(device, stream, x, q, scales, scale, zero_point)?;
            // Of a row that is not finite the scale is NaN, whose bits are above those of any number.
            // SAFETY: four bytes each, of which any are an i32.
            let bits = unsafe { scales.transmute_mut::<i32>(m) };
            let mut bits = bits.ok_or_else(|| self.group.error("scales of another size".into()))?;
            self.group.all_reduce_max(stream, &mut bits)
        };
        match self.quant {
            ActivationQuant::Static { scale } => given(scale, None, scales, q),
            ActivationQuant::StaticAsymmetric { scale, zero_point } => {
                given(scale, Some(zero_point), scales, q)
            }
            ActivationQuant::PerToken | ActivationQuant::PerTokenAsymmetric => {
                let words = m * if plan.asymmetric { 2 } else { 1 };
                let mut extents = workspace.extents.slice_mut(..words);
                row_extents(device, stream, x, &mut extents, plan.asymmetric)?;
                self.group.all_reduce_max(stream, &mut extents)?;
                let mut zeros = workspace.zero_points.slice_mut(..m);
                let zeros = plan.asymmetric.then_some(&mut zeros);
                quantize_rows_by(device, stream, x, &extents, q, scales, zeros)
            }
        }
    }

    /// The exact sums over all ranks.
    fn sums(
        &self,
        plan: &ShardedPlan,
        stream: &CudaStream,
        workspace: &mut ShardedWorkspace,
    ) -> Result<()> {
        let (m, n, k) = (plan.m, self.outputs(), self.weights.k());
        let q = Matrix::new(workspace.q.as_view(), m, k).with_stride(plan.stride());
        let to = Matrix::new(&mut workspace.sums, m, n);
        let operands = Operands::new(DeviceLhs::int8(q), self.weights.view(), to);
        plan.product.run(stream, operands, &mut workspace.product)?;
        self.group.all_reduce_sum(stream, &mut workspace.sums)
    }

    fn finish(
        &self,
        plan: &ShardedPlan,
        stream: &CudaStream,
        residual: Option<Matrix<DeviceFloats<'_>>>,
        y: Matrix<DeviceOutput<'_>>,
        workspace: &ShardedWorkspace,
    ) -> Result<()> {
        let (m, n) = (plan.m, self.outputs());
        let zero_points = match self.quant {
            ActivationQuant::PerToken | ActivationQuant::Static { .. } => ZeroPoints::None,
            ActivationQuant::StaticAsymmetric { zero_point, .. } => {
                ZeroPoints::PerTensor(zero_point)
            }
            ActivationQuant::PerTokenAsymmetric => {
                ZeroPoints::PerVector(workspace.zero_points.slice(..m).into())
            }
        };
        let col_sums: Option<DeviceVector<'_, i32>> =
            (!zero_points.is_none()).then(|| self.col_sums.slice(..n).into());
        let parts: Epilogue<OnDevice<'_>> = Epilogue {
            row_scales: Scales::PerVector(workspace.scales.slice(..m).into()),
            col_scales: Scales::PerVector(self.scales.slice(..n).into()),
            row_zero_points: zero_points,
            bias: self.bias.as_ref().map(FloatBuffer::view),
            activation: self.activation,
            residual,
            ..Epilogue::to(plan.output)
        };
        let sums = Matrix::new(&workspace.sums, m, n);
        epilogue(self.group.device(), stream, sums, &parts, col_sums, y)
    }
}

/// Refuses a slice that is not this rank's.
fn check(group: &Group, split: &Split, [n, k]: [usize; 2]) -> Result<()> {
    if split.ranks() != group.ranks() {
        return Err(Error::Value {
            what: "the number of parts",
            found: split.ranks().to_string(),
            expected: format!("one for each of the {} ranks of the group", group.ranks()),
        });
    }
    let own = split.range(group.rank());
    if k != own.len() {
        let (rank, len) = (group.rank(), own.len());
        return Err(Error::Shape {
            op: "ShardedLinear",
            what: "the weight",
            found: vec![n, k],
            expected: format!("[N, {len}]: rank {rank} has inputs {own:?}"),
        });
    }
    check_k(split.length(), false)
}

fn agreement(split: &Split, n: usize, dtype: DType, scales: &str) -> Agreement {
    Agreement::default()
        .with("the number of outputs", n)
        .with("the number of inputs", split.length())
        .with("the cuts", format!("{:?}", split.cuts()))
        .with("the weight's type", dtype)
        .with("the weight's scales", scales)
}
