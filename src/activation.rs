//! Activations of the epilogue: one polynomial each, with explicit fused multiply-adds, so that every
//! backend gives the same bits.
//!
//! Relative error of `exp` and absolute error of `erf` stay near one unit in the last place of f32 (the
//! tests measure them against f64). The minimax coefficients are the well-known ones of N. Juffa's
//! single-precision `expf` and `erff`.

/// What is applied to a product after its bias.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash)]
#[non_exhaustive]
pub enum Activation {
    /// Nothing.
    #[default]
    None,
    /// `max(x, 0)`; NaN stays NaN.
    Relu,
    /// `x / (1 + exp(-x))`, also called swish.
    Silu,
    /// `x/2 * (1 + erf(x / sqrt 2))`.
    Gelu,
    /// `x / (1 + exp(-2u))` with `u = sqrt(2/pi) (x + 0.044715 x^3)`: GELU's tanh form.
    GeluTanh,
}

impl Activation {
    /// Applies it to one value.
    #[inline(always)]
    pub fn apply(self, x: f32) -> f32 {
        match self {
            Activation::None => x,
            Activation::Relu => relu(x),
            Activation::Silu => silu(x),
            Activation::Gelu => gelu(x),
            Activation::GeluTanh => gelu_tanh(x),
        }
    }

    /// Applies it to a row in place.
    #[inline(always)]
    pub(crate) fn apply_row(self, row: &mut [f32]) {
        match self {
            Activation::None => {}
            Activation::Relu => row.iter_mut().for_each(|x| *x = relu(*x)),
            Activation::Silu => row.iter_mut().for_each(|x| *x = silu(*x)),
            Activation::Gelu => row.iter_mut().for_each(|x| *x = gelu(*x)),
            Activation::GeluTanh => row.iter_mut().for_each(|x| *x = gelu_tanh(*x)),
        }
    }
}

#[inline(always)]
fn relu(x: f32) -> f32 {
    // Written so that NaN fails the comparison and stays.
    if x < 0.0 {
        0.0
    } else {
        x
    }
}

#[inline(always)]
fn silu(x: f32) -> f32 {
    x / (1.0 + exp(-x))
}

#[inline(always)]
fn gelu(x: f32) -> f32 {
    (0.5 * x) * (1.0 + erf(x * std::f32::consts::FRAC_1_SQRT_2))
}

#[inline(always)]
#[allow(clippy::excessive_precision)]
fn gelu_tanh(x: f32) -> f32 {
    let cube = (x * x) * x;
    let u = f32::mul_add(0.044_715, cube, x);
    x / (1.0 + exp(-1.595_769_1 * u))
}

/// e^x. Overflows to infinity above 88.72, underflows through subnormals to 0.
#[inline(always)]
#[allow(clippy::excessive_precision)]
pub(crate) fn exp(x: f32) -> f32 {
    // Comparisons in this form keep NaN.
    let x = if x > 89.0 { 89.0 } else { x };
    let x = if x < -104.0 { -104.0 } else { x };
    // x = n ln 2 + f with |f| <= ln 2 / 2; adding 1.5 * 2^23 rounds to the integer n.
    const MAGIC: f32 = 12_582_912.0;
    let shifted = f32::mul_add(x, std::f32::consts::LOG2_E, MAGIC);
    let n = shifted - MAGIC;
    let f = f32::mul_add(n, -6.931_457_52e-1, x);
    let f = f32::mul_add(n, -1.428_606_77e-6, f);
    let mut p = 1.378_059_39e-3;
    for c in [
        8.373_124_52e-3,
        4.166_953_64e-2,
        1.666_647_20e-1,
        4.999_998_51e-1,
        1.0,
        1.0,
    ] {
        p = f32::mul_add(p, f, c);
    }
    // 2^n in two factors, each a normal number.
    let i = shifted.to_bits() as i32 - MAGIC.to_bits() as i32;
    let half = i >> 1;
    let power = |e: i32| f32::from_bits(((e.wrapping_add(127)) as u32) << 23);
    (p * power(half)) * power(i.wrapping_sub(half))
}

/// The error function.
#[inline(always)]
#[allow(clippy::excessive_precision)]
pub(crate) fn erf(x: f32) -> f32 {
    let t = x.abs();
    let s = x * x;
    let mut far = f32::mul_add(-1.728_534_70e-5, t, 3.831_971_26e-4);
    let u = f32::mul_add(-3.883_964_38e-3, t, 2.425_462_19e-2);
    far = f32::mul_add(far, s, u);
    far = f32::mul_add(far, t, -1.067_778_77e-1);
    far = f32::mul_add(far, t, -6.348_466_87e-1);
    far = f32::mul_add(far, t, -1.287_175_12e-1);
    far = f32::mul_add(far, t, -t);
    // Beyond 4 the polynomial is outside its range; erf is 1 to f32's precision.
    let far = if t > 4.0 { 1.0 } else { 1.0 - exp(far) };
    let far = far.copysign(x);
    let mut near = -5.967_617_03e-4;
    for c in [
        4.991_194_23e-3,
        -2.676_813_49e-2,
        1.128_199_25e-1,
        -3.761_253_36e-1,
        1.283_791_66e-1,
    ] {
        near = f32::mul_add(near, s, c);
    }
    let near = f32::mul_add(near, x, x);
    if t > 0.927_734_375 {
        far
    } else {
        near
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// erf in f64, by its Taylor series (|x| < 3) or continued fraction.
    fn erf64(x: f64) -> f64 {
        let a = x.abs();
        if a < 3.0 {
            let (mut term, mut sum, mut n) = (a, a, 0.0);
            while term.abs() > 1e-18 {
                n += 1.0;
                term *= -a * a / n;
                sum += term / (2.0 * n + 1.0);
            }
            (sum * 2.0 / std::f64::consts::PI.sqrt()).copysign(x)
        } else {
            let mut f = 0.0;
            for k in (1..200).rev() {
                f = f64::from(k) / 2.0 / (a + f);
            }
            (1.0 - (-a * a).exp() / (a + f) / std::f64::consts::PI.sqrt()).copysign(x)
        }
    }

    fn samples() -> impl Iterator<Item = f32> {
        (-120_000..=120_000).map(|i| i as f32 * 1e-3)
    }

    #[test]
    fn exp_is_within_two_ulp() {
        for x in samples().filter(|x| (-87.0..88.0).contains(x)) {
            let want = f64::from(x).exp();
            let error = (f64::from(exp(x)) - want).abs() / want;
            assert!(error < 2.0 * f64::from(f32::EPSILON), "{x}: {error:e}");
        }
        assert_eq!(exp(-200.0), 0.0);
        assert_eq!(exp(f32::NEG_INFINITY), 0.0);
        assert_eq!(exp(200.0), f32::INFINITY);
        assert!(exp(f32::NAN).is_nan());
    }

    #[test]
    fn activations_are_close_to_f64() {
        for x in samples() {
            let d = f64::from(x);
            let silu64 = d / (1.0 + (-d).exp());
            let gelu64 = 0.5 * d * (1.0 + erf64(d / 2f64.sqrt()));
            let u = (2.0 / std::f64::consts::PI).sqrt() * (d + 0.044715 * d * d * d);
            let tanh64 = 0.5 * d * (1.0 + u.tanh());
            for (name, got, want) in [
                ("silu", silu(x), silu64),
                ("gelu", gelu(x), gelu64),
                ("gelu_tanh", gelu_tanh(x), tanh64),
            ] {
                let error = (f64::from(got) - want).abs();
                assert!(
                    error <= 3e-7 * d.abs().max(1e-3),
                    "{name}({x}) = {got:e}, want {want:e}"
                );
            }
        }
    }

    #[test]
    fn nan_stays_nan_and_zero_stays_zero() {
        for a in [
            Activation::None,
            Activation::Relu,
            Activation::Silu,
            Activation::Gelu,
            Activation::GeluTanh,
        ] {
            assert!(a.apply(f32::NAN).is_nan(), "{a:?}");
            assert_eq!(a.apply(0.0), 0.0, "{a:?}");
            assert_eq!(a.apply(1e30), 1e30, "{a:?}");
        }
        assert_eq!(Activation::Relu.apply(-3.0), 0.0);
    }
}
