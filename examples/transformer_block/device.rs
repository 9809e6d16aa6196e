//! The block on a device: everything is planned and allocated beforehand, so that `forward` only enqueues launches and a
//! graph can hold it.

use super::block::{BlockWeights, Shape, EPSILON};
use half::bf16;
use imma::cuda::cudarc::driver::sys::{CUgraphInstantiate_flags, CUstreamCaptureMode};
use imma::cuda::cudarc::driver::{CudaGraph, CudaSlice, CudaStream};
use imma::cuda::kernels::{add_rmsnorm_quantize, rmsnorm_quantize, silu_mul_quantize};
use imma::cuda::{
    Algorithm, Device, DeviceFloats, DeviceLhs, DeviceWeights, Input, Matrix, Operands, Plan,
    Problem, WeightOrder,
};
use imma::DType;
use ndarray::{Array1, Array2};
use std::error::Error;
use std::sync::Arc;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// Rows of int8 activations start at multiples of 16 bytes, which the products read fastest.
const ALIGN: usize = 16;

/// What happens between `qkv` and the output projection: a pipeline's own attention implements it.
pub trait Attention {
    /// Enqueues the attention over `qkv` `[tokens, 3 hidden]` (queries, keys, values) and says where its result
    /// `[tokens, hidden]` lies: in a buffer of its own, or in `qkv` itself.
    fn attend<'a>(
        &'a mut self,
        stream: &Arc<CudaStream>,
        qkv: &'a CudaSlice<bf16>,
        shape: Shape,
    ) -> Result<Matrix<DeviceFloats<'a>>>;
}

/// Sequences of one token, as many as there are rows: the softmax over one position is 1, so the result is the values as
/// they lie in `qkv`. Exact, and nothing to run.
#[derive(Debug)]
pub struct SingleToken;

impl Attention for SingleToken {
    fn attend<'a>(
        &'a mut self,
        _: &Arc<CudaStream>,
        qkv: &'a CudaSlice<bf16>,
        Shape { tokens, hidden, .. }: Shape,
    ) -> Result<Matrix<DeviceFloats<'a>>> {
        let values = qkv.slice(2 * hidden..);
        Ok(Matrix::new(values.into(), tokens, hidden).with_stride(3 * hidden))
    }
}

/// int8 rows, each with a scale, `[tokens, K]` with padding.
struct Activations {
    data: CudaSlice<i8>,
    scales: CudaSlice<f32>,
    tokens: usize,
    cols: usize,
}

impl Activations {
    fn new(stream: &Arc<CudaStream>, tokens: usize, cols: usize) -> Result<Self> {
        Ok(Activations {
            data: stream.alloc_zeros(tokens * cols.next_multiple_of(ALIGN))?,
            scales: stream.alloc_zeros(tokens)?,
            tokens,
            cols,
        })
    }

    /// Where a kernel writes them, padding included, and their scales.
    fn place(&mut self) -> (Matrix<&mut CudaSlice<i8>>, &mut CudaSlice<f32>) {
        let padded = self.cols.next_multiple_of(ALIGN);
        let matrix = Matrix::new(&mut self.data, self.tokens, padded);
        (matrix, &mut self.scales)
    }

    /// As a product's left operand.
    fn lhs(&self) -> DeviceLhs<'_> {
        let padded = self.cols.next_multiple_of(ALIGN);
        let data = Matrix::new(self.data.as_view(), self.tokens, self.cols).with_stride(padded);
        DeviceLhs::scaled(data, &self.scales)
    }
}

/// Weights with the plan of their product.
struct Projection {
    weights: DeviceWeights,
    plan: Plan,
}

impl Projection {
    /// Quantises a matrix `[N, K]` per output and plans its product with `tokens` rows.
    fn new(
        device: &Device,
        stream: &Arc<CudaStream>,
        weights: &Array2<bf16>,
        tokens: usize,
        floats_in: bool,
        residual: bool,
    ) -> Result<Self> {
        let (n, k) = weights.dim();
        let floats = stream.clone_htod(weights.as_slice().ok_or("rows in order")?)?;
        let weights = DeviceWeights::pack(
            device,
            stream,
            Matrix::new(&floats, n, k),
            WeightOrder::Outputs,
        )?;
        let mut problem = Problem::floats(tokens, n, k, DType::BF16, DType::BF16);
        if !floats_in {
            let padded = Input::int8(k.next_multiple_of(ALIGN));
            problem = problem.with_input(padded).with_row_scales();
        }
        if residual {
            problem = problem.with_residual(DType::BF16);
        }
        let plan = Plan::new(device, problem, Algorithm::Heuristic)?;
        Ok(Projection { weights, plan })
    }

    /// `out [tokens, N] = lhs x weights (+ residual)`.
    fn run(
        &self,
        stream: &Arc<CudaStream>,
        lhs: DeviceLhs<'_>,
        residual: Option<&CudaSlice<bf16>>,
        out: &mut CudaSlice<bf16>,
        workspace: &mut CudaSlice<u8>,
    ) -> Result<()> {
        let (m, n) = (self.plan.problem().m, self.plan.problem().n);
        let mut operands = Operands::new(lhs, self.weights.view(), Matrix::new(out, m, n));
        if let Some(residual) = residual {
            operands = operands.with_residual(Matrix::new(residual, m, n));
        }
        self.plan.run(stream, operands, workspace)?;
        Ok(())
    }
}

/// The block on a device, for one number of tokens.
pub struct DeviceBlock {
    device: Arc<Device>,
    shape: Shape,
    norm: CudaSlice<bf16>,
    inner_norm: CudaSlice<bf16>,
    qkv: Projection,
    out: Projection,
    gate_up: Projection,
    down: Projection,
    // What lies between two launches.
    normed: Activations,
    inner: Activations,
    qkv_rows: CudaSlice<bf16>,
    attended: CudaSlice<bf16>,
    gate_up_rows: CudaSlice<bf16>,
    workspace: CudaSlice<u8>,
}

impl DeviceBlock {
    /// Packs the weights, plans the products and allocates everything; waits until it is there.
    pub fn new(
        device: &Arc<Device>,
        stream: &Arc<CudaStream>,
        shape: Shape,
        weights: &BlockWeights,
    ) -> Result<Self> {
        let Shape {
            tokens,
            hidden,
            inner,
        } = shape;
        let project = |weights, floats_in, residual| {
            Projection::new(device, stream, weights, tokens, floats_in, residual)
        };
        let vector = |w: &Array1<bf16>| -> Result<CudaSlice<bf16>> {
            Ok(stream.clone_htod(w.as_slice().ok_or("elements in order")?)?)
        };
        // The attention's result comes as floats: that plan quantises it.
        let (qkv, out) = (
            project(&weights.qkv, false, false)?,
            project(&weights.out, true, false)?,
        );
        let (gate_up, down) = (
            project(&weights.gate_up, false, false)?,
            project(&weights.down, false, true)?,
        );
        // One after the other, so one workspace serves all.
        let workspace = [&qkv, &out, &gate_up, &down]
            .map(|p| p.plan.workspace_bytes())
            .into_iter()
            .max()
            .unwrap_or(0);
        let block = DeviceBlock {
            device: device.clone(),
            shape,
            norm: vector(&weights.norm)?,
            inner_norm: vector(&weights.inner_norm)?,
            qkv,
            out,
            gate_up,
            down,
            normed: Activations::new(stream, tokens, hidden)?,
            inner: Activations::new(stream, tokens, inner)?,
            qkv_rows: stream.alloc_zeros(tokens * 3 * hidden)?,
            attended: stream.alloc_zeros(tokens * hidden)?,
            gate_up_rows: stream.alloc_zeros(tokens * 2 * inner)?,
            workspace: stream.alloc_zeros(workspace.max(1))?,
        };
        stream.synchronize()?;
        Ok(block)
    }

    /// The kernel of each product, in order.
    pub fn kernels(&self) -> [String; 4] {
        [&self.qkv, &self.out, &self.gate_up, &self.down].map(|p| p.plan.kernel())
    }

    /// Enqueues the block: `x` to `y`, both `[tokens, hidden]`. `x` is the residual stream and holds the sum with the
    /// attention afterwards.
    pub fn forward(
        &mut self,
        stream: &Arc<CudaStream>,
        attention: &mut impl Attention,
        x: &mut CudaSlice<bf16>,
        y: &mut CudaSlice<bf16>,
    ) -> Result<()> {
        let Shape {
            tokens,
            hidden,
            inner,
        } = self.shape;
        let (device, workspace) = (&*self.device, &mut self.workspace);

        let (to, scales) = self.normed.place();
        let rows = Matrix::new(&*x, tokens, hidden);
        rmsnorm_quantize(device, stream, rows, (&self.norm, EPSILON), to, scales)?;
        let lhs = self.normed.lhs();
        self.qkv
            .run(stream, lhs, None, &mut self.qkv_rows, workspace)?;

        let result = attention.attend(stream, &self.qkv_rows, self.shape)?;
        let lhs = DeviceLhs::Float(result);
        self.out
            .run(stream, lhs, None, &mut self.attended, workspace)?;

        let (to, scales) = self.normed.place();
        let added = Matrix::new(&self.attended, tokens, hidden);
        let residual = Matrix::new(&mut *x, tokens, hidden);
        let norm = (&self.inner_norm, EPSILON);
        add_rmsnorm_quantize(device, stream, added, residual, norm, to, scales)?;
        let lhs = self.normed.lhs();
        self.gate_up
            .run(stream, lhs, None, &mut self.gate_up_rows, workspace)?;

        // Two halves of each row.
        let half = |first: usize| {
            self.gate_up_rows
                .slice(first..first + (2 * tokens - 1) * inner)
        };
        let (gate, up) = (half(0), half(inner));
        let rows = |half| Matrix::new(half, tokens, inner).with_stride(2 * inner);
        let (to, scales) = self.inner.place();
        silu_mul_quantize(device, stream, rows(&gate), rows(&up), to, scales)?;
        self.down
            .run(stream, self.inner.lhs(), Some(x), y, workspace)
    }
}

/// What `enqueue` puts on the stream, as a graph: one launch replays it. Event tracking must have been off when the buffers
/// were made (`CudaContext::disable_event_tracking`).
pub fn capture(
    stream: &Arc<CudaStream>,
    enqueue: impl FnOnce() -> Result<()>,
) -> Result<CudaGraph> {
    stream.begin_capture(CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL)?;
    let enqueued = enqueue();
    let flags = CUgraphInstantiate_flags::CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH;
    // A capture is ended in any case.
    let graph = stream.end_capture(flags);
    enqueued?;
    Ok(graph?.ok_or("nothing was captured")?)
}
