//! One run of a plan: everything is taken and checked, then launched.
//!
//! ```text
//!   Operands --take--> regions --quantise or pad--> integers --CheckedProduct--> igemm_*, or cuBLASLt and the epilogue
//! ```

use super::checked::{Operands, Taken, TakenLhs};
use super::instance::Instance;
use super::plan::{Multiply, Plan, Staging, LIBRARY, PARTS, SCALES, STAGED, SUMS, TURNED, ZEROS};
use super::problem::Input;
use crate::cuda::kernels::{
    finish, groupwise, quantise_rows, sm80, sm90, transpose, Batches, CheckedProduct, Constants,
    InRegions, Parts, Place, Sums,
};
use crate::cuda::runtime::{Held, Region, Workspace};
use crate::element::DType;
use crate::epilogue::{Epilogue, Output, Scales, ZeroPoints};
use crate::error::{Error, Result};
use crate::gemm::ActivationQuant;
use crate::rounding::Rounding;
use cudarc::driver::{CudaStream, DevicePtrMut};

type Space<'a> = Workspace<'a, PARTS>;

impl Plan {
    /// Enqueues the product.
    ///
    /// Everything is checked first: after an error of a check nothing was enqueued. Every element of the output is
    /// written; the workspace's contents are of no use afterwards.
    ///
    /// # Errors
    /// [`ShapeMismatch`], [`Length`] and [`Value`] for operands that are not the plan's: other shapes, types or strides,
    /// another context, a misaligned address, too small a workspace; [`Cuda`] when the driver or cuBLASLt refuses.
    ///
    /// [`ShapeMismatch`]: crate::Error::ShapeMismatch
    /// [`Length`]: crate::Error::Length
    /// [`Value`]: crate::Error::Value
    /// [`Cuda`]: crate::Error::Cuda
    pub fn run(
        &self,
        stream: &CudaStream,
        mut operands: Operands<'_>,
        workspace: &mut impl DevicePtrMut<u8>,
    ) -> Result<()> {
        let problem = &self.core.problem;
        operands.complete(&problem.epilogue);
        let mut held = Held::new(&self.device, stream)?;
        let taken = self.take(&mut operands, &mut held)?;
        let per_row = problem.epilogue.output == Output::Int8PerRow;
        // Rows without columns still get scales.
        if problem.m == 0 || (problem.n == 0 && !per_row) {
            return Ok(());
        }
        let space = Workspace::new(&mut held, self.core.layout, workspace)?;
        let integers = self.integers(&taken, &space)?;
        // Checked as a whole before anything is enqueued.
        let (product, library) = self.product(&taken, &integers, &space)?;
        let sums = space.part::<i32>(SUMS, 1, space.room::<i32>(SUMS));
        if let Multiply::Ours(Instance::Sm90(instance)) = &self.core.multiply {
            // Before the quantising kernel, so that nothing stands between that and the product.
            let shape = [problem.m, problem.n];
            sm90::clear(&held, *instance, shape, problem.epilogue.output, sums)?;
        }
        self.stage(&held, &taken.lhs, &integers, &space)?;
        match &self.core.multiply {
            Multiply::Ours(Instance::Sm80(instance)) => {
                sm80::enqueue(&held, *instance, &product, sums)
            }
            Multiply::Ours(Instance::Sm90(instance)) => {
                sm90::enqueue(&held, *instance, &self.core.maps, &product, sums)
            }
            Multiply::Ours(Instance::Groupwise(instance)) => {
                groupwise::enqueue(&held, *instance, &product)
            }
            Multiply::Ours(Instance::CublasLt(_)) => Err(missing("a kernel of ours")),
            Multiply::Library {
                product: by,
                candidate,
                ldc,
            } => {
                let place = library.ok_or_else(|| missing("the sums"))?;
                match by {
                    Some(by) => {
                        let room = space.part::<u8>(LIBRARY, 1, space.room::<u8>(LIBRARY));
                        let operands = [integers.data, taken.weights, place];
                        by.sums(&held, *candidate, operands, room)?;
                    }
                    None => held.clear(place, 0..place.len)?,
                }
                if self.writes_sums(*ldc) {
                    return Ok(());
                }
                finish(&held, &product, Sums::whole(place.columns_to(problem.n)))
            }
        }
    }

    /// Where the integers lie, or will, and the scales and zero points of their rows.
    fn integers<'a>(&self, taken: &Taken<'a>, space: &Space<'a>) -> Result<Integers<'a>> {
        let (m, k) = (self.core.problem.m, self.core.problem.k);
        let staged = || {
            let part = space.part::<i8>(STAGED, m, self.core.lda);
            part.ok_or_else(|| missing("rows of integers"))
        };
        let epilogue = &taken.epilogue;
        let given = (epilogue.row_scales, epilogue.row_zero_points);
        let data = match &taken.lhs {
            TakenLhs::Integers(data) if self.core.staged == Staging::None => *data,
            _ => staged()?.columns_to(k),
        };
        let found = || {
            let part = space.part::<f32>(SCALES, 1, m);
            part.map(Scales::PerVector)
                .ok_or_else(|| missing("scales of rows"))
        };
        let (scales, zero_points) = match self.core.problem.input {
            Input::Int8 { .. } => given,
            Input::Float(_, ActivationQuant::PerToken | ActivationQuant::Static { .. }) => {
                (found()?, ZeroPoints::None)
            }
            Input::Float(_, ActivationQuant::StaticAsymmetric { zero_point, .. }) => {
                (found()?, ZeroPoints::PerTensor(zero_point))
            }
            Input::Float(_, ActivationQuant::PerTokenAsymmetric) => {
                let zeros = space.part::<i32>(ZEROS, 1, m);
                let zeros = zeros.ok_or_else(|| missing("zero points of rows"))?;
                (found()?, ZeroPoints::PerVector(zeros))
            }
        };
        Ok(Integers {
            data,
            scales,
            zero_points,
        })
    }

    /// The checked product, and the place of the library's sums where that multiplies.
    fn product<'a>(
        &self,
        taken: &Taken<'a>,
        integers: &Integers<'a>,
        space: &Space<'a>,
    ) -> Result<(CheckedProduct<'a>, Option<Region<'a>>)> {
        let zero_points = integers.zero_points;
        let parts = Parts {
            a: integers.data,
            w: taken.weights,
            out: taken.out,
            row_scales_out: taken.row_scales_out,
            col_sums: (!zero_points.is_none()).then_some(taken.col_sums),
            groups: taken.groups,
            epilogue: Epilogue::<InRegions<'_>> {
                row_scales: integers.scales,
                row_zero_points: zero_points,
                ..taken.epilogue.clone()
            },
            batches: Batches::ONE,
            group_rows: None,
        };
        let product = CheckedProduct::new("Plan::run", parts)?;
        let library = match &self.core.multiply {
            Multiply::Library { ldc, .. } if self.writes_sums(*ldc) => Some(taken.out),
            Multiply::Library { ldc, .. } => space.part::<i32>(SUMS, self.core.problem.m, *ldc),
            Multiply::Ours(_) => None,
        };
        Ok((product, library))
    }

    /// Enqueues what makes the integers, where they are not there already.
    fn stage(
        &self,
        held: &Held<'_>,
        lhs: &TakenLhs<'_>,
        integers: &Integers<'_>,
        space: &Space<'_>,
    ) -> Result<()> {
        match (lhs, self.core.staged) {
            (TakenLhs::Floats(dtype, x), _) => self.quantise(held, *dtype, *x, integers),
            (TakenLhs::Integers(data), Staging::Padded) if self.core.problem.k > 0 => {
                let (m, k) = (self.core.problem.m, self.core.problem.k);
                let turned = space.part::<i8>(TURNED, k, m);
                let turned = turned.ok_or_else(|| missing("turned integers"))?;
                transpose(held, *data, turned)?;
                transpose(held, turned, integers.data.columns_to(self.core.lda))
            }
            _ => Ok(()),
        }
    }

    fn quantise(
        &self,
        held: &Held<'_>,
        dtype: DType,
        x: Region<'_>,
        integers: &Integers<'_>,
    ) -> Result<()> {
        let Scales::PerVector(scales) = integers.scales else {
            return Err(missing("scales of rows"));
        };
        let place = Place {
            output: integers.data.columns_to(self.core.lda),
            scales,
            zero_points: match integers.zero_points {
                ZeroPoints::PerVector(zeros) => Some(zeros),
                _ => None,
            },
        };
        let constants = match self.core.problem.input {
            Input::Float(_, ActivationQuant::Static { scale }) => Constants::Given(scale),
            Input::Float(_, ActivationQuant::StaticAsymmetric { scale, zero_point }) => {
                Constants::GivenAsymmetric(scale, zero_point)
            }
            _ => Constants::Own(Rounding::NearestEven),
        };
        quantise_rows(held, dtype, x, place, constants)
    }
}

/// The left operand as the product reads it.
struct Integers<'a> {
    /// `[M, K]`.
    data: Region<'a>,
    scales: Scales<Region<'a>>,
    zero_points: ZeroPoints<Region<'a>>,
}

/// What a plan's own layout would have to lack.
fn missing(what: &'static str) -> Error {
    Error::Value {
        what: "the plan's workspace",
        found: format!("no room for {what}"),
        expected: "the parts that were planned".into(),
    }
}
