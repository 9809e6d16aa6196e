//! A model's folder written as a W8A8 checkpoint: what is in it, and that a run can be cut off anywhere.

use crate::folder::Folder;
use imma::checkpoint::{quantize_model, Checkpoint, QuantizeOptions, StoredWeight};
use imma::quant::Calibration;
use imma::Int8Linear;
use ndarray::{Array2, Ix2};
use std::collections::BTreeMap;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::path::{Path, PathBuf};

fn data(folder: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/data/checkpoints")
        .join(folder)
}

impl Folder {
    /// The model of floats, with a few files beside it.
    fn model(&self) -> PathBuf {
        let model = self.0.join("model");
        std::fs::create_dir_all(model.join("pooling")).unwrap();
        for file in std::fs::read_dir(data("floats")).unwrap() {
            let file = file.unwrap().path();
            if file.file_name().unwrap() != "expected.safetensors" {
                std::fs::copy(&file, model.join(file.file_name().unwrap())).unwrap();
            }
        }
        std::fs::write(model.join("tokenizer.json"), "{}").unwrap();
        std::fs::write(model.join("pooling/config.json"), "[1]").unwrap();
        std::fs::write(model.join("pytorch_model.bin"), "floats again").unwrap();
        model
    }
}

/// Every file of a folder by its path in it.
fn files(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut open = vec![dir.to_path_buf()];
    while let Some(folder) = open.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path);
            } else {
                let name = path.strip_prefix(dir).unwrap().display().to_string();
                found.insert(name, std::fs::read(&path).unwrap());
            }
        }
    }
    found
}

fn quantize(model: &Path, out: &Path) -> imma::checkpoint::ModelReport {
    quantize_model(model, out, &QuantizeOptions::default(), &mut |_| ()).unwrap()
}

#[test]
fn layers_become_int8_and_the_rest_is_copied() {
    let dir = Folder::new("layers");
    let (model, out) = (dir.model(), dir.0.join("out"));
    let mut last = None;
    let mut steps = 0;
    let report = quantize_model(&model, &out, &QuantizeOptions::default(), &mut |p| {
        steps += 1;
        last = Some((p.layers, p.bytes));
    });
    let report = report.unwrap();
    assert!(steps > 7);
    let ((layers, of), (bytes, all)) = last.unwrap();
    assert_eq!((layers, of, bytes), (2, 2, all));
    let names: Vec<_> = report.layers.iter().map(|l| l.name.as_str()).collect();
    assert_eq!(names, ["down", "up"]);
    assert_eq!(report.ignored, ["embed", "lm_head"]);
    assert!(report.left_out[0].ends_with("pytorch_model.bin (weights)"));
    let held = files(&out);
    let want = [
        "config.json",
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
        "model.safetensors.index.json",
        "pooling/config.json",
        "quantization.md",
        "quantization.svg",
        "tokenizer.json",
    ];
    assert_eq!(held.keys().collect::<Vec<_>>(), want);
    let text = |name: &str| String::from_utf8(held[name].clone()).unwrap();
    assert!(text("quantization.md").contains("| down  |       24 x 40 |"));
    assert!(text("quantization.svg").matches("<title>").count() == 2);
    let config: serde_json::Value = serde_json::from_str(&text("config.json")).unwrap();
    assert_eq!(config["model_type"], "test");
    let quantization = &config["quantization_config"];
    assert_eq!(
        quantization["ignore"],
        serde_json::json!(["embed", "lm_head"])
    );

    let (before, after) = (
        Checkpoint::open(&model).unwrap(),
        Checkpoint::open(&out).unwrap(),
    );
    assert_eq!(after.int8_layers(), ["down", "up"]);
    for name in before
        .names()
        .filter(|n| !["up.weight", "down.weight"].contains(n))
    {
        assert_eq!(before.info(name), after.info(name), "{name}");
        assert_eq!(before.floats(name).unwrap(), after.floats(name).unwrap());
    }
    for layer in &report.layers {
        let floats = before.floats(&format!("{}.weight", layer.name)).unwrap();
        let stored = after.stored_linear(&layer.name).unwrap();
        assert!(matches!(stored.weight, StoredWeight::Int8 { .. }));
        let got = stored.weight.dequantize().into_dyn();
        let error = imma::quant::ErrorReport::between(floats.view(), got.view()).unwrap();
        assert!(
            (error.snr_db - layer.snr_db()).abs() < 1e-6 && error.snr_db > 35.0,
            "{error}"
        );
        assert_eq!(layer.histogram.iter().sum::<u64>(), 960);
    }
    // What is written for bfloat16 has scales in bfloat16, [N, 1].
    let scale = after.info("up.weight_scale").unwrap();
    assert_eq!((scale.dtype.as_str(), scale.shape), ("BF16", vec![40, 1]));
}

#[test]
fn an_f32_layer_keeps_the_bits_of_from_float() {
    let dir = Folder::new("f32");
    let model = dir.0.join("model");
    std::fs::create_dir_all(&model).unwrap();
    let weight = Array2::from_shape_fn((5, 33), |(i, j)| {
        ((i * 37 + j * 11) % 29) as f32 * 0.013 - 0.17
    });
    let bytes: Vec<u8> = weight.iter().flat_map(|x| x.to_le_bytes()).collect();
    let header = format!(
        r#"{{"p.weight":{{"dtype":"F32","shape":[5,33],"data_offsets":[0,{}]}}}}"#,
        bytes.len()
    );
    let file = [
        &(header.len() as u64).to_le_bytes()[..],
        header.as_bytes(),
        &bytes,
    ]
    .concat();
    std::fs::write(model.join("model.safetensors"), file).unwrap();
    quantize(&model, &dir.0.join("out"));
    let read = Int8Linear::from_checkpoint(dir.0.join("out"), "p").unwrap();
    let direct = Int8Linear::from_float(weight.view(), None).unwrap();
    let x = Array2::from_shape_fn((3, 33), |(i, j)| (i as f32 - 1.3) * (j as f32 - 7.7));
    assert_eq!(
        read.forward(x.view()).unwrap(),
        direct.forward(x.view()).unwrap()
    );
}

#[test]
fn a_run_cut_off_anywhere_leaves_no_half_file_and_continues() {
    let dir = Folder::new("cut");
    let model = dir.model();
    let whole = dir.0.join("whole");
    let report = quantize(&model, &whole);
    let want = files(&whole);
    let mut steps = 0;
    quantize_model(
        &model,
        &dir.0.join("count"),
        &QuantizeOptions::default(),
        &mut |_| steps += 1,
    )
    .unwrap();
    let mut continued = 0;
    for stop in 1..=steps {
        let out = dir.0.join(format!("out{stop}"));
        // A panic in the callback ends the run as a kill would: nothing is tidied up.
        let mut step = 0;
        let cut = catch_unwind(AssertUnwindSafe(|| {
            let _ = quantize_model(&model, &out, &QuantizeOptions::default(), &mut |_| {
                step += 1;
                assert!(step < stop, "stopped here");
            });
        }));
        assert!(cut.is_err());
        let left = files(&out);
        assert!(!left.contains_key("config.json"));
        for (name, bytes) in &left {
            if !name.starts_with('.') {
                assert!(
                    want[name] == *bytes,
                    "{name} is half written after {stop} steps"
                );
            }
        }
        // A line of the journal that was cut off in the middle does not count.
        let journal = out.join(".imma-quantize.jsonl");
        let mut text = std::fs::read(&journal).unwrap();
        text.extend_from_slice(b"{\"unit\": \"up.wei");
        std::fs::write(&journal, text).unwrap();
        let again = quantize(&model, &out);
        continued = continued.max(again.continued);
        assert!(files(&out) == want, "after {stop} steps");
        assert_eq!(again.layers, report.layers, "after {stop} steps");
    }
    assert_eq!(continued, 2);
}

#[test]
fn an_interrupted_run_with_other_options_starts_anew() {
    let dir = Folder::new("options");
    let (model, out) = (dir.model(), dir.0.join("out"));
    let mut steps = 0;
    let cut = catch_unwind(AssertUnwindSafe(|| {
        let _ = quantize_model(&model, &out, &QuantizeOptions::default(), &mut |_| {
            steps += 1;
            assert!(steps < 10, "stopped here");
        });
    }));
    assert!(cut.is_err());
    let mut options = QuantizeOptions::default();
    options.calibration = Calibration::MeanSquaredError { steps: 40 };
    options.include = vec!["re:.*own".parse().unwrap()];
    let report = quantize_model(&model, &out, &options, &mut |_| ()).unwrap();
    assert_eq!((report.layers.len(), report.continued), (1, 0));
    assert_eq!(report.layers[0].name, "down");
    let fresh = dir.0.join("fresh");
    quantize_model(&model, &fresh, &options, &mut |_| ()).unwrap();
    assert!(files(&fresh) == files(&out));
    let matrix = Checkpoint::open(&out).unwrap().floats("up.weight").unwrap();
    assert!(matrix.into_dimensionality::<Ix2>().is_ok());
}

#[test]
fn what_makes_no_sense_is_refused() {
    let dir = Folder::new("refused");
    let model = dir.model();
    let refused = |input: &Path, out: &Path, part: &str| {
        let message = quantize_model(input, out, &QuantizeOptions::default(), &mut |_| ());
        let message = message.unwrap_err().to_string();
        assert!(message.contains(part), "'{part}' is not in: {message}");
    };
    let out = dir.0.join("out");
    refused(&data("ct_dynamic"), &out, "quantised already");
    refused(&dir.0.join("gone"), &out, "no such file");
    refused(&model, &model, "the model's own folder");
    refused(&model, &model.join("inside"), "the model's own folder");
    std::fs::remove_dir(model.join("inside")).unwrap();
    let full = dir.0.join("full");
    std::fs::create_dir_all(&full).unwrap();
    std::fs::write(full.join("x"), "").unwrap();
    refused(&model, &full, "a folder that is not empty");
    quantize(&model, &out);
    refused(&model, &out, "a folder that is not empty");
    std::fs::write(model.join("config.json"), r#"{"model_type": "gpt2"}"#).unwrap();
    refused(&model, &dir.0.join("out2"), "Conv1D");
}

#[test]
fn a_weight_with_nan_is_named() {
    let dir = Folder::new("nan");
    let model = dir.0.join("model");
    std::fs::create_dir_all(&model).unwrap();
    let header = r#"{"p.weight":{"dtype":"F32","shape":[2,1],"data_offsets":[0,8]}}"#;
    let bytes = [1.0f32, f32::NAN].map(f32::to_le_bytes).concat();
    let file = [
        &(header.len() as u64).to_le_bytes()[..],
        header.as_bytes(),
        &bytes,
    ]
    .concat();
    std::fs::write(model.join("model.safetensors"), file).unwrap();
    let out = dir.0.join("out");
    let e = quantize_model(&model, &out, &QuantizeOptions::default(), &mut |_| ()).unwrap_err();
    let e = e.to_string();
    assert!(
        e.contains("p.weight: found NaN or infinity in row 1, expected finite"),
        "{e}"
    );
    assert!(!out.join("model.safetensors").exists());
}

/// Scales for groups of inputs: what is written is read back as the layer that quantising makes, bit for bit.
#[test]
fn groups_of_inputs_are_written_and_read_back() {
    let dir = Folder::new("groups");
    let model = dir.0.join("model");
    std::fs::create_dir(&model).unwrap();
    let floats = Array2::from_shape_fn((6, 128), |(i, j)| {
        ((i * 131 + j * 17) % 257) as f32 * 0.01 - if j == 70 { 40.0 } else { 1.0 }
    });
    let bytes: Vec<u8> = floats.iter().flat_map(|x| x.to_le_bytes()).collect();
    let header = r#"{"up.weight":{"dtype":"F32","shape":[6,128],"data_offsets":[0,3072]}}"#;
    let file = [
        &(header.len() as u64).to_le_bytes()[..],
        header.as_bytes(),
        &bytes,
    ]
    .concat();
    std::fs::write(model.join("model.safetensors"), file).unwrap();
    std::fs::write(model.join("config.json"), r#"{"model_type": "test"}"#).unwrap();
    let mut worst = f64::INFINITY;
    for size in [128, 64, 32] {
        let out = dir.0.join(format!("out-{size}"));
        let mut options = QuantizeOptions::default();
        options.group_size = Some(size);
        let report = quantize_model(&model, &out, &options, &mut |_| ()).unwrap();
        // The outlier costs its own group alone.
        let noise = report.layers[0].noise;
        assert!(noise < worst, "{size}: {noise}, {worst} before");
        worst = noise;
        let config = std::fs::read_to_string(out.join("config.json")).unwrap();
        let config: serde_json::Value = serde_json::from_str(&config).unwrap();
        let weights = &config["quantization_config"]["config_groups"]["group_0"]["weights"];
        assert_eq!(
            (&weights["strategy"], &weights["group_size"]),
            (&"group".into(), &size.into())
        );
        let read = Int8Linear::from_checkpoint(&out, "up").unwrap();
        let direct = Int8Linear::from_float_groupwise(floats.view(), size, None).unwrap();
        let x = Array2::from_shape_fn((3, 128), |(i, j)| (i as f32 - 1.5) * (j as f32 - 60.25));
        let (got, want) = (
            read.forward(x.view()).unwrap(),
            direct.forward(x.view()).unwrap(),
        );
        assert_eq!(got, want);
    }
    // 24 and 40 inputs are no whole groups, and other sizes are not known.
    let dir = Folder::new("no-groups");
    for (size, part) in [
        (32, "K a multiple of the 32 inputs"),
        (48, "the group size is 48"),
    ] {
        let mut options = QuantizeOptions::default();
        options.group_size = Some(size);
        let error = quantize_model(&dir.model(), &dir.0.join("no"), &options, &mut |_| ());
        let error = error.unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
        assert!(!dir.0.join("no").exists());
    }
}
