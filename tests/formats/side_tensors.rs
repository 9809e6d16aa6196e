//! Nothing that changes a layer's meaning is ignored: what stands beside a weight, or in a config, is applied with the
//! right values or refused by its name. Right values come from products of floats that share nothing with the reader.

use crate::folder::Folder;
use imma::checkpoint::{Checkpoint, OpenOptions, StoredWeight};
use imma::gemm::ActivationQuant;
use imma::Int8Linear;
use ndarray::{Array2, Axis};
use serde_json::{json, Value};

const N: usize = 24;
const K: usize = 64;

/// A file's tensors: name, type, shape, bytes.
#[derive(Clone, Default)]
struct Tensors(Vec<(String, &'static str, Vec<usize>, Vec<u8>)>);

impl Tensors {
    fn add(mut self, name: &str, dtype: &'static str, shape: &[usize], bytes: Vec<u8>) -> Self {
        self.0.push((name.into(), dtype, shape.into(), bytes));
        self
    }

    fn f32(self, name: &str, shape: &[usize], x: impl IntoIterator<Item = f32>) -> Self {
        let bytes = x.into_iter().flat_map(f32::to_le_bytes).collect();
        self.add(name, "F32", shape, bytes)
    }

    fn i8(self, name: &str, x: &Array2<i8>) -> Self {
        let bytes = x.iter().map(|x| *x as u8).collect();
        self.add(name, "I8", x.shape(), bytes)
    }

    fn i32(self, name: &str, shape: &[usize], x: impl IntoIterator<Item = i32>) -> Self {
        let bytes = x.into_iter().flat_map(i32::to_le_bytes).collect();
        self.add(name, "I32", shape, bytes)
    }

    fn write(&self, path: &std::path::Path) {
        let (mut header, mut data) = (serde_json::Map::new(), Vec::new());
        for (name, dtype, shape, bytes) in &self.0 {
            let at = [data.len(), data.len() + bytes.len()];
            header.insert(
                name.clone(),
                json!({"dtype": dtype, "shape": shape, "data_offsets": at}),
            );
            data.extend_from_slice(bytes);
        }
        let header = Value::Object(header).to_string();
        let mut file = (header.len() as u64).to_le_bytes().to_vec();
        file.extend_from_slice(header.as_bytes());
        file.extend_from_slice(&data);
        std::fs::write(path, file).unwrap();
    }

    /// A model's folder of them, with a config.json.
    fn folder(&self, config: Option<&str>) -> Folder {
        let folder = Folder::new("side");
        self.write(&folder.0.join("model.safetensors"));
        if let Some(config) = config {
            std::fs::write(folder.0.join("config.json"), config).unwrap();
        }
        folder
    }
}

fn noise(shape: (usize, usize), seed: u32) -> Array2<f32> {
    let mut state = seed;
    Array2::from_shape_simple_fn(shape, || {
        state = state.wrapping_mul(1664525).wrapping_add(1013904223);
        (state >> 8) as f32 / (1 << 23) as f32 - 1.0
    })
}

/// A weight as integers and a scale an output.
fn quantised(w: &Array2<f32>) -> (Array2<i8>, Vec<f32>) {
    let absmax = |row: ndarray::ArrayView1<f32>| row.iter().fold(0f32, |m, x| m.max(x.abs()));
    let scales: Vec<f32> = w.rows().into_iter().map(|r| absmax(r) / 127.0).collect();
    let q = Array2::from_shape_fn(w.dim(), |(j, i)| (w[[j, i]] / scales[j]).round() as i8);
    (q, scales)
}

/// `x . w^T + b`, in f64.
fn product(x: &Array2<f32>, w: &Array2<f32>, bias: &[f32]) -> Array2<f64> {
    Array2::from_shape_fn((x.nrows(), w.nrows()), |(m, n)| {
        let terms = (0..w.ncols()).map(|k| f64::from(x[[m, k]]) * f64::from(w[[n, k]]));
        terms.sum::<f64>() + bias.get(n).map_or(0.0, |b| f64::from(*b))
    })
}

fn off(got: &Array2<f32>, want: &Array2<f64>) -> f64 {
    let norm = |y: &Array2<f64>| y.iter().map(|y| y * y).sum::<f64>().sqrt();
    norm(&(got.mapv(f64::from) - want)) / norm(want)
}

/// The layer `up` of a folder computes `want` of `x`.
#[track_caller]
fn computes(folder: &Folder, prefix: &str, x: &Array2<f32>, want: &Array2<f64>) {
    let layer = Int8Linear::from_checkpoint(&folder.0, prefix).unwrap();
    let off = off(&layer.forward(x.view()).unwrap(), want);
    assert!(off < 0.03, "relative error {off}");
}

#[track_caller]
fn refused(folder: &Folder, prefix: &str, parts: &[&str]) {
    let message = Int8Linear::from_checkpoint(&folder.0, prefix)
        .unwrap_err()
        .to_string();
    for part in parts {
        assert!(message.contains(part), "'{part}' is not in: {message}");
    }
}

/// A plain int8 layer `up`.
fn plain(w: &Array2<f32>) -> Tensors {
    let (q, scales) = quantised(w);
    Tensors::default()
        .i8("up.weight", &q)
        .f32("up.weight_scale", &[N, 1], scales)
}

fn scheme(strategy: &str, dynamic: bool) -> Value {
    json!({"num_bits": 8, "type": "int", "symmetric": true, "strategy": strategy, "dynamic": dynamic,
           "group_size": null, "observer": "minmax"})
}

fn w8a8() -> Value {
    json!({
        "quant_method": "compressed-tensors", "format": "int-quantized", "quantization_status": "compressed",
        "ignore": ["lm_head"], "kv_cache_scheme": null,
        "config_groups": {"group_0": {"targets": ["Linear"], "weights": scheme("channel", false),
            "input_activations": scheme("token", true), "output_activations": null}},
    })
}

fn config(quantization: Value) -> String {
    json!({"model_type": "llama", "quantization_config": quantization}).to_string()
}

/// A matrix grown from a seed by Kronecker products, divided by the root of its size.
fn grown(seed: &[&[f32]], size: usize) -> Array2<f32> {
    let mut h = Array2::from_elem((1, 1), 1.0f32);
    let s = seed.len();
    while h.nrows() < size {
        let n = h.nrows() * s;
        h = Array2::from_shape_fn((n, n), |(i, j)| h[[i / s, j / s]] * seed[i % s][j % s]);
    }
    h / (size as f32).sqrt()
}

/// Every known tensor beside a layer, in every format: its name in an error, or `None` where it does not matter.
#[test]
fn what_stands_beside_a_weight_is_known_or_refused_by_name() {
    let w = noise((N, K), 1);
    let (q, scales) = quantised(&w);
    let bnb = Tensors::default().i8("up.weight", &q).f32(
        "up.SCB",
        &[N],
        scales.iter().map(|s| s * 127.0),
    );
    let floats = Tensors::default().f32("up.weight", &[N, K], w.iter().copied());
    let formats = [
        ("compressed-tensors", plain(&w), Some(config(w8a8()))),
        ("without a config", plain(&w), None),
        ("bitsandbytes", bnb, None),
        ("floats", floats, None),
    ];
    let side: [(&str, Option<&str>); 24] = [
        ("weight_g_idx", Some("act-order")),
        ("g_idx", Some("act-order")),
        ("perm", Some("another order")),
        ("output_scale", Some("a quantised output")),
        ("smooth_scale", Some("smoothing")),
        ("smooth_factor", Some("smoothing")),
        ("lora_A.weight", Some("low-rank")),
        ("lora_B.default.weight", Some("low-rank")),
        ("lora_down", Some("low-rank")),
        ("proj_up", Some("low-rank")),
        ("svd_down", Some("low-rank")),
        ("R1_input.weight", Some("not known")),
        ("weight.absmax", Some("not known")),
        ("scale_input", Some("not known")),
        ("rotation_size", Some("not known")),
        ("had_scale.inner.weight", Some("not known")),
        ("weight_scale_2", Some("not known")),
        ("K_proj", Some("not known")),
        ("k_scale", None),
        ("v_scale", None),
        ("q_scale", None),
        ("e_score_correction_bias", None),
        ("experts.0.weight", None),
        ("experts.11.gate.weight", None),
    ];
    for (format, tensors, config) in &formats {
        for (name, why) in &side {
            let whole = format!("up.{name}");
            let folder = tensors
                .clone()
                .f32(&whole, &[2], [1.0, 2.0])
                .folder(config.as_deref());
            let read = Int8Linear::from_checkpoint(&folder.0, "up").map_err(|e| e.to_string());
            match (read, why) {
                (Ok(_), None) => {}
                (Err(message), Some(why)) => {
                    let named = message.contains(&whole) && message.contains(why);
                    assert!(named, "{format} {name}: {message}");
                    // The caller may know better.
                    let options = OpenOptions::default().ignore_tensors(whole.parse().unwrap());
                    let open = Checkpoint::open_with(&folder.0, &options).unwrap();
                    assert!(open.linear("up").is_ok(), "{format} {name}");
                }
                (read, _) => panic!("{format} {name}: {:?}", read.map(|_| "read")),
            }
        }
        // Other layers' tensors are theirs.
        let other = tensors
            .clone()
            .f32("up2.weird", &[1], [1.0])
            .f32("updown", &[1], [1.0]);
        assert!(Int8Linear::from_checkpoint(&other.folder(config.as_deref()).0, "up").is_ok());
    }
    // Scales beside floats, static inputs of a dynamic layer: known names where they are not read.
    for (at, part) in [
        (3, "weight_scale"),
        (3, "input_scale"),
        (0, "input_scale"),
        (2, "weight_scale"),
    ] {
        let (_, tensors, config) = &formats[at];
        let name = format!("up.{part}");
        refused(
            &tensors
                .clone()
                .f32(&name, &[1], [0.5])
                .folder(config.as_deref()),
            "up",
            &[&name],
        );
    }
    // Zero points of what is symmetric are nothing, as long as they are zeros.
    let zeros = |z: i8| plain(&w).i8("up.weight_zero_point", &Array2::from_elem((N, 1), z));
    assert!(Int8Linear::from_checkpoint(&zeros(0).folder(Some(&config(w8a8()))).0, "up").is_ok());
    refused(
        &zeros(1).folder(Some(&config(w8a8()))),
        "up",
        &["up.weight_zero_point"],
    );
    // A layer that an adapter wraps.
    let wrapped = Tensors::default()
        .f32("q.base_layer.weight", &[N, K], w.iter().copied())
        .f32("q.lora_A.default.weight", &[4, K], vec![0.0; 4 * K]);
    refused(
        &wrapped.folder(None),
        "q.base_layer",
        &["q.lora_A.default.weight", "low-rank"],
    );
}

#[test]
fn modelopts_multiplier_of_the_inputs_is_applied() {
    let (w, mut x) = (noise((N, K), 2), noise((5, K), 3));
    x.column_mut(7).mapv_inplace(|x| x * 300.0);
    let factors: Vec<f32> = (0..K)
        .map(|k| if k == 7 { 1.0 / 256.0 } else { 1.5 })
        .collect();
    let stored = Array2::from_shape_fn((N, K), |(j, k)| w[[j, k]] / factors[k]);
    let want = product(&x, &w, &[]);
    let (q, scales) = quantised(&stored);
    let int8 = Tensors::default()
        .i8("up.weight", &q)
        .f32("up.weight_scale", &[N], scales);
    let floats = Tensors::default().f32("up.weight", &[N, K], stored.iter().copied());
    for tensors in [int8.clone(), floats] {
        let with = tensors
            .clone()
            .f32("up.pre_quant_scale", &[K], factors.clone());
        computes(&with.folder(None), "up", &x, &want);
        let without = Int8Linear::from_checkpoint(&tensors.folder(None).0, "up").unwrap();
        assert!(off(&without.forward(x.view()).unwrap(), &want) > 0.3);
        for bad in [
            tensors.clone().f32("up.pre_quant_scale", &[2], [1.0; 2]),
            tensors.f32("up.pre_quant_scale", &[K], [f32::NAN; K]),
        ] {
            refused(&bad.folder(None), "up", &["up.pre_quant_scale"]);
        }
    }
    // As its own config says.
    let folder = int8.f32("up.pre_quant_scale", &[K], factors).folder(None);
    let says = |algorithm: &str| {
        let text = json!({"producer": {}, "quantization": {"quant_algo": algorithm}}).to_string();
        std::fs::write(folder.0.join("hf_quant_config.json"), text).unwrap();
    };
    says("W8A8_SQ_PER_CHANNEL");
    computes(&folder, "up", &x, &want);
    says("NVFP4");
    refused(&folder, "up", &["hf_quant_config.json", "quant_algo NVFP4"]);
}

/// Files beside the weights that are JSON, but not what they should be, and that are none.
#[test]
fn files_beside_the_weights_that_are_no_objects_are_refused_by_name() {
    let (q, scales) = quantised(&noise((N, K), 61));
    let tensors = Tensors::default()
        .i8("up.weight", &q)
        .f32("up.weight_scale", &[N, 1], scales);
    for name in ["hf_quant_config.json", "quant_model_description.json"] {
        let folder = tensors.folder(None);
        for (text, found) in [
            ("[]", "no JSON object"),
            ("3", "no JSON object"),
            ("\"x\"", "no JSON object"),
            ("{", "no JSON ("),
        ] {
            std::fs::write(folder.0.join(name), text).unwrap();
            refused(&folder, "up", &[name, found]);
        }
        std::fs::write(folder.0.join(name), "{").unwrap();
        refused(&folder, "up", &[&format!("a model's {name}")]);
        for text in ["{}", "{\"quantization\": null}"] {
            std::fs::write(folder.0.join(name), text).unwrap();
            assert!(
                Int8Linear::from_checkpoint(&folder.0, "up").is_ok(),
                "{text}"
            );
        }
    }
}

#[test]
fn ascends_static_form_is_applied() {
    let (w, x) = (
        noise((N, K), 4),
        noise((5, K), 5).mapv(|x| x.max(-0.17) + 0.2),
    );
    let bias: Vec<f32> = (0..N).map(|j| j as f32 * 0.3 - 4.0).collect();
    let (q, scales) = quantised(&w);
    let (lo, hi) = x
        .iter()
        .fold((0f32, 0f32), |(lo, hi), x| (lo.min(*x), hi.max(*x)));
    let step = (hi - lo) / 255.0;
    let offset = (-128.0 - lo / step).round();
    let deq: Vec<f32> = scales.iter().map(|s| s * step).collect();
    let sums: Vec<i64> = q
        .rows()
        .into_iter()
        .map(|r| r.iter().map(|q| i64::from(*q)).sum())
        .collect();
    let corrected =
        (0..N).map(|j| (bias[j] / deq[j]).round() as i32 - (sums[j] as f32 * offset) as i32);
    let corrected: Vec<i32> = corrected.collect();
    let base = || {
        Tensors::default()
            .i8("up.weight", &q)
            .f32("up.weight_scale", &[N, 1], scales.clone())
            .f32("up.weight_offset", &[N, 1], [0.0; N])
            .f32("up.input_scale", &[1], [step])
            .f32("up.input_offset", &[1], [offset])
            .i32("up.quant_bias", &[N], corrected.clone())
    };
    let want = product(&x, &w, &bias);
    computes(
        &base().f32("up.deq_scale", &[N], deq.clone()).folder(None),
        "up",
        &x,
        &want,
    );
    // Models of half precision keep the bits of the scales in integers.
    let bits = deq
        .iter()
        .flat_map(|d| i64::from(d.to_bits()).to_le_bytes())
        .collect();
    let half = base().add("up.deq_scale", "I64", &[N], bits).folder(None);
    computes(&half, "up", &x, &want);
    let describe = |text: &str| {
        let text = json!({"up.weight": text}).to_string();
        std::fs::write(half.0.join("quant_model_description.json"), text).unwrap();
    };
    describe("W8A8");
    computes(&half, "up", &x, &want);
    describe("W4A8_DYNAMIC");
    refused(
        &half,
        "up",
        &["W4A8_DYNAMIC in quant_model_description.json"],
    );
    for (tensors, part) in [
        (
            base().f32("up.deq_scale", &[N], deq.iter().map(|d| d * 2.0)),
            "up.deq_scale",
        ),
        (base().f32("up.bias", &[N], bias.clone()), "up.bias"),
        (
            plain(&w).i32("up.quant_bias", &[N], corrected.clone()),
            "up.input_scale",
        ),
        (
            plain(&w).f32("up.weight_offset", &[N, 1], [1.0; N]),
            "up.weight_offset",
        ),
    ] {
        refused(&tensors.folder(None), "up", &[part]);
    }
}

#[test]
fn comfyuis_rotation_is_applied() {
    let (w, mut x) = (noise((N, K), 6), noise((5, K), 7));
    x[[0, 3]] = 60.0;
    let seed: [&[f32]; 4] = [
        &[1., 1., 1., -1.],
        &[1., 1., -1., 1.],
        &[1., -1., 1., 1.],
        &[-1., 1., 1., 1.],
    ];
    let want = product(&x, &w, &[]);
    for block in [4, 16, 64] {
        let h = grown(&seed, block);
        let rotated = Array2::from_shape_fn((N, K), |(j, k)| {
            let first = k / block * block;
            (0..block)
                .map(|i| w[[j, first + i]] * h[[i, k % block]])
                .sum::<f32>()
        });
        let says = |text: Value| {
            let text = text.to_string().into_bytes();
            plain(&rotated)
                .add("up.comfy_quant", "U8", &[text.len()], text)
                .folder(None)
        };
        let good = json!({"format": "int8_tensorwise", "convrot": true, "convrot_groupsize": block, "per_row": true});
        computes(&says(good.clone()), "up", &x, &want);
        for (key, value, part) in [
            ("format", json!("float8_e4m3fn"), "format float8_e4m3fn"),
            ("convrot_groupsize", json!(8), "a power of four"),
            (
                "convrot_groupsize",
                json!(256),
                "a power of four that divides the 64 inputs",
            ),
            ("convrot", json!("yes"), "convrot \"yes\""),
            ("shift", json!(3), "comfy_quant.shift 3"),
        ] {
            let mut bad = good.clone();
            bad[key] = value;
            refused(&says(bad), "up", &["up.comfy_quant", part]);
        }
    }
    let text = br#"{"format": "int8_tensorwise"}"#.to_vec();
    let plain = plain(&w).add("up.comfy_quant", "U8", &[text.len()], text);
    computes(&plain.folder(None), "up", &x, &want);
    let garbage = self::plain(&w).add("up.comfy_quant", "U8", &[3], vec![255; 3]);
    refused(&garbage.folder(None), "up", &["up.comfy_quant"]);
}

#[test]
fn compressed_tensors_rotation_of_the_inputs_is_applied() {
    let (w, x) = (noise((N, K), 8), noise((5, K), 9));
    let want = product(&x, &w, &[]);
    let place = |location: &str, inverse: bool| json!({"targets": ["Linear"], "location": location, "inverse": inverse, "ignore": ["lm_head"]});
    for block in [None, Some(16)] {
        let size = block.unwrap_or(K);
        let h = grown(&[&[1., 1.], &[1., -1.]], size);
        let rotated = Array2::from_shape_fn((N, K), |(j, k)| {
            let first = k / size * size;
            (0..size)
                .map(|i| w[[j, first + i]] * h[[i, k % size]])
                .sum::<f32>()
        });
        let says = |changes: &dyn Fn(&mut Value)| {
            let mut group = json!({"type": "hadamard", "randomize": false, "head_dim": block,
                "apply": [place("input", false), place("weight_input", true)]});
            changes(&mut group);
            let mut all = w8a8();
            all["transform_config"] = json!({"config_groups": {"v": group}});
            config(all)
        };
        let good = says(&|_| ());
        computes(&plain(&rotated).folder(Some(&good)), "up", &x, &want);
        // A matrix beside the layer must be that one.
        let matrix = |h: Array2<f32>| plain(&rotated).f32("up.v_input.weight", &[size, size], h);
        computes(
            &matrix(h.mapv(f32::signum)).folder(Some(&good)),
            "up",
            &x,
            &want,
        );
        let mut other = h.mapv(f32::signum);
        other[[1, 0]] = -1.0;
        refused(
            &matrix(other).folder(Some(&good)),
            "up",
            &["up.v_input.weight"],
        );
        type Change<'c> = &'c dyn Fn(&mut Value);
        let bad: [(Change, &str); 5] = [
            (&|g| g["type"] = "random-hadamard".into(), "random-hadamard"),
            (&|g| g["randomize"] = true.into(), "randomize true"),
            (
                &|g| g["apply"][0]["location"] = "output".into(),
                "location output",
            ),
            (
                &|g| g["head_dim"] = 48.into(),
                "transform_config.v of 48 of 64 inputs",
            ),
            (
                &|g| g["rotate_by"] = 48.into(),
                "transform_config.*.rotate_by",
            ),
        ];
        for (change, part) in bad {
            refused(
                &plain(&rotated).folder(Some(&says(change))),
                "up",
                &["config.json: up:", part],
            );
        }
        // A key that stands deep can't be left out by itself, and nothing says so.
        let folder = plain(&rotated).folder(Some(&says(&|g| g["rotate_by"] = 48.into())));
        let error = Int8Linear::from_checkpoint(&folder.0, "up").unwrap_err();
        let message = error.to_string();
        assert!(
            message.contains("known: type, apply") && !message.contains("ignore_keys"),
            "{message}"
        );
        // Other layers' transforms, and those of an attention, are theirs.
        let others = says(&|g| {
            g["apply"] = json!([place("weight_output", false), place("q_attn", false),
                {"targets": ["re:down$"], "location": "output"}])
        });
        computes(&plain(&w).folder(Some(&others)), "up", &x, &want);
    }
}

#[test]
fn keys_that_change_a_layer_are_refused_by_name_and_can_be_ignored() {
    let w = noise((N, K), 10);
    for (key, value) in [
        ("rotation", json!({"size": 64})),
        ("sparsity_config", json!({"format": "sparse-24-bitmask"})),
    ] {
        let mut all = w8a8();
        all[key] = value;
        let folder = plain(&w).folder(Some(&config(all)));
        refused(&folder, "up", &["config.json: up:", key]);
        let open = Checkpoint::open_with(&folder.0, &OpenOptions::default().ignore_keys(key));
        assert!(open.unwrap().linear("up").is_ok());
    }
    for (part, value) in [
        ("output_activations", scheme("tensor", false)),
        ("weight_rotation", json!(true)),
    ] {
        let mut all = w8a8();
        all["config_groups"]["group_0"][part] = value;
        refused(
            &plain(&w).folder(Some(&config(all))),
            "up",
            &[part, "group_0"],
        );
    }
    let mut all = w8a8();
    all["config_groups"]["group_0"]["weights"]["shift"] = 3.into();
    refused(
        &plain(&w).folder(Some(&config(all))),
        "up",
        &["weights.shift 3"],
    );
    // A cache's scheme is the attention's, but for layers whose output it quantises.
    let mut all = w8a8();
    all["kv_cache_scheme"] = scheme("tensor", false);
    let config = config(all);
    assert!(Int8Linear::from_checkpoint(&plain(&w).folder(Some(&config)).0, "up").is_ok());
    let touched = plain(&w).f32("up.output_scale", &[1], [0.1]);
    refused(
        &touched.folder(Some(&config)),
        "up",
        &["up.output_scale", "a quantised output"],
    );
}

#[test]
fn configs_are_found_where_they_stand() {
    let (w, x) = (noise((N, K), 11), noise((5, K), 12));
    let want = product(&x, &w, &[]);
    let at = |config: Value| plain(&w).folder(Some(&config.to_string()));
    for config in [
        json!({"compression_config": {"quantization_config": w8a8()}}),
        json!({"compression_config": w8a8()}),
        json!({"text_config": {"quantization_config": w8a8()}}),
        json!({"quantization_config": w8a8(), "thinker_config": {"text_config": {"quantization_config": w8a8()}}}),
        json!({"quantization_config": {"quant_method": "w8a8_int8"}}),
        json!({"quantization_config": {"quant_method": "w8a8_int8", "activation_scheme": "dynamic"}}),
    ] {
        computes(&at(config), "up", &x, &want);
    }
    let mut other = w8a8();
    other["ignore"] = json!([]);
    let both =
        json!({"quantization_config": w8a8(), "text_config": {"quantization_config": other}});
    refused(
        &at(both),
        "up",
        &["quantization_config and text_config.quantization_config, which differ"],
    );
    let fixed = json!({"quantization_config": {"quant_method": "w8a8_int8", "activation_scheme": "static"}});
    refused(&at(fixed), "up", &["activation_scheme \"static\""]);
    // As Python writes numbers.
    let text = format!(
        r#"{{"time_step_limit": [0.0, Infinity], "x": NaN, "quantization_config": {}}}"#,
        w8a8()
    );
    computes(&plain(&w).folder(Some(&text)), "up", &x, &want);
    // Python's expressions.
    let mut around = w8a8();
    around["ignore"] = json!(["re:^(?!up).*"]);
    computes(
        &plain(&w).folder(Some(&config(around.clone()))),
        "up",
        &x,
        &want,
    );
    around["ignore"] = json!(["re:^(?!down).*"]);
    refused(
        &plain(&w).folder(Some(&config(around))),
        "up",
        &["leaves this layer out"],
    );
    let mut endless = w8a8();
    endless["ignore"] = json!([r"re:(?=a)(a|a)+(a|a)+\1b"]);
    let long = "a".repeat(60);
    let folder = plain(&w).folder(Some(&config(endless)));
    let open = Checkpoint::open(&folder.0).unwrap();
    assert!(open.linear("up").is_ok() && open.linear(&long).is_err());
}

#[test]
fn formats_stand_side_by_side_and_fail_alone() {
    let (w, x) = (noise((N, K), 13), noise((5, K), 14));
    let want = product(&x, &w, &[]);
    let mut mixed = w8a8();
    mixed["format"] = "mixed-precision".into();
    mixed["config_groups"]["group_0"]["targets"] = json!(["re:up$"]);
    mixed["config_groups"]["group_0"]["format"] = "int-quantized".into();
    mixed["config_groups"]["group_1"] = json!({"targets": ["re:down$"], "format": "pack-quantized",
        "weights": {"num_bits": 4, "type": "int", "strategy": "group", "group_size": 32, "symmetric": true}});
    let tensors = plain(&w)
        .i32("down.weight_packed", &[16, 8], [1; 128])
        .f32("down.weight_scale", &[16, 2], [1.0; 32])
        .i32("down.weight_shape", &[2], [16, 64]);
    let folder = tensors.folder(Some(&config(mixed)));
    computes(&folder, "up", &x, &want);
    refused(&folder, "down", &["down:", "4 bits", "group_1"]);
    // Eight bits, packed: four to a word.
    let (q, scales) = quantised(&w);
    let packed: Vec<u8> = q.iter().map(|q| (i16::from(*q) + 128) as u8).collect();
    let mut only = w8a8();
    only["format"] = "pack-quantized".into();
    only["config_groups"]["group_0"]["input_activations"] = Value::Null;
    let tensors = |sides: [i32; 2]| {
        Tensors::default()
            .add("up.weight_packed", "I32", &[N, K / 4], packed.clone())
            .f32("up.weight_scale", &[N, 1], scales.clone())
            .i32("up.weight_shape", &[2], sides)
    };
    let folder = tensors([24, 64]).folder(Some(&config(only.clone())));
    computes(&folder, "up", &x, &want);
    let stored = Checkpoint::open(&folder.0)
        .unwrap()
        .stored_linear("up")
        .unwrap();
    assert!(matches!(stored.weight, StoredWeight::Int8 { data, .. } if data == q));
    assert_eq!(stored.input, ActivationQuant::PerToken);
    for sides in [[24, 60], [23, 64], [-1, 64], [0, 0]] {
        refused(
            &tensors(sides).folder(Some(&config(only.clone()))),
            "up",
            &["up.weight_"],
        );
    }
}

#[test]
fn blocks_bare_files_and_stale_indexes_are_read() {
    // 200 outputs in two blocks of rows, 160 inputs in two blocks of columns.
    let (n, k) = (200, 160);
    let (w, x) = (noise((n, k), 15), noise((5, k), 16));
    let block = |j: usize, i: usize| [0.01, 0.02, 0.03, 0.04][j / 128 * 2 + i / 128] as f32;
    let q = Array2::from_shape_fn((n, k), |(j, i)| {
        (w[[j, i]] / block(j, i)).round().clamp(-127.0, 127.0) as i8
    });
    let w = Array2::from_shape_fn((n, k), |(j, i)| f32::from(q[[j, i]]) * block(j, i));
    let want = product(&x, &w, &[]);
    let blocks = Tensors::default().i8("up.weight", &q).f32(
        "up.weight_scale_inv",
        &[2, 2],
        [0.01, 0.02, 0.03, 0.04],
    );
    let said = |size: Value| {
        config(
            json!({"quant_method": "blockwise_int8", "activation_scheme": "dynamic", "weight_block_size": size}),
        )
    };
    computes(
        &blocks.folder(Some(&said(json!([128, 128])))),
        "up",
        &x,
        &want,
    );
    computes(&blocks.folder(None), "up", &x, &want);
    refused(
        &blocks.folder(Some(&said(json!([128, 32])))),
        "up",
        &["up.weight_scale_inv", "[2, 5]"],
    );
    refused(
        &blocks.folder(Some(&said(json!([128, 96])))),
        "up",
        &["weight_block_size [128,96]"],
    );

    // A file of one layer.
    let bias: Vec<f32> = (0..n).map(|j| j as f32).collect();
    let bare = Tensors::default()
        .f32("weight", &[n, k], w.iter().copied())
        .f32("bias", &[n], bias.clone())
        .f32("blocks.weight", &[1], [0.0]);
    computes(&bare.folder(None), "", &x, &product(&x, &w, &bias));
    refused(
        &bare.clone().f32("odd", &[1], [0.0]).folder(None),
        "",
        &["odd"],
    );
    refused(
        &bare.f32("lora_A.weight", &[1], [0.0]).folder(None),
        "",
        &["lora_A.weight"],
    );

    // An index with more than there is.
    let folder = Folder::new("stale");
    blocks.write(&folder.0.join("a.safetensors"));
    let index = json!({"weight_map": {"up.weight": "a.safetensors", "up.weight_scale_inv": "a.safetensors",
        "head.weight": "a.safetensors", "gone.weight": "b.safetensors"}});
    let path = folder
        .0
        .join("diffusion_pytorch_model.safetensors.index.json");
    std::fs::write(path, index.to_string()).unwrap();
    computes(&folder, "up", &x, &want);
    refused(
        &folder,
        "head",
        &["head.weight: found no such tensor in a.safetensors"],
    );
    refused(
        &folder,
        "gone",
        &["gone.weight: found no file b.safetensors"],
    );
    assert_eq!(Checkpoint::open(&folder.0).unwrap().names().count(), 2);
}

/// NaN and infinity show up in their row and nowhere else, whatever the layer: its inputs quantised in any way, transformed
/// or not, its weights of any kind.
#[test]
fn what_is_not_finite_stays_in_its_row() {
    use imma::quant::{InputTransform, Rotation};
    let w = noise((N, K), 17);
    let rotation = InputTransform::default()
        .with_multiplier(&[0.5; K])
        .and_then(|t| t.with_rotation(Rotation::Hadamard4 { block: 16 }))
        .unwrap();
    let (q, scales) = quantised(&w);
    let backend = imma::ops::default_backend().clone();
    let zero: Vec<i8> = (0..N).map(|j| (j as i32 * 9 - 100) as i8).collect();
    let asymmetric =
        Int8Linear::from_int8_asymmetric_on::<f32>(backend, q.view(), &scales, &zero, None);
    let layers = [
        ("floats", Int8Linear::from_float(w.view(), None).unwrap()),
        ("asymmetric", asymmetric.unwrap()),
        (
            "groups",
            Int8Linear::from_float_groupwise(w.view(), 32, None).unwrap(),
        ),
    ];
    let inputs = [
        ActivationQuant::PerToken,
        ActivationQuant::PerTokenAsymmetric,
        ActivationQuant::Static { scale: 0.01 },
        ActivationQuant::StaticAsymmetric {
            scale: 0.01,
            zero_point: -7,
        },
    ];
    let mut ran = 0;
    for (name, layer) in layers {
        for input in inputs {
            let Ok(layer) = layer.clone().with_activation_quant(input) else {
                assert_eq!(name, "groups");
                continue;
            };
            for transform in [InputTransform::default(), rotation.clone()] {
                let layer = layer.clone().with_input_transform(transform).unwrap();
                for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                    let mut x = noise((7, K), 18);
                    let clean = layer.forward(x.view()).unwrap();
                    x[[2, 5]] = bad;
                    x[[6, 63]] = bad;
                    let y = layer.forward(x.view()).unwrap();
                    for (i, (y, clean)) in y
                        .axis_iter(Axis(0))
                        .zip(clean.axis_iter(Axis(0)))
                        .enumerate()
                    {
                        match i {
                            2 | 6 => {
                                assert!(y.iter().all(|y| y.is_nan()), "{name} {input:?} row {i}")
                            }
                            _ => assert_eq!(y, clean, "{name} {input:?} row {i}"),
                        }
                    }
                    ran += 1;
                }
            }
        }
    }
    assert_eq!(ran, 60);
}
