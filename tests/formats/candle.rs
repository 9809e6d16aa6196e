//! The candle module: the bits of the crate's own layer, close to candle's float one, and models with layers swapped.

use candle_core::{DType, Device, Tensor, Var};
use candle_nn::{Linear, Module};
use half::{bf16, f16};
use imma::activation::Activation;
use imma::candle::{swap_linears, swap_linears_with, Int8Linear, LinearLayer};
use imma::Element;
use ndarray::{Array1, Array2, ArrayD, IxDyn};

/// Numbers in -1..1 that look like no pattern.
fn noise(len: usize, seed: u32) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9) | 1;
    let next = |_| {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state as f32 / u32::MAX as f32 * 2.0 - 1.0
    };
    (0..len).map(next).collect()
}

fn typed<T: Element>(values: &[f32]) -> Vec<T> {
    values.iter().map(|x| T::from_f32(*x)).collect()
}

fn bits<T: Element>(values: &[T]) -> Vec<u32> {
    values.iter().map(|x| x.to_f32().to_bits()).collect()
}

fn flat<T: candle_core::WithDType>(x: &Tensor) -> Vec<T> {
    x.flatten_all().unwrap().to_vec1().unwrap()
}

fn tensor<T: candle_core::WithDType>(values: Vec<T>, shape: &[usize]) -> Tensor {
    Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
}

fn linear(n: usize, k: usize, seed: u32) -> Linear {
    let weight = tensor(noise(n * k, seed), &[n, k]);
    Linear::new(weight, Some(tensor(noise(n, seed + 1), &[n])))
}

fn message<T: std::fmt::Debug>(result: candle_core::Result<T>) -> String {
    result.expect_err("an error").to_string()
}

fn same_bits<T: Element + candle_core::WithDType>(lead: &[usize], n: usize, k: usize) {
    let weight = Array2::from_shape_vec((n, k), typed::<T>(&noise(n * k, 1))).unwrap();
    let bias = Array1::from(typed::<T>(&noise(n, 2)));
    let ours = imma::Int8Linear::from_float(weight.view(), Some(bias.view())).unwrap();
    let stored = Linear::new(
        tensor(weight.iter().copied().collect(), &[n, k]),
        Some(tensor(bias.to_vec(), &[n])),
    );
    let layer = Int8Linear::from_linear(&stored).unwrap();
    assert_eq!((layer.inputs(), layer.outputs()), (k, n));

    let shape = [lead, &[k]].concat();
    let x = typed::<T>(&noise(shape.iter().product(), 3));
    // Our layer sees the rows alone.
    let rows = Array2::from_shape_vec((x.len() / k.max(1), k), x.clone()).unwrap();
    let expected = ours.forward(rows.view()).unwrap();
    let y = layer.forward(&tensor(x, &shape)).unwrap();
    assert_eq!(y.dims(), [lead, &[n]].concat());
    assert_eq!(y.dtype(), <T as candle_core::WithDType>::DTYPE);
    let expected: Vec<T> = expected.iter().copied().collect();
    assert_eq!(bits(&flat::<T>(&y)), bits(&expected), "{lead:?} {n} {k}");
}

#[test]
fn the_bits_are_those_of_our_layer_for_every_type_and_rank() {
    for lead in [&[][..], &[1], &[7], &[2, 3], &[2, 1, 3, 2], &[0], &[3, 0]] {
        for (n, k) in [(5, 3), (33, 70), (64, 64), (1, 1)] {
            same_bits::<f32>(lead, n, k);
            same_bits::<f16>(lead, n, k);
            same_bits::<bf16>(lead, n, k);
        }
    }
}

#[test]
fn tensors_of_any_strides_give_what_their_copies_give() {
    let layer = Int8Linear::from_linear(&linear(6, 8, 1)).unwrap();
    let base = tensor(noise(9 * 8 * 10, 5), &[9, 8, 10]);
    let views = [
        ("transposed", base.transpose(1, 2).unwrap()),
        ("permuted", base.permute((2, 0, 1)).unwrap()),
        ("narrowed", base.narrow(2, 1, 8).unwrap()),
        (
            "narrowed twice",
            base.narrow(0, 3, 4).unwrap().narrow(2, 2, 8).unwrap(),
        ),
        (
            "a row for all",
            base.get(0)
                .unwrap()
                .narrow(1, 0, 8)
                .unwrap()
                .get(3)
                .unwrap()
                .broadcast_as((4, 5, 8))
                .unwrap(),
        ),
        (
            "an element for all",
            base.narrow(2, 7, 1)
                .unwrap()
                .broadcast_as((9, 8, 8))
                .unwrap(),
        ),
    ];
    for (name, x) in views {
        let copied = layer.forward(&x.contiguous().unwrap()).unwrap();
        let y = layer.forward(&x).unwrap();
        assert_eq!(y.dims(), copied.dims(), "{name}");
        assert_eq!(
            bits(&flat::<f32>(&y)),
            bits(&flat::<f32>(&copied)),
            "{name}"
        );
    }
    // And so do weights.
    let weight = tensor(noise(8 * 6, 1), &[8, 6]);
    let turned = Int8Linear::from_linear(&Linear::new(weight.t().unwrap(), None)).unwrap();
    let copied = weight.t().unwrap().contiguous().unwrap();
    let copied = Int8Linear::from_linear(&Linear::new(copied, None)).unwrap();
    let x = tensor(noise(24, 9), &[3, 8]);
    let run = |layer: &Int8Linear| bits(&flat::<f32>(&layer.forward(&x).unwrap()));
    assert_eq!(run(&turned), run(&copied));
}

/// `|int8 - float|` of the norm of float.
fn distance(int8: &Tensor, float: &Tensor) -> f32 {
    let norm = |x: Tensor| x.sqr().unwrap().sum_all().unwrap().sqrt().unwrap();
    let off = norm((int8 - float).unwrap());
    let ratio = (off / norm(float.clone())).unwrap();
    ratio.to_scalar().unwrap()
}

#[test]
fn it_is_close_to_candles_own_layer() {
    for dims in [&[40, 256][..], &[2, 20, 256], &[2, 2, 10, 256]] {
        let float = linear(96, 256, 4);
        let x = tensor(noise(40 * 256, 7), dims);
        let expected = float.forward(&x).unwrap();
        let y = Int8Linear::from_linear(&float)
            .unwrap()
            .forward(&x)
            .unwrap();
        assert_eq!(y.dims(), expected.dims());
        // Half a step of 1/127 of each operand, uniform: sqrt(2) * 0.0039 / sqrt(3) / rms(0.58) is 0.0055.
        let off = distance(&y, &expected);
        assert!(off > 0.0 && off < 0.01, "{off}");
    }
}

#[test]
fn int8_weights_and_finished_layers_are_taken_as_they_are() {
    let (n, k) = (9, 20);
    let weight = Array2::from_shape_fn((n, k), |(j, i)| ((j * 37 + i * 11) % 256) as u8 as i8);
    let scales: Vec<f32> = (0..n).map(|j| 0.01 * (j + 1) as f32).collect();
    let bias = Array1::from(noise(n, 8));
    let x = noise(4 * k, 9);
    let rows = Array2::from_shape_vec((4, k), x.clone()).unwrap();
    let x = tensor(x, &[4, k]);

    let ours = imma::Int8Linear::from_int8(weight.view(), &scales, Some(bias.view())).unwrap();
    let layer =
        Int8Linear::from_int8(weight.view(), &scales, Some(bias.view()), &Device::Cpu).unwrap();
    let expected: Vec<f32> = ours
        .forward(rows.view())
        .unwrap()
        .into_raw_vec_and_offset()
        .0;
    assert_eq!(
        bits(&flat::<f32>(&layer.forward(&x).unwrap())),
        bits(&expected)
    );

    let ours = ours.with_activation(Activation::Relu);
    let expected: Vec<f32> = ours
        .forward(rows.view())
        .unwrap()
        .into_raw_vec_and_offset()
        .0;
    let layer = Int8Linear::from(ours);
    assert!(expected.contains(&0.0) && expected.iter().any(|y| *y > 0.0));
    assert_eq!(
        bits(&flat::<f32>(&layer.forward(&x).unwrap())),
        bits(&expected)
    );
    // A clone shares the weights.
    assert_eq!(
        bits(&flat::<f32>(&layer.clone().forward(&x).unwrap())),
        bits(&expected)
    );
}

struct Mlp {
    up: LinearLayer,
    down: LinearLayer,
}

impl Mlp {
    fn new() -> Self {
        Mlp {
            up: linear(64, 32, 11).into(),
            down: linear(16, 64, 13).into(),
        }
    }

    fn forward(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        self.down.forward(&self.up.forward(x)?.relu()?)
    }

    fn linears(&mut self) -> [(String, &mut LinearLayer); 2] {
        [
            ("mlp.up".into(), &mut self.up),
            ("mlp.down".into(), &mut self.down),
        ]
    }
}

#[test]
fn a_models_layers_are_swapped_by_name() {
    let x = tensor(noise(6 * 32, 21), &[2, 3, 32]);
    let float = Mlp::new().forward(&x).unwrap();
    let mut model = Mlp::new();
    assert!(swap_linears(model.linears(), |_| false).unwrap().is_empty());
    assert_eq!(distance(&model.forward(&x).unwrap(), &float), 0.0);

    let swapped = swap_linears(model.linears(), |name| name.ends_with("up")).unwrap();
    assert_eq!(swapped, ["mlp.up"]);
    assert!(model.up.as_int8().is_some() && model.up.as_float().is_none());
    assert!(model.down.as_float().is_some() && model.down.as_int8().is_none());
    // Exactly the model whose first layer is that int8 layer.
    let hidden = Int8Linear::from_linear(&linear(64, 32, 11))
        .unwrap()
        .forward(&x)
        .unwrap();
    let expected = linear(16, 64, 13).forward(&hidden.relu().unwrap()).unwrap();
    let one = model.forward(&x).unwrap();
    assert_eq!(bits(&flat::<f32>(&one)), bits(&flat::<f32>(&expected)));

    // What is int8 already stays.
    let swapped = swap_linears(model.linears(), |_| true).unwrap();
    assert_eq!(swapped, ["mlp.down"]);
    let both = model.forward(&x).unwrap();
    assert_ne!(bits(&flat::<f32>(&both)), bits(&flat::<f32>(&one)));
    let off = distance(&both, &float);
    assert!(off > 0.0 && off < 0.02, "{off}");
}

#[test]
fn a_swap_that_fails_leaves_the_model_as_it_was() {
    let mut model = Mlp::new();
    let small = Array2::<i8>::ones((16, 63));
    let refused = swap_linears_with(model.linears(), |name, layer| match name {
        "mlp.up" => Int8Linear::from_linear(layer.as_float().unwrap()).map(Some),
        _ => Int8Linear::from_int8(small.view(), &[1.0], None, &Device::Cpu).map(Some),
    });
    let message = message(refused);
    for part in ["mlp.down", "(16, 63)", "(16, 64)"] {
        assert!(message.contains(part), "{message}");
    }
    assert!(model.up.as_float().is_some() && model.down.as_float().is_some());
}

#[test]
fn bad_input_gets_one_clear_error() {
    let layer = Int8Linear::from_linear(&linear(4, 8, 1)).unwrap();
    let zeros = |shape: &[usize], dtype| Tensor::zeros(shape, dtype, &Device::Cpu).unwrap();
    for (x, parts) in [
        (zeros(&[2, 7], DType::F32), ["[2, 7]", "[.., 8]"]),
        (zeros(&[8, 2], DType::F32), ["[8, 2]", "[.., 8]"]),
        (zeros(&[], DType::F32), ["[]", "[.., 8]"]),
        (zeros(&[2, 8], DType::F64), ["f64", "f32, f16 or bf16"]),
        (zeros(&[2, 8], DType::U8), ["u8", "f32, f16 or bf16"]),
    ] {
        let message = message(layer.forward(&x));
        for part in parts {
            assert!(message.contains(part), "{message}");
        }
    }
    let from = |weight, bias| message(Int8Linear::from_linear(&Linear::new(weight, bias)));
    let found = from(zeros(&[2, 8], DType::F64), None);
    assert!(found.contains("f64"), "{found}");
    let found = from(zeros(&[8], DType::F32), None);
    assert!(found.contains("[8]"), "{found}");
    let found = from(zeros(&[4, 8], DType::F32), Some(zeros(&[3], DType::F32)));
    assert!(found.contains("bias has 3 elements, expected 4"), "{found}");
    let found = from(zeros(&[1, 131_072], DType::F32), None);
    assert!(
        found.contains("131072") && found.contains("131071"),
        "{found}"
    );
    let ones = Array2::<i8>::ones((2, 3));
    let found = message(Int8Linear::from_int8(
        ones.view(),
        &[f32::NAN],
        None,
        &Device::Cpu,
    ));
    assert!(found.contains("NaN"), "{found}");
}

#[test]
fn there_is_no_gradient_and_asking_for_one_is_an_error() {
    let layer = Int8Linear::from_linear(&linear(4, 8, 1)).unwrap();
    let x = Var::from_tensor(&tensor(noise(16, 3), &[2, 8])).unwrap();
    let loss = layer.forward(x.as_tensor()).unwrap().sum_all().unwrap();
    let found = message(loss.backward());
    assert!(found.contains("imma Int8Linear"), "{found}");
}

#[test]
fn not_a_number_shows_in_its_row_alone() {
    let layer = Int8Linear::from_linear(&linear(4, 8, 1)).unwrap();
    let mut x = noise(24, 3);
    x[11] = f32::NAN;
    let rows = ArrayD::from_shape_vec(
        IxDyn(&[3, 4]),
        flat::<f32>(&layer.forward(&tensor(x, &[3, 8])).unwrap()),
    );
    for ((row, y), nan) in rows
        .unwrap()
        .rows()
        .into_iter()
        .enumerate()
        .zip([false, true, false])
    {
        assert!(y.iter().all(|y| y.is_nan() == nan), "row {row}: {y}");
    }
}

#[cfg(feature = "safetensors")]
mod checkpoints {
    use super::*;
    use candle_nn::VarBuilder;
    use imma::checkpoint::Checkpoint;

    fn open(name: &str) -> (Checkpoint, String) {
        let dir = format!(
            "{}/tests/data/checkpoints/{name}",
            env!("CARGO_MANIFEST_DIR")
        );
        (Checkpoint::open(&dir).unwrap(), dir)
    }

    #[test]
    fn layers_of_checkpoints_are_the_ones_that_we_read() {
        for name in ["ct_dynamic", "ct_static", "ct_asymmetric", "bnb", "floats"] {
            let (file, _) = open(name);
            let ours = file.linear("up").unwrap();
            let k = ours.inputs();
            let x = noise(5 * k, 17);
            let rows = Array2::from_shape_vec((5, k), x.clone()).unwrap();
            let expected = ours
                .forward(rows.view())
                .unwrap()
                .into_raw_vec_and_offset()
                .0;
            let layer = Int8Linear::from_checkpoint(&file, "up", &Device::Cpu).unwrap();
            let y = flat::<f32>(&layer.forward(&tensor(x, &[5, k])).unwrap());
            assert_eq!(bits(&y), bits(&expected), "{name}");
        }
        let (file, _) = open("ct_dynamic");
        let found = message(Int8Linear::from_checkpoint(&file, "no.such", &Device::Cpu));
        assert!(found.contains("no.such"), "{found}");
    }

    #[test]
    fn a_builder_gives_int8_where_the_checkpoint_is_int8_and_floats_elsewhere() {
        let (file, dir) = open("ct_dynamic");
        let files = [format!("{dir}/model.safetensors")];
        // SAFETY: nobody writes to the file while it is mapped.
        let vb = unsafe {
            VarBuilder::from_mmaped_safetensors(&files, DType::F32, &Device::Cpu).unwrap()
        };
        // The reason for all this: candle can't read them.
        assert!(candle_nn::linear_no_bias(24, 40, vb.pp("up")).is_err());
        let up = LinearLayer::load(24, 40, true, vb.pp("up"), &file).unwrap();
        assert!(up.as_int8().is_some());
        let found = message(LinearLayer::load(40, 24, true, vb.pp("up"), &file));
        for part in ["up.weight", "[40, 24]", "[24, 40]"] {
            assert!(found.contains(part), "{found}");
        }
        let float = file.names().find_map(|name| {
            let name = name.strip_suffix(".weight")?;
            let shape = file.info(&format!("{name}.weight"))?.shape;
            let int8 = file.int8_layers().iter().any(|int8| int8 == name);
            (!int8 && shape.len() == 2).then(|| (name.to_string(), shape[0], shape[1]))
        });
        let (name, n, k) = float.expect("a layer that was left alone");
        let bias = file.names().any(|other| other == format!("{name}.bias"));
        let layer = LinearLayer::load(k, n, bias, vb.pp(&name), &file).unwrap();
        assert!(layer.as_float().is_some(), "{name}");
    }
}
