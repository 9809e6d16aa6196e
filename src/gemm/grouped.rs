//! Many products in one call: rows sorted by expert, a weight matrix an expert.

use super::problem::rows_of;
use crate::element::OutputMut;
use crate::epilogue::{Epilogue, Host, Output, Scales};
use crate::error::{Error, Result};
use crate::gemm::{Backend, Gemm, Lhs, PackedWeights, WeightScales, Weights};
use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;

/// The weights of E experts, each a packed `[K, N]` matrix of the same shape, for one backend. Cheap to clone.
#[derive(Debug, Clone)]
pub struct GroupedWeights {
    experts: Arc<[PackedWeights]>,
}

impl GroupedWeights {
    /// Puts together what was packed expert by expert.
    ///
    /// # Errors
    /// [`Error::Value`] when there are none, or when they differ in shape, layout or in what their scales belong to.
    pub fn new(experts: Vec<PackedWeights>) -> Result<Self> {
        fn kind(weights: &PackedWeights) -> String {
            let scales = match weights.scales() {
                WeightScales::None => "no scales".into(),
                WeightScales::PerColumn(_) => "scales of columns".into(),
                WeightScales::PerGroup { size, .. } => format!("a scale for every {size} inputs"),
            };
            let (k, n, layout) = (weights.k(), weights.n(), weights.layout());
            format!("[{k}, {n}] in the layout {layout} with {scales}")
        }
        let refuse = |found: String, expected: String| Error::Value {
            what: "the weights of an expert",
            found,
            expected,
        };
        let Some(first) = experts.first() else {
            return Err(refuse("missing".into(), "at least one expert".into()));
        };
        let expected = kind(first);
        match experts.iter().map(kind).find(|found| *found != expected) {
            Some(found) => Err(refuse(found, format!("{expected}, as the first's are"))),
            None => Ok(GroupedWeights {
                experts: experts.into(),
            }),
        }
    }

    /// Packs the experts' matrices, each `[K, N]`, one after the other.
    ///
    /// # Errors
    /// Those of the backend's [`pack`](Backend::pack) and of [`new`](Self::new).
    pub fn pack<'a>(
        backend: &dyn Backend,
        experts: impl IntoIterator<Item = Weights<'a>>,
    ) -> Result<Self> {
        let packed = experts.into_iter().map(|weights| backend.pack(weights));
        Self::new(packed.collect::<Result<_>>()?)
    }

    /// Those of the experts in a range, in order.
    ///
    /// # Errors
    /// [`Error::Value`] for a range that is empty or goes beyond the experts.
    pub fn slice(&self, range: Range<usize>) -> Result<Self> {
        match self.experts.get(range.clone()) {
            Some(experts) if !experts.is_empty() => Ok(GroupedWeights {
                experts: experts.into(),
            }),
            _ => Err(Error::Value {
                what: "the range of experts",
                found: format!("{range:?}"),
                expected: format!("at least one of 0..{}", self.experts.len()),
            }),
        }
    }

    /// How many experts there are, at least one.
    pub fn experts(&self) -> usize {
        self.experts.len()
    }

    /// The weights of one.
    pub fn expert(&self, expert: usize) -> &PackedWeights {
        &self.experts[expert]
    }

    /// The contracted dimension.
    pub fn k(&self) -> usize {
        self.experts[0].k()
    }

    /// Number of columns: output features of each expert.
    pub fn n(&self) -> usize {
        self.experts[0].n()
    }

    /// Bytes held, padding included.
    pub fn bytes(&self) -> usize {
        self.experts.iter().map(PackedWeights::bytes).sum()
    }
}

/// A grouped product, `out[i] = epilogue(lhs[i] x weights of expert e)` for each row `i` of expert `e`, with all shapes
/// known to fit.
///
/// ```text
///   lhs [M, K], rows sorted by expert        offsets [E + 1]
///   row 0 .. 2    expert 0                   [0, 3, 3, 4]
///               expert 1 has none
///   row 3         expert 2                   expert e has rows offsets[e] .. offsets[e + 1]
/// ```
///
/// Everything in the epilogue that belongs to rows or to the output is that of a single product of M rows. What belongs to
/// columns, scales and bias, is `[E, N]`, the experts' one after the other. The bits of a row are those of a single product
/// of that row and its expert's weights, whoever else is there.
///
/// ```
/// use imma::element::OutputMut;
/// use imma::epilogue::Output;
/// use imma::gemm::{GroupedGemm, GroupedWeights, Lhs, Weights};
/// use imma::{Backend, Cpu, Epilogue};
/// use ndarray::{arr2, Array2};
/// let cpu = Cpu::new();
/// let (one, two) = (arr2(&[[1i8], [2]]), arr2(&[[3i8], [-1]]));
/// let weights = GroupedWeights::pack(&cpu, [Weights::Int8(one.view()), Weights::Int8(two.view())])?;
/// let lhs = arr2(&[[3i8, 4], [1, 1], [0, 5]]);
/// // The first row is expert 0's, the others are expert 1's.
/// let grouped = GroupedGemm::new(Lhs::Int8(lhs.view()), &[0, 1, 3], &weights, Epilogue::to(Output::Raw))?;
/// let mut out = Array2::<i32>::zeros((3, 1));
/// cpu.grouped_gemm(&grouped, OutputMut::I32(out.view_mut()))?;
/// assert_eq!(out, arr2(&[[11], [2], [-5]]));
/// # Ok::<(), imma::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct GroupedGemm<'a> {
    lhs: Lhs<'a>,
    offsets: Cow<'a, [i32]>,
    weights: GroupedWeights,
    /// Columns' parts are `[E, N]`.
    epilogue: Epilogue<Host<'a>>,
}

impl<'a> GroupedGemm<'a> {
    /// Checks that everything fits and that every sum is exact.
    ///
    /// Expert `e` has rows `offsets[e]..offsets[e + 1]`. Rows before the first offset and from the last on belong to nobody:
    /// the product leaves their place in the output alone.
    ///
    /// # Errors
    /// [`Error::Length`] unless there are E + 1 offsets and E * N elements of the columns' parts, [`Error::Value`] for an
    /// offset that is below the one before it or outside `0..=M`; otherwise as [`Gemm::new`].
    pub fn new(
        lhs: Lhs<'a>,
        offsets: &'a [i32],
        weights: &GroupedWeights,
        epilogue: Epilogue<Host<'a>>,
    ) -> Result<Self> {
        let (experts, n) = (weights.experts(), weights.n());
        let length = |what, found: usize, expected: usize| match found == expected {
            true => Ok(()),
            false => Err(Error::Length {
                what,
                found,
                expected,
            }),
        };
        length("the experts' offsets", offsets.len(), experts + 1)?;
        check_offsets(offsets, lhs.dim().0)?;
        if let Scales::PerVector(scales) = &epilogue.col_scales {
            length("column scales", scales.len(), experts * n)?;
        }
        if let Some(bias) = &epilogue.bias {
            length("bias", bias.len(), experts * n)?;
        }
        // What one expert's product asks of the rest, all of them ask.
        Gemm::new(lhs.clone(), weights.expert(0), columns_of(&epilogue, 0, n))?;
        Ok(GroupedGemm {
            lhs,
            offsets: offsets.into(),
            weights: weights.clone(),
            epilogue,
        })
    }

    /// M, N and K; M counts the rows that belong to nobody too.
    pub fn mnk(&self) -> (usize, usize, usize) {
        (self.lhs.dim().0, self.weights.n(), self.weights.k())
    }

    /// Columns of the output: N, or half of it when the epilogue is gated.
    pub fn output_columns(&self) -> usize {
        self.whole(0).output_columns()
    }

    /// How many experts there are.
    pub fn experts(&self) -> usize {
        self.weights.experts()
    }

    /// The rows of an expert.
    pub fn rows_of(&self, expert: usize) -> Range<usize> {
        self.offsets[expert] as usize..self.offsets[expert + 1] as usize
    }

    /// The rows of all experts together.
    pub(crate) fn rows(&self) -> Range<usize> {
        self.rows_of(0).start..self.rows_of(self.experts() - 1).end
    }

    pub(crate) fn epilogue(&self) -> &Epilogue<Host<'a>> {
        &self.epilogue
    }

    pub(crate) fn lhs(&self) -> &Lhs<'a> {
        &self.lhs
    }

    /// All M rows with the weights and columns of one expert: a product of which its own rows alone mean something.
    pub(crate) fn whole(&self, expert: usize) -> Gemm<'a> {
        Gemm {
            lhs: self.lhs.clone(),
            weights: self.weights.expert(expert).clone(),
            epilogue: columns_of(&self.epilogue, expert, self.weights.n()),
        }
    }

    /// Rows `first..end` alone to f32, with the experts' offsets among them.
    pub(crate) fn floats_of(&self, first: usize, end: usize) -> GroupedGemm<'a> {
        let within = |offset: &i32| (*offset as usize).clamp(first, end) - first;
        GroupedGemm {
            lhs: self.lhs.rows(first, end),
            offsets: self.offsets.iter().map(|o| within(o) as i32).collect(),
            weights: self.weights.clone(),
            epilogue: rows_of(&self.epilogue, first, end).with_output(Output::F32),
        }
    }

    /// Checks a place against the product.
    pub(crate) fn check_output(&self, out: &OutputMut<'_>) -> Result<()> {
        self.whole(0).check_output(out)
    }
}

/// Refuses offsets that are not in order, or outside of the rows.
fn check_offsets(offsets: &[i32], rows: usize) -> Result<()> {
    let mut least = 0;
    for (expert, offset) in offsets.iter().enumerate() {
        if *offset < least || usize::try_from(*offset).is_ok_and(|o| o > rows) {
            return Err(Error::Value {
                what: "an offset of the experts' rows",
                found: format!("{offset} for expert {expert}"),
                expected: format!("a number in {least}..={rows}"),
            });
        }
        least = *offset;
    }
    Ok(())
}

/// The epilogue of one expert: its columns of what is `[E, N]`.
fn columns_of<'a>(epilogue: &Epilogue<Host<'a>>, expert: usize, n: usize) -> Epilogue<Host<'a>> {
    let columns = expert * n..(expert + 1) * n;
    Epilogue {
        col_scales: match epilogue.col_scales {
            Scales::PerVector(all) => Scales::PerVector(&all[columns.clone()]),
            other => other,
        },
        bias: epilogue.bias.map(|bias| bias.range(columns)),
        ..epilogue.clone()
    }
}
