//! A backend that does nothing but fulfil the contract, and counts its calls: it shows what the operations rely on.

use crate::element::{Element, FloatView, OutputMut};
use crate::error::Result;
use crate::gemm::{Backend, Gemm, Lhs, PackedWeights, WeightScales, Weights};
use crate::numerics::{absmax, bound, multiplier, quantize, scale};
use crate::ops::{
    matmul_true_int8_on, q_matmul_int8, q_matmul_int8_on, DimensionNumbers, DotGeneral, Int8Linear,
    Precision, QuantDotGeneral,
};
use ndarray::{Array2, ArrayD, Axis};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::Arc;

#[derive(Debug, Default)]
struct Naive {
    packs: AtomicUsize,
    gemms: AtomicUsize,
}

fn by_rows(x: &FloatView<'_>) -> (Array2<i8>, Vec<f32>) {
    let x = match x {
        FloatView::F32(x) => x.to_owned(),
        FloatView::F16(x) => x.mapv(Element::to_f32),
        FloatView::BF16(x) => x.mapv(Element::to_f32),
    };
    let bounds: Vec<f32> = x
        .rows()
        .into_iter()
        .map(|r| bound(absmax(r.iter().copied())))
        .collect();
    let q = Array2::from_shape_fn(x.dim(), |(i, j)| {
        quantize(x[[i, j]] * multiplier(bounds[i]))
    });
    (q, bounds.into_iter().map(scale).collect())
}

impl Backend for Naive {
    fn name(&self) -> String {
        "naive".into()
    }

    fn kernel(&self, _: usize, _: usize, _: usize) -> String {
        "three loops".into()
    }

    fn pack(&self, weights: Weights<'_>) -> Result<PackedWeights> {
        self.packs.fetch_add(1, Relaxed);
        let (data, scales) = match weights {
            Weights::Int8(w) => (w.to_owned(), None),
            Weights::Float(w) => {
                let turned = match w {
                    FloatView::F32(w) => FloatView::F32(w.reversed_axes()),
                    FloatView::F16(w) => FloatView::F16(w.reversed_axes()),
                    FloatView::BF16(w) => FloatView::BF16(w.reversed_axes()),
                };
                let (q, scales) = by_rows(&turned);
                (q.reversed_axes(), Some(scales))
            }
            other => panic!("{other:?} is not needed here"),
        };
        let sums = data.mapv(i32::from).sum_axis(Axis(0));
        Ok(PackedWeights {
            k: data.nrows(),
            n: data.ncols(),
            layout: "naive",
            bytes: data.len(),
            scales: scales.map_or(WeightScales::None, |s: Vec<f32>| {
                WeightScales::PerColumn(s.into())
            }),
            col_sums: sums.to_vec().into(),
            storage: Arc::new(data),
        })
    }

    fn gemm(&self, gemm: &Gemm<'_>, out: OutputMut<'_>) -> Result<()> {
        self.gemms.fetch_add(1, Relaxed);
        gemm.check_output(&out)?;
        let storage = &gemm.weights.storage;
        let w = storage
            .downcast_ref::<Array2<i8>>()
            .expect("packed by this backend");
        let (lhs, rows) = match &gemm.lhs {
            Lhs::Int8(x) => {
                let rows = gemm.epilogue.row_scales;
                (x.to_owned(), (0..x.nrows()).map(|i| rows.at(i)).collect())
            }
            Lhs::Float { data, .. } => by_rows(data),
        };
        let sums = lhs.mapv(i32::from).dot(&w.mapv(i32::from));
        let columns = gemm.weights.epilogue_scales();
        let value = |(m, n): (usize, usize)| sums[[m, n]] as f32 * rows[m] * columns.at(n);
        match out {
            OutputMut::I32(mut out) => out.assign(&sums),
            OutputMut::F32(mut out) => out.assign(&Array2::from_shape_fn(sums.dim(), value)),
            other => panic!("{} is not needed here", other.dtype()),
        }
        Ok(())
    }
}

/// The calls that a product of int8 arrays of these shapes makes: (packs, gemms).
fn calls(lhs: ArrayD<i8>, rhs: ArrayD<i8>) -> (usize, usize) {
    let naive = Naive::default();
    matmul_true_int8_on(&naive, lhs.view(), rhs.view()).unwrap();
    (naive.packs.into_inner(), naive.gemms.into_inner())
}

fn zeros(shape: &[usize]) -> ArrayD<i8> {
    ArrayD::zeros(shape)
}

#[test]
fn a_shared_right_operand_is_one_tall_product() {
    assert_eq!(calls(zeros(&[6, 5, 3, 4]), zeros(&[4, 2])), (1, 1));
    assert_eq!(calls(zeros(&[6, 5, 3, 4]), zeros(&[1, 1, 4, 2])), (1, 1));
    // Not evenly spaced: copied when the matrices are small, else packed once and multiplied one by one.
    let swapped = |m| zeros(&[5, 6, m, 4]).permuted_axes(vec![1, 0, 2, 3]);
    assert_eq!(calls(swapped(3), zeros(&[4, 2])), (1, 1));
    assert_eq!(calls(swapped(100), zeros(&[4, 2])), (1, 30));
}

#[test]
fn a_right_operand_is_packed_once_wherever_it_is_repeated() {
    assert_eq!(calls(zeros(&[6, 5, 3, 4]), zeros(&[5, 4, 2])), (5, 30));
    assert_eq!(calls(zeros(&[6, 5, 3, 4]), zeros(&[6, 1, 4, 2])), (6, 6));
    assert_eq!(calls(zeros(&[3, 4]), zeros(&[5, 4, 2])), (5, 5));
    assert_eq!(calls(zeros(&[0, 3, 4]), zeros(&[4, 2])), (0, 0));
}

#[test]
fn operations_need_only_the_contract() {
    let naive = Arc::new(Naive::default());
    let value = |(i, j): (usize, usize)| ((i * 7 + j * 13) % 17) as f32 - 8.3;
    let (a, w) = (
        Array2::from_shape_fn((5, 9), value),
        Array2::from_shape_fn((9, 4), value),
    );
    let want = q_matmul_int8(a.view(), w.view()).unwrap();
    assert_eq!(
        q_matmul_int8_on(naive.as_ref(), a.view(), w.view()).unwrap(),
        want
    );
    let layer = Int8Linear::from_float_on(naive.clone(), w.t(), None).unwrap();
    assert_eq!(layer.forward(a.view()).unwrap(), want);
    assert_eq!(layer.forward(a.view()).unwrap(), want);
    assert_eq!(
        naive.packs.load(Relaxed),
        2,
        "once for the product, once for the layer"
    );
}

#[test]
fn quantised_products_pack_each_right_operand_once_and_a_frozen_one_once_for_all() {
    let naive = Arc::new(Naive::default());
    let calls = || (naive.packs.load(Relaxed), naive.gemms.load(Relaxed));
    let on = QuantDotGeneral::fully_quantized(8, 8).unwrap().to_builder();
    let dot_general = on.backend(naive.clone()).build().unwrap();
    let ones = |shape: &[usize]| ArrayD::<f32>::ones(shape);
    // The scores of attention: batch and heads side by side.
    let dims = DimensionNumbers {
        lhs_contracting: vec![3],
        rhs_contracting: vec![3],
        lhs_batch: vec![0, 2],
        rhs_batch: vec![0, 2],
    };
    let (q, k) = (ones(&[2, 5, 3, 4]), ones(&[2, 7, 3, 4]));
    let default = Precision::Default;
    let (y, pullback) = dot_general.vjp(q.view(), k.view(), &dims, default).unwrap();
    assert_eq!(calls(), (6, 6));
    pullback.backward(y.view()).unwrap();
    assert_eq!(calls(), (18, 18));
    let frozen = dot_general.freeze_rhs(k.view(), &dims).unwrap();
    for _ in 0..2 {
        let served = dot_general.dot_general_frozen_rhs(q.view(), &frozen, &dims);
        assert_eq!(served.unwrap(), y);
    }
    assert_eq!(calls(), (24, 30));
}
