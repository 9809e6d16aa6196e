//! Products by the definition, over labelled axes: plain loops that know nothing of the crate.

use imma::ops::DimensionNumbers;
use ndarray::ArrayD;
use proptest::prelude::*;

/// How an operand is quantised: the bound is the largest magnitude when it is `None`.
#[derive(Debug, Clone, Copy)]
pub struct Quant {
    pub bits: u8,
    pub bound: Option<f32>,
    pub clipping: f32,
    pub power_of_two: bool,
}

impl Quant {
    pub fn absmax(bits: u8) -> Self {
        Quant {
            bits,
            bound: None,
            clipping: 1.0,
            power_of_two: false,
        }
    }
}

/// Numbers in -1..1 with a few larger ones, from a generator of its own.
pub fn numbers(shape: &[usize], seed: u64) -> ArrayD<f32> {
    let mut state = seed.wrapping_mul(0x5851_F42D_4C95_7F2D) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    };
    for _ in 0..20 {
        next();
    }
    ArrayD::from_shape_simple_fn(shape, next)
}

/// Each index of an array of this shape, in row-major order.
fn indices(shape: &[usize]) -> Vec<Vec<usize>> {
    let mut all = vec![vec![]];
    for &len in shape {
        all = all
            .into_iter()
            .flat_map(|at| (0..len).map(move |i| [&at[..], &[i]].concat()))
            .collect();
    }
    all
}

/// Integers (as floats) and steps, with length 1 along the axes that share one.
pub fn quantize(x: &ArrayD<f32>, shared: &[usize], quant: Quant) -> (ArrayD<f32>, ArrayD<f32>) {
    let edge = 2f32.powi(quant.bits as i32 - 1) - 0.5;
    let mut kept = x.shape().to_vec();
    shared.iter().for_each(|&axis| kept[axis] = 1);
    let place = |at: &[usize]| -> Vec<usize> {
        (0..at.len())
            .map(|a| if shared.contains(&a) { 0 } else { at[a] })
            .collect()
    };
    let mut bound = ArrayD::from_elem(&kept[..], quant.bound.unwrap_or(0.0));
    if quant.bound.is_none() {
        for at in indices(x.shape()) {
            let b = &mut bound[&place(&at)[..]];
            *b = b.max(x[&at[..]].abs());
        }
    }
    let multiplier = bound.mapv(|b| {
        let b = if b == 0.0 { 1.0 } else { b * quant.clipping };
        let m = edge / b;
        if quant.power_of_two {
            let mut power = 1f32;
            while power > m {
                power /= 2.0;
            }
            while power * 2.0 <= m {
                power *= 2.0;
            }
            power
        } else {
            m
        }
    });
    let mut q = x.clone();
    for at in indices(x.shape()) {
        let scaled = x[&at[..]] * multiplier[&place(&at)[..]];
        q[&at[..]] = scaled.clamp(-(edge - 0.5), edge - 0.5).round_ties_even();
    }
    (q, multiplier.mapv(|m| 1.0 / m))
}

/// One operand: a letter an axis, the numbers, how they are quantised.
type Operand<'a> = (&'a [char], &'a ArrayD<f32>, Option<Quant>);

/// The product whose result has the axes `out`: letters that it has not are summed over.
///
/// `f32(sum) * left step * right step`, with the sum in f64: exact for integers of this size.
pub fn product(a: Operand<'_>, b: Operand<'_>, out: &[char]) -> ArrayD<f32> {
    let length = |l: &char| {
        let of = |o: &Operand<'_>| {
            o.0.iter()
                .position(|x| x == l)
                .map(|axis| o.1.shape()[axis])
        };
        of(&a).or(of(&b)).expect("a letter of an operand")
    };
    let prepared = |o: &Operand<'_>| {
        let shared: Vec<usize> = (0..o.0.len()).filter(|&i| !out.contains(&o.0[i])).collect();
        match o.2 {
            None => (o.1.clone(), ArrayD::ones(vec![1; o.0.len()])),
            Some(quant) => quantize(o.1, &shared, quant),
        }
    };
    let (x, y) = (prepared(&a), prepared(&b));
    let mut letters = out.to_vec();
    let summed = a.0.iter().chain(b.0).filter(|l| !out.contains(l));
    for l in summed {
        if !letters.contains(l) {
            letters.push(*l);
        }
    }
    let at = |of: &[char], index: &[usize]| -> Vec<usize> {
        let place = |l: &char| letters.iter().position(|x| x == l).expect("listed");
        of.iter()
            .map(|l| index.get(place(l)).copied().unwrap_or(0))
            .collect()
    };
    let clamp = |at: Vec<usize>, shape: &[usize]| -> Vec<usize> {
        at.into_iter()
            .zip(shape)
            .map(|(i, n)| if *n == 1 { 0 } else { i })
            .collect()
    };
    let result: Vec<usize> = out.iter().map(length).collect();
    let inner: Vec<usize> = letters[out.len()..].iter().map(length).collect();
    let inner = indices(&inner);
    let values = indices(&result).into_iter().map(|place| {
        let sum: f64 = inner
            .iter()
            .map(|rest| {
                let index = [&place[..], rest].concat();
                f64::from(x.0[&at(a.0, &index)[..]]) * f64::from(y.0[&at(b.0, &index)[..]])
            })
            .sum();
        let step =
            |steps: &ArrayD<f32>, of: &[char]| steps[&clamp(at(of, &place), steps.shape())[..]];
        let mut value = sum as f32;
        if a.2.is_some() {
            value *= step(&x.1, a.0);
        }
        if b.2.is_some() {
            value *= step(&y.1, b.0);
        }
        value
    });
    ArrayD::from_shape_vec(result.clone(), values.collect()).expect("as many elements")
}

/// Two operands with letters for their axes, and the result's in `dot_general`'s order.
#[derive(Debug, Clone)]
pub struct Case {
    pub a: ArrayD<f32>,
    pub b: ArrayD<f32>,
    pub a_labels: Vec<char>,
    pub b_labels: Vec<char>,
    pub out_labels: Vec<char>,
    /// Contracted letters, in the order of the dimension numbers.
    contracted: Vec<char>,
    batch: Vec<char>,
}

impl Case {
    /// Up to two axes of each kind, of lengths 0 to 4, in any order, the operands in any memory order.
    pub fn any() -> impl Strategy<Value = Case> {
        let kinds = prop::array::uniform4(0usize..=2);
        let lengths = prop::collection::vec(prop_oneof![1 => 0usize..=0, 30 => 1usize..=4], 8);
        (kinds, lengths, any::<u64>())
            .prop_map(|(kinds, lengths, seed)| Case::new(kinds, &lengths, seed))
    }

    fn new([batch, contracted, left, right]: [usize; 4], lengths: &[usize], seed: u64) -> Case {
        let letters: Vec<char> = ('a'..='h').collect();
        let length = |l: &char| lengths[*l as usize - 'a' as usize];
        let (batch, contracted) = (&letters[..batch], &letters[2..2 + contracted]);
        let (left, right) = (&letters[4..4 + left], &letters[6..6 + right]);
        let mut rng = seed;
        let a_labels = shuffle([batch, contracted, left].concat(), &mut rng);
        let b_labels = shuffle([batch, contracted, right].concat(), &mut rng);
        let batch = shuffle(batch.to_vec(), &mut rng);
        let contracted = shuffle(contracted.to_vec(), &mut rng);
        let array = |labels: &[char], rng: &mut u64| {
            // Made with the axes in another order, so that strides are not those of a row-major array.
            let memory = shuffle((0..labels.len()).collect(), rng);
            let shape: Vec<usize> = memory.iter().map(|&axis| length(&labels[axis])).collect();
            let mut back = vec![0; memory.len()];
            memory
                .iter()
                .enumerate()
                .for_each(|(i, &axis)| back[axis] = i);
            numbers(&shape, *rng).permuted_axes(back)
        };
        let (a, b) = (array(&a_labels, &mut rng), array(&b_labels, &mut rng));
        let free = |labels: &[char]| {
            let free = labels
                .iter()
                .filter(|l| !batch.contains(l) && !contracted.contains(l));
            free.copied().collect::<Vec<_>>()
        };
        let out_labels = [&batch[..], &free(&a_labels), &free(&b_labels)].concat();
        Case {
            a,
            b,
            a_labels,
            b_labels,
            out_labels,
            contracted,
            batch,
        }
    }

    pub fn dims(&self) -> DimensionNumbers {
        let places = |of: &[char], letters: &[char]| {
            let place = |l: &char| of.iter().position(|x| x == l).expect("a letter of both");
            letters.iter().map(place).collect()
        };
        DimensionNumbers {
            lhs_contracting: places(&self.a_labels, &self.contracted),
            rhs_contracting: places(&self.b_labels, &self.contracted),
            lhs_batch: places(&self.a_labels, &self.batch),
            rhs_batch: places(&self.b_labels, &self.batch),
        }
    }

    pub fn out_shape(&self) -> Vec<usize> {
        let shape = self.dims().output_shape(self.a.shape(), self.b.shape());
        shape.expect("made to fit")
    }

    /// The same with the result's axes in another order.
    pub fn shuffled(&self, mut seed: u64) -> Case {
        Case {
            out_labels: shuffle(self.out_labels.clone(), &mut seed),
            ..self.clone()
        }
    }

    /// The first contracted axis repeated, so that its length can be divided.
    pub fn lengthened(&self, times: usize) -> Case {
        let dims = self.dims();
        let longer = |x: &ArrayD<f32>, axis: usize| {
            let mut shape = x.shape().to_vec();
            shape[axis] *= times;
            numbers(&shape, x.len() as u64 + 11)
        };
        Case {
            a: longer(&self.a, dims.lhs_contracting[0]),
            b: longer(&self.b, dims.rhs_contracting[0]),
            ..self.clone()
        }
    }
}

fn shuffle<T>(mut items: Vec<T>, seed: &mut u64) -> Vec<T> {
    for i in (1..items.len()).rev() {
        *seed = seed
            .wrapping_mul(0x5851_F42D_4C95_7F2D)
            .wrapping_add(0x1405_7B7E_F767_814F);
        items.swap(i, (*seed >> 33) as usize % (i + 1));
    }
    items
}
