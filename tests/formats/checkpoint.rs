//! Checkpoints made by others are read as their makers mean them; damaged and hostile ones are refused.

use crate::folder::Folder;
use imma::checkpoint::{Checkpoint, StoredWeight};
use imma::gemm::ActivationQuant;
use imma::ops::default_backend;
use imma::{Cpu, Int8Linear};
use ndarray::{arr2, Array2, ArrayD, Ix2};
use proptest::prelude::*;
use std::path::{Path, PathBuf};
use std::sync::Arc;

const FOLDERS: [&str; 6] = [
    "ct_dynamic",
    "ct_static",
    "ct_asymmetric",
    "ct_group",
    "bnb",
    "floats",
];

fn data(folder: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/data/checkpoints")
        .join(folder)
}

fn matrix(x: ArrayD<f32>) -> Array2<f32> {
    x.into_dimensionality::<Ix2>().unwrap()
}

impl Folder {
    /// A file of this header and this many bytes of data, opened.
    fn open(&self, header: &str, data: &[u8]) -> Result<Checkpoint, String> {
        let path = self.0.join("model.safetensors");
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend_from_slice(header.as_bytes());
        bytes.extend_from_slice(data);
        std::fs::write(&path, bytes).unwrap();
        Checkpoint::open(&path).map_err(|e| e.to_string())
    }
}

#[test]
fn weights_of_every_format_dequantise_to_what_their_makers_say() {
    let mut layers = 0;
    for folder in FOLDERS {
        let checkpoint = Checkpoint::open(data(folder)).unwrap();
        let expected = Checkpoint::open(data(folder).join("expected.safetensors")).unwrap();
        for name in expected.names().filter(|n| n.ends_with(".weight")) {
            let want = matrix(expected.floats(name).unwrap());
            let stored = checkpoint.stored_linear(name.strip_suffix(".weight").unwrap());
            let got = stored.unwrap().weight.dequantize();
            assert_eq!(got.dim(), want.dim());
            for (got, want) in got.iter().zip(&want) {
                // The package rounds to the scale's own type: bfloat16 or float16 in two of them.
                let slack = match folder {
                    "ct_dynamic" | "ct_group" => 1.0 / 256.0,
                    "ct_asymmetric" => 1.0 / 2048.0,
                    "bnb" => 2e-7,
                    _ => 0.0,
                };
                let off = (got - want).abs();
                assert!(off <= slack * want.abs(), "{folder} {name}: {got} {want}");
            }
            layers += 1;
        }
    }
    assert_eq!(layers, 13);
}

#[test]
fn layers_compute_what_compressed_tensors_computes() {
    for (folder, slack) in [
        ("ct_dynamic", 2e-2),
        ("ct_static", 1e-2),
        ("ct_asymmetric", 1e-2),
    ] {
        let expected = Checkpoint::open(data(folder).join("expected.safetensors")).unwrap();
        for prefix in ["up", "down"] {
            let layer = Int8Linear::from_checkpoint(data(folder), prefix).unwrap();
            let tensor = |what| matrix(expected.floats(&format!("{prefix}.{what}")).unwrap());
            let (x, want) = (tensor("x"), tensor("y"));
            let got = layer.forward(x.view()).unwrap();
            let norm =
                |y: &Array2<f32>| y.iter().map(|y| f64::from(*y).powi(2)).sum::<f64>().sqrt();
            let off = norm(&(&got - &want)) / norm(&want);
            assert!(off < slack, "{folder} {prefix}: relative error {off}");
        }
    }
}

/// Scales for groups of inputs, which the package wrote too.
#[test]
fn groups_of_inputs_make_a_group_wise_layer() {
    let folder = data("ct_group");
    let checkpoint = Checkpoint::open(&folder).unwrap();
    let expected = Checkpoint::open(folder.join("expected.safetensors")).unwrap();
    assert_eq!(checkpoint.int8_layers(), ["down", "up"]);
    for (prefix, inputs, outputs) in [("up", 64, 96), ("down", 96, 64)] {
        let layer = Int8Linear::from_checkpoint(&folder, prefix).unwrap();
        assert_eq!((layer.inputs(), layer.outputs()), (inputs, outputs));
        assert_eq!(layer.group_size(), Some(32));
        let tensor = |what| matrix(expected.floats(&format!("{prefix}.{what}")).unwrap());
        let (x, want) = (tensor("x"), tensor("y"));
        let got = layer.forward(x.view()).unwrap();
        let norm = |y: &Array2<f32>| y.iter().map(|y| f64::from(*y).powi(2)).sum::<f64>().sqrt();
        let off = norm(&(&got - &want)) / norm(&want);
        assert!(off < 2e-2, "{prefix}: relative error {off}");
        let again = checkpoint.linear(prefix).unwrap();
        assert_eq!(again.forward(x.view()).unwrap(), got);
    }
    // Other layers have no groups, those of floats in the same file among them.
    let others = [
        Int8Linear::from_checkpoint(data("ct_dynamic"), "up").unwrap(),
        checkpoint
            .linear_on(Arc::new(Cpu::new()), "lm_head")
            .unwrap(),
    ];
    assert!(others.iter().all(|layer| layer.group_size().is_none()));
}

#[test]
fn the_way_inputs_are_quantised_comes_from_the_checkpoint() {
    let input = |folder, prefix| {
        let checkpoint = Checkpoint::open(data(folder)).unwrap();
        checkpoint.stored_linear(prefix).unwrap().input
    };
    assert_eq!(input("ct_dynamic", "up"), ActivationQuant::PerToken);
    assert!(matches!(input("ct_static", "down"), ActivationQuant::Static { scale } if scale > 0.0));
    assert!(matches!(
        input("ct_asymmetric", "up"),
        ActivationQuant::StaticAsymmetric { .. }
    ));
    assert_eq!(input("bnb", "up"), ActivationQuant::PerToken);
    let checkpoint = Checkpoint::open(data("ct_static")).unwrap();
    assert_eq!(checkpoint.int8_layers(), ["down", "up"]);
    // Ignored layers are floats, and quantised only when someone asks for a layer of them.
    let head = checkpoint.stored_linear("lm_head").unwrap();
    assert!(matches!(head.weight, StoredWeight::Float(_)));
    let bias = Checkpoint::open(data("floats")).unwrap();
    assert!(bias.stored_linear("up").unwrap().bias.is_some());
    assert!(bias.stored_linear("down").unwrap().bias.is_none());
}

#[test]
fn a_float_layer_has_the_bits_of_from_float() {
    let checkpoint = Checkpoint::open(data("floats")).unwrap();
    let x = Array2::from_shape_fn((3, 24), |(i, j)| ((i * 7 + j * 3) % 11) as f32 - 4.5);
    let weight = matrix(checkpoint.floats("up.weight").unwrap());
    let bias = checkpoint.floats("up.bias").unwrap();
    let bias = bias.into_dimensionality().unwrap();
    let direct = Int8Linear::from_float(weight.view(), Some(bias.view())).unwrap();
    let read = checkpoint.linear("up").unwrap();
    assert_eq!(
        direct.forward(x.view()).unwrap(),
        read.forward(x.view()).unwrap()
    );
}

#[test]
fn asymmetric_weights_are_exact_at_the_ends() {
    let weight = arr2(&[[127i8, -128, 0, 5], [127, -128, 0, 5], [127, -128, 0, 5]]);
    for zero in [[-128i8, 127, 0], [-1, 1, 64]] {
        let backend = default_backend().clone();
        let layer = Int8Linear::from_int8_asymmetric_on::<f32>(
            backend,
            weight.view(),
            &[1.0; 3],
            &zero,
            None,
        );
        let layer = layer.unwrap();
        assert_eq!(layer.inputs(), 4);
        // absmax 127: the inputs are their own integers, the sums exact in f32.
        let x = arr2(&[[127.0f32, 1.0, -3.0, 2.0]]);
        let y = layer.forward(x.view()).unwrap();
        for (j, z) in zero.iter().enumerate() {
            let want: f32 = (0..4)
                .map(|i| x[[0, i]] * f32::from(i16::from(weight[[j, i]]) - i16::from(*z)))
                .sum();
            assert_eq!(y[[0, j]], want, "zero point {z}");
        }
    }
}

#[test]
fn hostile_files_get_one_clear_sentence() {
    let dir = Folder::new("hostile");
    let refused = |header: &str, data: &[u8], part: &str| {
        let read = dir.open(header, data).and_then(|checkpoint| {
            let layer = checkpoint.linear("p");
            layer.map(|_| ()).map_err(|e| e.to_string())
        });
        let message = read.unwrap_err();
        assert!(message.contains(part), "'{part}' is not in: {message}");
        assert!(message.len() < 700, "{message}");
    };
    let tensor = |name: &str, dtype: &str, shape: &str, from: usize, to: usize| {
        format!(r#""{name}":{{"dtype":"{dtype}","shape":{shape},"data_offsets":[{from},{to}]}}"#)
    };
    let weight = tensor("p.weight", "I8", "[2,2]", 0, 4);
    refused("", &[], "damaged header");
    refused("not json", &[], "damaged header");
    refused(&"[".repeat(100_000), &[], "damaged header");
    refused("{}", &[], "p.weight: found no such tensor");
    // Offsets beyond the file, before each other, and lengths that the shape contradicts.
    refused(
        &format!("{{{}}}", tensor("p.weight", "I8", "[2,2]", 0, 1 << 40)),
        &[0; 4],
        "damaged",
    );
    refused(
        &format!("{{{}}}", tensor("p.weight", "I8", "[2,2]", 4, 0)),
        &[0; 4],
        "damaged",
    );
    refused(
        &format!("{{{}}}", tensor("p.weight", "I8", "[2,3]", 0, 4)),
        &[0; 4],
        "damaged",
    );
    let huge = "[4294967296,4294967296,16]";
    refused(
        &format!("{{{}}}", tensor("p.weight", "I8", huge, 0, 4)),
        &[0; 4],
        "damaged",
    );
    // No elements, and yet a quintillion outputs.
    for shape in ["[1152921504606846976,0]", "[0,7]", "[]", "[4]", "[1,2,2]"] {
        let elements = if shape.contains('0') { 0 } else { 4 };
        let bytes = if shape == "[]" { 1 } else { elements };
        let header = format!("{{{}}}", tensor("p.weight", "I8", shape, 0, bytes));
        refused(&header, &vec![0; bytes], "expected two dimensions");
    }
    refused(
        &format!("{{{weight}}}"),
        &[0; 4],
        "p.weight_scale: found no such tensor",
    );
    let long = format!("{{{}}}", tensor("p.weight", "I64", "[1,1]", 0, 8));
    refused(&long, &[0; 8], "expected I8, F32, F16 or BF16");
    let scaled = |scale: f32, shape: &str, copies: usize| {
        let bytes: Vec<u8> = [1u8; 4]
            .into_iter()
            .chain(scale.to_le_bytes().repeat(copies))
            .collect();
        let scale = tensor("p.weight_scale", "F32", shape, 4, 4 + 4 * copies);
        (format!("{{{weight},{scale}}}"), bytes)
    };
    for (scale, shape, copies, part) in [
        (f32::NAN, "[2,1]", 2, "found NaN, expected finite"),
        (-1.0, "[1]", 1, "found -1, expected finite"),
        (
            1.0,
            "[3]",
            3,
            "found F32 [3], expected floats, [2, 1], [2] or one",
        ),
        (1.0, "[1,2]", 2, "found F32 [1, 2]"),
    ] {
        let (header, bytes) = scaled(scale, shape, copies);
        refused(&header, &bytes, part);
    }
    let (header, bytes) = scaled(0.5, "[2,1]", 2);
    assert!(dir.open(&header, &bytes).unwrap().linear("p").is_ok());
    // A length that a header could never have.
    let path = dir.0.join("model.safetensors");
    std::fs::write(&path, u64::MAX.to_le_bytes()).unwrap();
    let message = Checkpoint::open(&path).unwrap_err().to_string();
    assert!(message.contains("damaged header"), "{message}");
    std::fs::write(&path, b"").unwrap();
    assert!(Checkpoint::open(&path).is_err());
}

#[test]
fn hostile_indexes_and_configs_are_refused() {
    let dir = Folder::new("index");
    let index = dir.0.join("model.safetensors.index.json");
    let refused = |part: &str| {
        let message = Checkpoint::open(&dir.0).unwrap_err().to_string();
        assert!(message.contains(part), "'{part}' is not in: {message}");
    };
    refused("0 .safetensors files and no index");
    for file in [
        "../secret.safetensors",
        "/etc/passwd",
        "a/b.safetensors",
        "..",
        "x.bin",
        "",
    ] {
        let text = format!(r#"{{"weight_map": {{"p.weight": "{file}"}}}}"#);
        std::fs::write(&index, text).unwrap();
        refused("an index with a weight_map");
    }
    std::fs::write(&index, r#"{"weight_map": {"p.weight": 7}}"#).unwrap();
    refused("found 7 for p.weight");
    std::fs::write(&index, "{").unwrap();
    refused("no JSON");
    std::fs::write(
        &index,
        r#"{"weight_map": {"p.weight": "gone.safetensors"}}"#,
    )
    .unwrap();
    refused("gone.safetensors: found no such file");
    let shard = data("floats").join("model-00001-of-00002.safetensors");
    std::fs::copy(shard, dir.0.join("s.safetensors")).unwrap();
    std::fs::write(&index, r#"{"weight_map": {"p.weight": "s.safetensors"}}"#).unwrap();
    let message = Checkpoint::open(&dir.0).unwrap().linear("p").unwrap_err();
    let message = message.to_string();
    let expected = "p.weight: found no such tensor in s.safetensors, expected the one that the index places there";
    assert!(message.contains(expected), "{message}");
    std::fs::write(&index, r#"{"weight_map": {"up.weight": "s.safetensors"}}"#).unwrap();
    assert!(Checkpoint::open(&dir.0).unwrap().linear("up").is_ok());
    let shard = data("ct_dynamic").join("model.safetensors");
    std::fs::remove_file(&index).unwrap();
    std::fs::copy(shard, dir.0.join("s.safetensors")).unwrap();

    let config = dir.0.join("config.json");
    let group = |weights: &str, inputs: &str| {
        format!(
            r#"{{"quantization_config": {{"quant_method": "compressed-tensors", "format": "int-quantized", "ignore": [],
            "config_groups": {{"g": {{"targets": ["Linear"], "weights": {weights}, "input_activations": {inputs}}}}}}}}}"#
        )
    };
    let int8 = r#"{"num_bits": 8, "type": "int", "strategy": "channel", "symmetric": true}"#;
    let by_group = |size: &str, order: &str, symmetric: bool| {
        let weights = format!(
            r#"{{"num_bits": 8, "type": "int", "strategy": "group", "group_size": {size}, "actorder": {order}, "symmetric": {symmetric}}}"#
        );
        group(&weights, "null")
    };
    for (text, part) in [
        ("[".to_string(), "no JSON"),
        (r#"{"quantization_config": 3}"#.into(), "quant_method none"),
        (r#"{"quantization_config": {"quant_method": "gptq"}}"#.into(), "quant_method gptq"),
        (
            r#"{"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": true}}"#.into(),
            "found bitsandbytes with 4 bits",
        ),
        (
            r#"{"quantization_config": {"quant_method": "compressed-tensors", "format": "pack-quantized"}}"#.into(),
            "found no config_groups",
        ),
        (group(r#"{"num_bits": 4, "type": "int"}"#, "null"), "weights of type \"int\" with 4 bits"),
        (group(r#"{"num_bits": 8, "type": "int", "strategy": "block"}"#, "null"), "strategy \"block\""),
        (by_group("48", "null", true), "group_size 48, expected group_size 32, 64 or 128"),
        (by_group("null", "null", true), "group_size null"),
        (by_group("32", r#""group""#, true), "actorder \"group\", expected none"),
        (by_group("32", "null", false), "strategy group, symmetric false"),
        (group("null", "null"), "a group without weights"),
        (
            group(int8, r#"{"num_bits": 8, "type": "int", "dynamic": "local"}"#),
            "dynamic \"local\"",
        ),
        (group(int8, "null").replace("Linear", "re:("), "a regular expression"),
        (group(int8, "null").replace(r#""ignore": []"#, r#""ignore": 1"#), "an ignore list"),
    ] {
        std::fs::write(&config, text).unwrap();
        // What is wrong with a group concerns its layers alone: those of int8.
        let open = Checkpoint::open(&dir.0).map_err(|e| e.to_string());
        let read = open.and_then(|c| c.linear("up").map(|_| ()).map_err(|e| e.to_string()));
        let message = read.unwrap_err();
        assert!(message.contains(part), "'{part}' is not in: {message}");
    }
    // Groups of inputs are asked for, and the file has one scale an output.
    let other = Folder::new("groups");
    let from = data("ct_dynamic").join("model.safetensors");
    std::fs::copy(from, other.0.join("model.safetensors")).unwrap();
    std::fs::write(other.0.join("config.json"), by_group("32", "null", true)).unwrap();
    let error = Checkpoint::open(&other.0).unwrap().stored_linear("down");
    let error = error.unwrap_err().to_string();
    assert!(error.contains("groups of 32 inputs"), "{error}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    /// Any byte of a good checkpoint changed, and any end cut off: a layer or a refusal, never a panic.
    #[test]
    fn damaged_files_never_panic(
        folder in prop::sample::select(&FOLDERS[..]),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), any::<bool>()), 0..6),
        cut in prop::option::weighted(0.3, any::<prop::sample::Index>()),
        which in any::<prop::sample::Index>(),
    ) {
        let dir = Folder::new(&format!("fuzz-{:?}", std::thread::current().id()));
        for old in std::fs::read_dir(&dir.0).unwrap() {
            std::fs::remove_file(old.unwrap().path()).unwrap();
        }
        let mut files = Vec::new();
        for file in std::fs::read_dir(data(folder)).unwrap() {
            let file = file.unwrap().path();
            if file.file_name().unwrap() != "expected.safetensors" {
                let copy = dir.0.join(file.file_name().unwrap());
                std::fs::copy(&file, &copy).unwrap();
                files.push(copy);
            }
        }
        files.sort();
        let file = which.get(&files);
        let mut bytes = std::fs::read(file).unwrap();
        for (at, value, header) in changes {
            // Half of the changes hit the header or the JSON's start, where it hurts.
            let end = if header { bytes.len().min(900) } else { bytes.len() };
            bytes[at.index(end)] = value;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        std::fs::write(file, bytes).unwrap();
        if let Ok(checkpoint) = Checkpoint::open(&dir.0) {
            for name in checkpoint.names() {
                let _ = checkpoint.floats(name);
            }
            for prefix in ["up", "down", "lm_head", "norm"] {
                if let Ok(layer) = checkpoint.linear(prefix) {
                    let x = Array2::<f32>::ones((2, layer.inputs()));
                    prop_assert!(layer.forward(x.view()).is_ok());
                }
            }
        }
    }

    /// Headers made of the right words in the wrong places.
    #[test]
    fn made_up_headers_never_panic(
        tensors in prop::collection::vec((
            prop::sample::select(&["p.weight", "p.weight_scale", "p.SCB", "p.bias", "p.input_scale"][..]),
            prop::sample::select(&["I8", "F32", "BF16", "F64", "U8", "F4", "bogus"][..]),
            prop::collection::vec(prop_oneof![0u64..5, Just(u64::MAX), Just(1 << 62)], 0..4),
            0u64..40, 0u64..40,
        ), 0..5),
        bytes in prop::collection::vec(any::<u8>(), 0..60),
    ) {
        let dir = Folder::new(&format!("made-{:?}", std::thread::current().id()));
        let tensors: Vec<_> = tensors.iter().map(|(name, dtype, shape, from, to)| {
            format!(r#""{name}":{{"dtype":"{dtype}","shape":{shape:?},"data_offsets":[{from},{to}]}}"#)
        }).collect();
        if let Ok(checkpoint) = dir.open(&format!("{{{}}}", tensors.join(",")), &bytes) {
            let _ = checkpoint.linear("p");
            let _ = checkpoint.floats("p.weight");
        }
    }

    /// `(q - zero point) * scale` times the quantised inputs, against sums in i64.
    #[test]
    fn asymmetric_weights_are_exact(
        (n, k) in (1usize..6, 1usize..20),
        seed in any::<u32>(),
    ) {
        let mut state = seed;
        let mut byte = || {
            state = state.wrapping_mul(1664525).wrapping_add(1013904223);
            (state >> 24) as i8
        };
        let weight = Array2::from_shape_simple_fn((n, k), &mut byte);
        let zero: Vec<i8> = (0..n).map(|_| byte()).collect();
        let mut x = Array2::from_shape_simple_fn((3, k), || f32::from(byte().max(-127)));
        // With absmax 127 an input is its own integer.
        x.column_mut(0).fill(127.0);
        let backend = default_backend().clone();
        let layer = Int8Linear::from_int8_asymmetric_on::<f32>(backend, weight.view(), &[1.0], &zero, None).unwrap();
        let y = layer.forward(x.view()).unwrap();
        for ((i, j), y) in y.indexed_iter() {
            let want: i64 = (0..k)
                .map(|l| x[[i, l]] as i64 * (i64::from(weight[[j, l]]) - i64::from(zero[j])))
                .sum();
            prop_assert_eq!(*y, want as f32);
        }
    }
}

// -------------------------------------------------------------------------------------- mixtures of experts

/// A safetensors file of these tensors: name, type, shape, bytes.
fn written(folder: &Folder, tensors: &[(String, &str, Vec<usize>, Vec<u8>)]) -> Checkpoint {
    let (mut header, mut data) = (serde_json::Map::new(), Vec::new());
    for (name, dtype, shape, bytes) in tensors {
        let end = data.len() + bytes.len();
        let entry =
            serde_json::json!({"dtype": dtype, "shape": shape, "data_offsets": [data.len(), end]});
        header.insert(name.clone(), entry);
        data.extend_from_slice(bytes);
    }
    folder
        .open(&serde_json::Value::Object(header).to_string(), &data)
        .unwrap()
}

fn float_bytes<'f>(floats: impl IntoIterator<Item = &'f f32>) -> Vec<u8> {
    floats.into_iter().flat_map(|x| x.to_le_bytes()).collect()
}

fn some_floats(shape: (usize, usize, usize), seed: usize) -> ndarray::Array3<f32> {
    ndarray::Array3::from_shape_fn(shape, |(e, i, j)| {
        ((e * 131 + i * 31 + j * 17 + seed * 7) % 61) as f32 * 0.1 - 3.0
    })
}

/// Numbered layers under both families of names, and fused tensors in both orders, are the same experts.
#[test]
fn experts_are_read_numbered_and_fused() {
    use imma::ops::Int8Experts;
    use ndarray::{concatenate, Axis};
    let (experts, outer, inner) = (3, 6, 4);
    let gate = some_floats((experts, inner, outer), 1);
    let up = some_floats((experts, inner, outer), 2);
    let down = some_floats((experts, outer, inner), 3);
    let want = Int8Experts::from_float(gate.view(), up.view(), down.view()).unwrap();
    let x = Array2::from_shape_fn((5, outer), |(t, h)| (t * 3 + h) as f32 * 0.25 - 1.0);
    let indices = arr2(&[[0, 2], [1, 0], [2, 1], [0, 1], [2, 0]]);
    let weights = Array2::from_shape_fn((5, 2), |(t, j)| 0.2 + (t + j) as f32 * 0.1);
    let of = |layer: &Int8Experts| {
        layer
            .forward(x.view(), indices.view(), weights.view())
            .unwrap()
    };
    let y = of(&want);
    let numbered = |names: [&str; 3]| {
        let mut tensors = Vec::new();
        for e in 0..experts {
            for (name, w) in names.iter().zip([&gate, &up, &down]) {
                let w = w.index_axis(Axis(0), e);
                let name = format!("mlp.experts.{e}.{name}.weight");
                tensors.push((name, "F32", w.shape().to_vec(), float_bytes(w.iter())));
            }
        }
        tensors
    };
    let both = concatenate(Axis(1), &[gate.view(), up.view()]).unwrap();
    let fused = |outputs_first: bool| {
        let of = |name: &str, w: &ndarray::Array3<f32>| {
            let w = match outputs_first {
                true => w.view(),
                false => w.view().permuted_axes([0, 2, 1]),
            };
            let name = format!("mlp.experts.{name}");
            (name, "F32", w.shape().to_vec(), float_bytes(w.iter()))
        };
        vec![of("gate_up_proj", &both), of("down_proj", &down)]
    };
    for tensors in [
        numbered(["gate_proj", "up_proj", "down_proj"]),
        numbered(["w1", "w3", "w2"]),
        fused(true),
        fused(false),
    ] {
        let folder = Folder::new("experts");
        let checkpoint = written(&folder, &tensors);
        assert_eq!(of(&checkpoint.experts("mlp.experts").unwrap()), y);
        let backend = default_backend().clone();
        let rank = checkpoint
            .experts_on(backend.clone(), "mlp.experts", Some(1..3))
            .unwrap();
        assert_eq!(rank.place(), (1..3, experts));
        assert_eq!(of(&rank), of(&want.slice(1..3).unwrap()));
        #[allow(clippy::reversed_empty_ranges)]
        for range in [1..1, 0..4, 3..2] {
            let error = checkpoint.experts_on(backend.clone(), "mlp.experts", Some(range));
            let text = error.unwrap_err().to_string();
            assert!(text.contains("a part of the experts 0..3"), "{text}");
        }
        let path = folder.0.join("model.safetensors");
        assert_eq!(
            of(&Int8Experts::from_checkpoint(path, "mlp.experts").unwrap()),
            y
        );
        let text = checkpoint.experts("mlp").unwrap_err().to_string();
        assert!(text.contains("no experts"), "{text}");
    }
}

/// int8 layers of compressed-tensors' form make the experts that their scales say.
#[test]
fn experts_are_read_from_int8_layers() {
    use imma::ops::{Int8Experts, QuantizedExperts};
    use ndarray::{Array3, Axis};
    let (experts, outer, inner) = (2, 8, 6);
    let ints = |n, k, seed: usize| {
        Array3::from_shape_fn((experts, n, k), |(e, i, j)| {
            ((e * 37 + i * 11 + j * 5 + seed) % 255) as i32 as u8 as i8
        })
    };
    let scales = |n, seed: usize| {
        Array2::from_shape_fn((experts, n), |(e, i)| 0.01 + (e + i + seed) as f32 * 0.001)
    };
    let parts = [
        ("gate_proj", ints(inner, outer, 1), scales(inner, 1)),
        ("up_proj", ints(inner, outer, 2), scales(inner, 2)),
        ("down_proj", ints(outer, inner, 3), scales(outer, 3)),
    ];
    let mut tensors = Vec::new();
    for e in 0..experts {
        for (name, data, scales) in &parts {
            let (data, scales) = (data.index_axis(Axis(0), e), scales.row(e));
            let bytes = data.iter().map(|x| *x as u8).collect();
            let prefix = format!("e.{e}.{name}");
            tensors.push((
                format!("{prefix}.weight"),
                "I8",
                data.shape().to_vec(),
                bytes,
            ));
            let bytes = float_bytes(scales.iter());
            tensors.push((
                format!("{prefix}.weight_scale"),
                "F32",
                vec![scales.len(), 1],
                bytes,
            ));
        }
    }
    let folder = Folder::new("int8-experts");
    let read = written(&folder, &tensors).experts("e").unwrap();
    let [gate, up, down] = [0, 1, 2].map(|i: usize| QuantizedExperts {
        data: parts[i].1.view(),
        scales: parts[i].2.view(),
    });
    let want = Int8Experts::from_int8_on(default_backend().clone(), gate, up, down).unwrap();
    let x = Array2::from_shape_fn((4, outer), |(t, h)| (t * 5 + h) as f32 * 0.3 - 2.0);
    let (indices, weights) = (
        arr2(&[[0, 1], [1, 0], [0, 0], [1, 1]]),
        Array2::ones((4, 2)),
    );
    let of = |layer: &Int8Experts| {
        layer
            .forward(x.view(), indices.view(), weights.view())
            .unwrap()
    };
    assert_eq!(of(&read), of(&want));

    // What is missing, and what stands beside, is said by name.
    let without = |drop: &str| {
        let kept: Vec<_> = tensors
            .iter()
            .filter(|t| !t.0.contains(drop))
            .cloned()
            .collect();
        written(&folder, &kept)
            .experts("e")
            .unwrap_err()
            .to_string()
    };
    let text = without("e.0.");
    assert!(text.contains("none of number 0"), "{text}");
    let text = without("e.1.up_proj");
    assert!(text.contains("e.1.up_proj"), "{text}");
    let mut more = tensors.clone();
    more.push(("e.1.router.weight".into(), "F32", vec![1, 1], vec![0; 4]));
    let text = written(&folder, &more)
        .experts("e")
        .unwrap_err()
        .to_string();
    assert!(
        text.contains("e.1.router.weight") && text.contains("gate_proj"),
        "{text}"
    );
    let mut asymmetric = tensors.clone();
    let zeros = (
        "e.0.up_proj.weight_zero_point".into(),
        "I8",
        vec![inner, 1],
        vec![1; inner],
    );
    asymmetric.push(zeros);
    let text = written(&folder, &asymmetric)
        .experts("e")
        .unwrap_err()
        .to_string();
    assert!(text.contains("asymmetric weights"), "{text}");
}

#[test]
fn fused_experts_that_do_not_fit_are_refused() {
    let tensor = |name: &str, dtype: &'static str, shape: [usize; 3]| {
        let bytes = vec![0; shape.iter().product::<usize>() * if dtype == "I8" { 1 } else { 4 }];
        (format!("e.{name}"), dtype, shape.to_vec(), bytes)
    };
    let good = [
        tensor("gate_up_proj", "F32", [2, 8, 6]),
        tensor("down_proj", "F32", [2, 6, 4]),
    ];
    let refused = |tensors: &[(String, &str, Vec<usize>, Vec<u8>)]| {
        let folder = Folder::new("fused");
        written(&folder, tensors)
            .experts("e")
            .unwrap_err()
            .to_string()
    };
    let text = refused(&good[..1]);
    assert!(text.contains("e.down_proj"), "{text}");
    let [gate_up, down] = good;
    let text = refused(&[gate_up.clone(), tensor("down_proj", "F32", [2, 6, 5])]);
    assert!(
        text.contains("[2, 6, 5]") && text.contains("[2, 8, 6]"),
        "{text}"
    );
    let text = refused(&[gate_up.clone(), tensor("down_proj", "F32", [3, 6, 4])]);
    assert!(text.contains("[3, 6, 4]"), "{text}");
    let text = refused(&[gate_up.clone(), tensor("down_proj", "I8", [2, 6, 4])]);
    assert!(text.contains("floats in three dimensions"), "{text}");
    let bias = tensor("gate_up_proj_bias", "F32", [2, 8, 1]);
    let text = refused(&[gate_up, down, bias]);
    assert!(text.contains("e.gate_up_proj_bias"), "{text}");
}
