//! Which elements of an array share a scale, for any set of shared axes.

/// A row-major array cut into runs that are uniform in how they meet their scales.
///
/// Neighbouring axes that are both shared, or both not, count as one; the last such group is a *run*. Scales are in
/// row-major order of the axes that are not shared.
///
/// ```text
///   shared last    [ run of one scale ][ run of one scale ] ..      kept last   [s0 s1 s2 s3][s0 s1 s2 s3] ..
///                    offsets[0]          offsets[1]                  offsets[i] is where a run's scales start
/// ```
pub(super) struct Slices {
    /// Elements per run.
    pub run: usize,
    /// Whether the elements of a run share one scale; otherwise each has its own, in order.
    pub shared: bool,
    /// The first scale of each run.
    pub offsets: Vec<usize>,
    /// Number of scales.
    pub count: usize,
}

impl Slices {
    /// The slices of an array without empty axes; `shared[i]` says whether the elements along axis `i` share a scale.
    pub fn new(shape: &[usize], shared: &[bool]) -> Self {
        let mut first = shape.len();
        let (mut run, mut kind) = (1, None);
        while let Some(axis) = first.checked_sub(1) {
            if shape[axis] > 1 {
                if kind.is_some_and(|kind| kind != shared[axis]) {
                    break;
                }
                kind = Some(shared[axis]);
                run *= shape[axis];
            }
            first = axis;
        }
        let within = kind.unwrap_or(true);
        let mut offsets = vec![0];
        for (&len, &shared) in shape[..first].iter().zip(shared) {
            offsets = offsets
                .into_iter()
                .flat_map(|o| (0..len).map(move |i| if shared { o } else { o * len + i }))
                .collect();
        }
        let scales_a_run = if within { 1 } else { run };
        offsets.iter_mut().for_each(|o| *o *= scales_a_run);
        let kept = shape.iter().zip(shared).filter(|(_, shared)| !**shared);
        Slices {
            run,
            shared: within,
            offsets,
            count: kept.map(|(len, _)| len).product(),
        }
    }

    /// Elements per scale.
    pub fn elements(&self) -> usize {
        self.offsets.len() * self.run / self.count
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_element_finds_its_scale() {
        let shapes: [&[usize]; 5] = [&[2, 3, 4], &[1, 3, 1, 2], &[4], &[], &[2, 1, 3]];
        for shape in shapes {
            for mask in 0..1u32 << shape.len() {
                let shared: Vec<bool> = (0..shape.len()).map(|a| mask >> a & 1 == 1).collect();
                let slices = Slices::new(shape, &shared);
                for at in 0..shape.iter().product::<usize>() {
                    let (mut want, mut rest, mut stride) = (0, at, 1);
                    for axis in (0..shape.len()).rev() {
                        if !shared[axis] {
                            want += rest % shape[axis] * stride;
                            stride *= shape[axis];
                        }
                        rest /= shape[axis];
                    }
                    let within = if slices.shared { 0 } else { at % slices.run };
                    let got = slices.offsets[at / slices.run] + within;
                    assert_eq!(got, want, "{shape:?} {shared:?} {at}");
                }
                let elements = shape.iter().product::<usize>();
                assert_eq!(slices.count * slices.elements(), elements);
            }
        }
    }
}
