//! Layers of checkpoints over several ranks: each reads its slice, and the bits are those of the layer read whole.

use crate::folder::Folder;
use imma::activation::Activation;
use imma::checkpoint::{Checkpoint, CheckpointError, LayerSlice, StoredWeight};
use imma::gemm::Split;
use imma::ops::default_backend;
use imma::parallel::{Group, ShardedLinear};
use ndarray::{concatenate, s, Array2, Axis};
use std::path::Path;

fn ranks<R: Send>(count: usize, work: impl Fn(Group) -> R + Sync) -> Vec<R> {
    std::thread::scope(|scope| {
        let spawn = |group| scope.spawn(|| work(group));
        let threads: Vec<_> = Group::of_threads(count).into_iter().map(spawn).collect();
        threads.into_iter().map(|t| t.join().unwrap()).collect()
    })
}

fn open(folder: &str) -> Checkpoint {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/checkpoints");
    Checkpoint::open(path.join(folder)).unwrap()
}

fn layers(checkpoint: &Checkpoint) -> Vec<String> {
    let weight = |name: &str| {
        let name = name.strip_suffix(".weight")?;
        checkpoint
            .stored_linear(name)
            .ok()
            .map(|_| name.to_string())
    };
    checkpoint.names().filter_map(weight).collect()
}

/// Both ways of splitting every layer, evenly and at odd places.
fn check(checkpoint: &Checkpoint, name: &str) {
    let activation = Activation::Silu;
    let whole = checkpoint.linear(name).unwrap().with_activation(activation);
    let (n, k) = (whole.outputs(), whole.inputs());
    let x = Array2::from_shape_fn((3, k), |(i, l)| ((i * 7 + l * l) % 23) as f32 * 0.1 - 1.0);
    let want = whole.forward(x.view()).unwrap();
    let rotated = whole.input_transform().rotation().is_some();
    let backend = || default_backend().clone();
    let from = (checkpoint, name);
    for shards in [1, 2, 3, 8] {
        let odd: Vec<_> = (0..shards).chain([k]).map(|cut| cut.min(k)).collect();
        let odd = (!rotated).then(|| Split::at(&odd).unwrap());
        for split in [None, odd.as_ref()] {
            for y in ranks(shards, |group| {
                let layer =
                    ShardedLinear::row_from_checkpoint(&group, backend(), from, split, activation);
                let layer = layer.unwrap();
                assert_eq!((layer.outputs(), layer.inputs()), (n, k));
                layer.forward(x.slice(s![.., layer.own_inputs()])).unwrap()
            }) {
                assert_eq!(y, want, "{name}: inputs over {shards}");
            }
        }
        let parts = ranks(shards, |group| {
            let layer =
                ShardedLinear::column_from_checkpoint(&group, backend(), from, None, activation);
            layer.unwrap().forward(x.view()).unwrap()
        });
        let parts: Vec<_> = parts.iter().map(|part| part.view()).collect();
        let y = concatenate(Axis(1), &parts).unwrap();
        assert_eq!(y, want, "{name}: outputs over {shards}");
    }
}

#[test]
fn layers_of_every_format_have_the_bits_of_the_layer_read_whole() {
    let mut checked = 0;
    for folder in [
        "ct_dynamic",
        "ct_static",
        "ct_asymmetric",
        "ct_group",
        "bnb",
        "floats",
    ] {
        let checkpoint = open(folder);
        for name in layers(&checkpoint) {
            check(&checkpoint, &name);
            checked += 1;
        }
    }
    assert!(checked >= 6, "{checked} layers");
}

/// A checkpoint of one layer, written here.
fn written(folder: &Folder, tensors: &[(&str, &str, &[usize], Vec<u8>)]) -> Checkpoint {
    let (mut header, mut data) = (serde_json::Map::new(), Vec::<u8>::new());
    for (name, dtype, shape, bytes) in tensors {
        let offsets = [data.len(), data.len() + bytes.len()];
        let said = serde_json::json!({"dtype": dtype, "shape": shape, "data_offsets": offsets});
        header.insert((*name).into(), said);
        data.extend(bytes);
    }
    let header = serde_json::to_string(&header).unwrap();
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend(header.as_bytes());
    file.extend(data);
    let path = folder.0.join("model.safetensors");
    std::fs::write(&path, file).unwrap();
    Checkpoint::open(&path).unwrap()
}

fn bytes(n: usize) -> Vec<u8> {
    (0..n).map(|i| (i * i * 31 + i * 7) as u8).collect()
}

fn floats(values: impl IntoIterator<Item = f32>) -> Vec<u8> {
    values.into_iter().flat_map(f32::to_le_bytes).collect()
}

#[test]
fn corrections_over_all_inputs_multipliers_and_rotations_are_cut_too() {
    let (n, k) = (6, 64);
    let scales: Vec<f32> = (0..n).map(|j| 0.01 + j as f32 * 0.003).collect();
    // Ascend's static form: its bias holds sums over all of K.
    let folder = Folder::new("sharded-ascend");
    let offsets = (0..n as i32).flat_map(|j| (j * 100 - 250).to_le_bytes());
    let ascend = [
        ("P.weight", "I8", &[n, k][..], bytes(n * k)),
        ("P.weight_scale", "F32", &[n, 1], floats(scales.clone())),
        ("P.input_scale", "F32", &[1], floats([0.05])),
        ("P.input_offset", "F32", &[1], floats([3.0])),
        ("P.quant_bias", "I32", &[n], offsets.collect()),
        (
            "P.deq_scale",
            "F32",
            &[n],
            floats(scales.iter().map(|s| s * 0.05)),
        ),
    ];
    check(&written(&folder, &ascend), "P");
    // ModelOpt's multipliers and ComfyUI's rotation.
    let folder = Folder::new("sharded-rotated");
    let said = br#"{"format": "int8_tensorwise", "convrot": true, "convrot_groupsize": 16}"#;
    let rotated = [
        ("P.weight", "I8", &[n, k][..], bytes(n * k)),
        ("P.weight_scale", "F32", &[n, 1], floats(scales)),
        (
            "P.pre_quant_scale",
            "F32",
            &[k],
            floats((0..k).map(|i| 1.0 + i as f32 / 50.0)),
        ),
        ("P.comfy_quant", "U8", &[said.len()], said.to_vec()),
    ];
    let checkpoint = written(&folder, &rotated);
    check(&checkpoint, "P");
    let refused = checkpoint
        .stored_slice("P", LayerSlice::Inputs(8..32))
        .unwrap_err();
    assert!(
        refused
            .to_string()
            .contains("cuts the inputs at 8, expected a multiple of 16"),
        "{refused}"
    );
}

#[test]
fn a_slice_holds_its_part_alone_and_one_outside_is_refused() {
    let checkpoint = open("ct_group");
    let whole = checkpoint.stored_linear("up").unwrap();
    let StoredWeight::Groupwise { data, scales, size } = &whole.weight else {
        panic!("{whole:?}");
    };
    let slice = checkpoint
        .stored_slice("up", LayerSlice::Inputs(20..40))
        .unwrap();
    let want = StoredWeight::Groupwise {
        data: data.slice(s![.., 20..40]).to_owned(),
        scales: scales.slice(s![.., 0..2]).to_owned(),
        size: *size,
    };
    assert_eq!(slice.weight, want);
    let slice = checkpoint
        .stored_slice("up", LayerSlice::Outputs(90..96))
        .unwrap();
    assert_eq!(slice.weight.shape(), [6, 64]);
    assert_eq!(slice.bias, whole.bias.map(|b| b[90..].to_vec()));
    for (slice, length) in [
        (LayerSlice::Outputs(90..97), "96"),
        (LayerSlice::Inputs(65..65), "64"),
        #[allow(clippy::reversed_empty_ranges)]
        (LayerSlice::Inputs(4..3), "64"),
    ] {
        let message = checkpoint
            .stored_slice("up", slice)
            .unwrap_err()
            .to_string();
        assert!(
            message.contains(&format!("within the layer's {length}")),
            "{message}"
        );
    }
}

#[test]
fn a_rank_without_the_layer_ends_the_others_wait() {
    let good = open("ct_dynamic");
    let from = |group: &Group, name| {
        let backend = default_backend().clone();
        ShardedLinear::row_from_checkpoint(group, backend, (&good, name), None, Activation::None)
    };
    let results = ranks(2, |group| {
        from(&group, ["up", "absent"][group.rank()]).unwrap_err()
    });
    assert!(matches!(&results[0], CheckpointError::Layer { .. }));
    let message = results[0].to_string();
    assert!(
        message.contains("rank 1 failed") && message.contains("absent"),
        "{message}"
    );
    let other = Split::even(25, 2).unwrap();
    for result in ranks(2, |group| {
        let backend = default_backend().clone();
        let from = (&good, "up");
        ShardedLinear::row_from_checkpoint(&group, backend, from, Some(&other), Activation::None)
    }) {
        let message = result.unwrap_err().to_string();
        assert!(
            message.contains("a split of 25, expected one of 24"),
            "{message}"
        );
    }
}
