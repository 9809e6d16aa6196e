//! A program of somebody who depends on the published crate with the feature `cuda`: `packaged.sh` builds and runs it.

use imma::cuda::Device;
use imma::{Backend, Cpu};
use ndarray::Array2;

fn main() -> imma::Result<()> {
    let names: Vec<_> = imma::cuda::images().iter().map(|image| image.name).collect();
    let device = Device::open(0)?;
    println!("{} images on {}", names.len(), device.properties().name);
    // No multiple of any tile, and one token as well as many.
    for (m, k, n) in [(70, 200, 131), (1, 64, 40)] {
        let wave = |rows, columns, step: f32| {
            Array2::from_shape_fn((rows, columns), |(i, j)| {
                ((i * columns + j) as f32 * step).sin()
            })
        };
        let (a, w) = (wave(m, k, 0.37), wave(k, n, 0.71));
        let found = imma::ops::q_matmul_int8_on(&*device, a.view(), w.view())?;
        let want = imma::ops::q_matmul_int8_on(&Cpu::new(), a.view(), w.view())?;
        let bits = |x: &Array2<f32>| x.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
        assert_eq!(bits(&found), bits(&want), "{m} x {k} x {n}");
        assert!(want.iter().any(|x| *x != 0.0));
        println!("{m} x {k} x {n}: the bits of the CPU, on {}", Backend::name(&*device));
    }
    let launches = device.launches();
    let launched: Vec<_> = launches.iter().filter(|(_, times)| *times > 0).collect();
    assert!(launched.iter().any(|(name, _)| name.starts_with("igemm_")), "{launched:?}");
    println!("launched: {launched:?}");
    Ok(())
}
