//! The block's sizes and weights, and the block on the CPU.
//!
//! ```text
//!   x [tokens, hidden] bf16, the residual stream
//!   |-- RMSNorm + quantise -- Wqkv --> qkv [tokens, 3 hidden] -- attention --> [tokens, hidden] -- quantise -- Wo --.
//!   +---------------------------------------------------------------------------------------------------------------'
//!   |-- RMSNorm + quantise -- Wgate_up --> [tokens, 2 inner] -- SiLU(gate) * up + quantise -- Wdown --.
//!   +-------------------------------------------------------------------------------------------------'
//!   y [tokens, hidden] bf16
//! ```
//!
//! Each product is int8 x int8 with exact int32 sums and leaves its kernel as bf16.

use half::bf16;
use imma::element::{FloatView, OutputMut};
use imma::epilogue::Output;
use imma::gemm::{Gemm, Lhs, PackedWeights, Weights};
use imma::ops::{add_rmsnorm_quantize, rmsnorm_quantize, silu_mul_quantize};
use imma::quant::{QuantizedTensor, Quantizer};
use imma::{Backend, Cpu, Epilogue};
use ndarray::{s, Array1, Array2, ArrayView2};

/// Added to the mean square before its root is taken.
pub const EPSILON: f32 = 1e-5;

/// What a block is made for.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    /// Rows: each a sequence of one token here.
    pub tokens: usize,
    /// The width of the residual stream.
    pub hidden: usize,
    /// The width of the SwiGLU's inside.
    pub inner: usize,
}

/// A block's weights as a checkpoint has them: bf16, matrices `[N, K]` with one row per output.
#[derive(Debug)]
pub struct BlockWeights {
    /// `[hidden]`, before the attention.
    pub norm: Array1<bf16>,
    /// `[3 hidden, hidden]`: queries, keys, values.
    pub qkv: Array2<bf16>,
    /// `[hidden, hidden]`.
    pub out: Array2<bf16>,
    /// `[hidden]`, before the SwiGLU.
    pub inner_norm: Array1<bf16>,
    /// `[2 inner, hidden]`: gate, then up.
    pub gate_up: Array2<bf16>,
    /// `[hidden, inner]`.
    pub down: Array2<bf16>,
}

impl BlockWeights {
    /// Weights for trying things out, the same for the same seed.
    pub fn random(shape: Shape, seed: u64) -> Self {
        let Shape { hidden, inner, .. } = shape;
        let mut random = Random(seed);
        let norms = |random: &mut Random| {
            Array1::from_shape_simple_fn(hidden, || bf16::from_f32(1.0 + 0.2 * random.unit()))
        };
        let mut matrix = |n: usize, k: usize| {
            let size = (3.0 / k as f32).sqrt();
            Array2::from_shape_simple_fn((n, k), || bf16::from_f32(size * random.unit()))
        };
        BlockWeights {
            qkv: matrix(3 * hidden, hidden),
            out: matrix(hidden, hidden),
            gate_up: matrix(2 * inner, hidden),
            down: matrix(hidden, inner),
            norm: norms(&mut random),
            inner_norm: norms(&mut random),
        }
    }
}

/// Rows for trying things out.
pub fn random_rows(shape: Shape, seed: u64) -> Array2<bf16> {
    let mut random = Random(seed);
    Array2::from_shape_simple_fn((shape.tokens, shape.hidden), || {
        bf16::from_f32(2.0 * random.unit())
    })
}

/// SplitMix64.
struct Random(u64);

impl Random {
    /// In -1..1.
    fn unit(&mut self) -> f32 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^= z >> 31;
        (z >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }
}

/// The block on the CPU, with its weights quantised per channel and packed.
#[derive(Debug)]
pub struct HostBlock {
    cpu: Cpu,
    hidden: usize,
    inner: usize,
    norm: Array1<bf16>,
    inner_norm: Array1<bf16>,
    qkv: PackedWeights,
    out: PackedWeights,
    gate_up: PackedWeights,
    down: PackedWeights,
}

impl HostBlock {
    /// Quantises and packs.
    pub fn new(shape: Shape, weights: &BlockWeights) -> imma::Result<Self> {
        let cpu = Cpu::new();
        let pack = |w: &Array2<bf16>| cpu.pack(Weights::Float(FloatView::BF16(w.t())));
        Ok(HostBlock {
            hidden: shape.hidden,
            inner: shape.inner,
            norm: weights.norm.clone(),
            inner_norm: weights.inner_norm.clone(),
            qkv: pack(&weights.qkv)?,
            out: pack(&weights.out)?,
            gate_up: pack(&weights.gate_up)?,
            down: pack(&weights.down)?,
            cpu,
        })
    }

    /// `x [tokens, hidden]` to `y`.
    pub fn forward(&self, x: ArrayView2<'_, bf16>) -> imma::Result<Array2<bf16>> {
        let normed = rmsnorm_quantize(x, self.norm.view(), EPSILON)?;
        let qkv = self.project(&normed, &self.qkv, None)?;
        let attended = self.attention(&qkv);
        let attended = Quantizer::default().quantize(attended)?;
        let attended = self.project(&attended, &self.out, None)?;

        let mut residual = x.to_owned();
        let to = residual.view_mut();
        let normed = add_rmsnorm_quantize(attended.view(), to, self.inner_norm.view(), EPSILON)?;
        let gate_up = self.project(&normed, &self.gate_up, None)?;
        let gate = gate_up.slice(s![.., ..self.inner]);
        let up = gate_up.slice(s![.., self.inner..]);
        let inner = silu_mul_quantize(gate, up)?;
        self.project(&inner, &self.down, Some(residual.view()))
    }

    /// Sequences of one token: the softmax over one position is 1, whatever the queries and keys are, so that every
    /// head returns its values. A pipeline's own attention goes here.
    fn attention<'a>(&self, qkv: &'a Array2<bf16>) -> ArrayView2<'a, bf16> {
        qkv.slice(s![.., 2 * self.hidden..])
    }

    /// Integers times weights, dequantised, with the residual added, rounded once to bf16.
    fn project(
        &self,
        x: &QuantizedTensor,
        weights: &PackedWeights,
        residual: Option<ArrayView2<'_, bf16>>,
    ) -> imma::Result<Array2<bf16>> {
        let epilogue = Epilogue {
            row_scales: x.row_scales()?,
            residual: residual.map(FloatView::BF16),
            ..Epilogue::to(Output::BF16)
        };
        let gemm = Gemm::new(Lhs::Int8(x.matrix()?), weights, epilogue)?;
        let (m, n, _) = gemm.mnk();
        let mut y = Array2::default((m, n));
        self.cpu.gemm(&gemm, OutputMut::BF16(y.view_mut()))?;
        Ok(y)
    }
}
