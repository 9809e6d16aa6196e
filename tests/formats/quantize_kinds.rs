//! Which layers of real models are quantised and which are left, what config.json then says, and which models and
//! files are refused or named: that others load what is written.

use crate::folder::Folder;
use imma::checkpoint::{quantize_model, Checkpoint, ModelReport, QuantizeOptions};
use serde_json::{json, Value};
use std::path::{Path, PathBuf};

/// Type and shape of a tensor whose values don't matter.
type Tensor<'a> = (&'a str, &'a str, &'a [usize]);

/// Writes a safetensors file of small numbers.
fn write_safetensors(path: &Path, tensors: &[Tensor<'_>]) {
    let (mut header, mut data) = (serde_json::Map::new(), Vec::<u8>::new());
    for (name, dtype, shape) in tensors {
        let size = match *dtype {
            "F64" => 8,
            "F32" | "I32" => 4,
            "BF16" | "F16" => 2,
            _ => 1,
        };
        let elements: usize = shape.iter().product();
        let start = data.len();
        for i in 0..elements {
            let x = ((i * 37 + start) % 29) as f32 * 0.013 - 0.17;
            match *dtype {
                "F64" => data.extend(f64::from(x).to_le_bytes()),
                "F32" => data.extend(x.to_le_bytes()),
                "BF16" => data.extend(half::bf16::from_f32(x).to_le_bytes()),
                "F16" => data.extend(half::f16::from_f32(x).to_le_bytes()),
                _ => data.extend(vec![1; size]),
            }
        }
        let place = json!({"dtype": dtype, "shape": shape, "data_offsets": [start, data.len()]});
        header.insert(name.to_string(), place);
    }
    let mut text = Value::Object(header).to_string().into_bytes();
    text.resize(text.len().next_multiple_of(8), b' ');
    let length = (text.len() as u64).to_le_bytes();
    std::fs::write(path, [&length[..], &text, &data].concat()).unwrap();
}

impl Folder {
    /// A model of these tensors; `config` is text, as Python may write it.
    fn model_of(&self, tensors: &[Tensor<'_>], config: &str) -> PathBuf {
        let model = self.0.join("model");
        let _ = std::fs::remove_dir_all(&model);
        std::fs::create_dir_all(&model).unwrap();
        write_safetensors(&model.join("model.safetensors"), tensors);
        std::fs::write(model.join("config.json"), config).unwrap();
        model
    }

    /// Quantises it into a fresh folder.
    fn quantized(&self, model: &Path, options: &QuantizeOptions) -> Result<ModelReport, String> {
        let out = self.0.join("out");
        let _ = std::fs::remove_dir_all(&out);
        quantize_model(model, &out, options, &mut |_| ()).map_err(|e| e.to_string())
    }

    /// The layers that were quantised and `ignore`; every layer of both kinds is read back.
    fn split(&self, model: &Path, options: &QuantizeOptions) -> (Vec<String>, Vec<String>) {
        let report = self.quantized(model, options).unwrap();
        let out = self.0.join("out");
        let config = std::fs::read_to_string(out.join("config.json")).unwrap();
        let config: Value = serde_json::from_str(&config).unwrap();
        let ignore = &config["quantization_config"]["ignore"];
        let ignore: Vec<String> = serde_json::from_value(ignore.clone()).unwrap();
        let read = Checkpoint::open(&out).unwrap();
        let int8 = read.int8_layers();
        let reported: Vec<_> = report.layers.iter().map(|l| l.name.clone()).collect();
        assert_eq!(int8, reported);
        let before = Checkpoint::open(model).unwrap();
        for layer in &int8 {
            let layer = read.linear(layer).unwrap_or_else(|e| panic!("{e}"));
            assert!(layer.inputs() > 0);
        }
        for name in before.names().filter(|n| {
            let prefix = n.strip_suffix(".weight").unwrap_or(n);
            !int8.iter().any(|layer| layer == prefix)
        }) {
            assert_eq!(before.info(name), read.info(name), "{name}");
        }
        (int8, ignore)
    }
}

fn excluding(patterns: &[&str]) -> QuantizeOptions {
    let mut options = QuantizeOptions::default();
    let patterns = patterns.iter().map(|p| p.parse().unwrap());
    options.exclude.extend(patterns);
    options
}

const MIXTURE: &[Tensor<'_>] = &[
    ("model.embed_tokens.weight", "BF16", &[32, 64]),
    ("model.layers.0.mlp.gate.weight", "BF16", &[8, 64]),
    (
        "model.layers.1.block_sparse_moe.gate.weight",
        "BF16",
        &[8, 64],
    ),
    (
        "model.layers.2.feed_forward.router.weight",
        "BF16",
        &[8, 64],
    ),
    (
        "model.layers.0.mlp.shared_expert_gate.weight",
        "BF16",
        &[1, 64],
    ),
    (
        "model.layers.0.mlp.experts.0.gate_proj.weight",
        "BF16",
        &[48, 64],
    ),
    ("model.layers.0.self_attn.q_proj.weight", "BF16", &[64, 64]),
    ("model.norm.weight", "BF16", &[64]),
    ("lm_head.weight", "BF16", &[32, 64]),
];

#[test]
fn routers_gates_embeddings_and_heads_stay_floats() {
    let dir = Folder::new("mixture");
    let model = dir.model_of(MIXTURE, r#"{"model_type": "qwen3_moe"}"#);
    let (int8, ignore) = dir.split(&model, &QuantizeOptions::default());
    let quantised = [
        "model.layers.0.mlp.experts.0.gate_proj",
        "model.layers.0.self_attn.q_proj",
    ];
    assert_eq!(int8, quantised);
    let mut left: Vec<&str> = MIXTURE
        .iter()
        .filter(|(_, _, shape)| shape.len() == 2)
        .map(|(name, ..)| name.strip_suffix(".weight").unwrap())
        .filter(|name| !quantised.contains(name))
        .collect();
    left.sort_unstable();
    assert_eq!(ignore, left);
    // Patterns add to the defaults.
    let (int8, ignore) = dir.split(&model, &excluding(&["*.q_proj"]));
    assert_eq!(int8, quantised[..1]);
    left.push(quantised[1]);
    left.sort_unstable();
    assert_eq!(ignore, left);
    // Unless asked for otherwise, nothing is left by itself.
    let mut options = QuantizeOptions::default();
    options.exclude = vec!["*.q_proj".parse().unwrap()];
    options.recognise = false;
    let (int8, ignore) = dir.split(&model, &options);
    assert_eq!((int8.len(), ignore), (7, vec![quantised[1].to_string()]));
}

#[test]
fn shape_and_use_tell_where_names_mislead() {
    let dir = Folder::new("roles");
    let tensors: &[Tensor<'_>] = &[
        // An embedding and a head that no name tells.
        ("model.tokens.weight", "F32", &[96, 16]),
        ("model.project.weight", "F32", &[96, 16]),
        // A router among four experts.
        ("model.layers.0.moe.select.weight", "F32", &[4, 16]),
        ("model.layers.0.moe.experts.0.w1.weight", "F32", &[4, 16]),
        ("model.layers.0.moe.experts.1.w1.weight", "F32", &[24, 16]),
        ("model.layers.0.moe.experts.2.w1.weight", "F32", &[24, 16]),
        ("model.layers.0.moe.experts.3.w1.weight", "F32", &[24, 16]),
        // A gated layer whose first half is called gate, and a gate.
        ("model.layers.1.mlp.gate.weight", "F32", &[24, 16]),
        ("model.layers.1.mlp.up.weight", "F32", &[24, 16]),
        ("model.layers.2.mlp.gate.weight", "F32", &[6, 16]),
        ("model.layers.2.mlp.up.weight", "F32", &[24, 16]),
        // All experts in one tensor, and their router.
        (
            "model.layers.3.mlp.experts.gate_up_proj",
            "F32",
            &[6, 16, 48],
        ),
        ("model.layers.3.mlp.choose.weight", "F32", &[6, 16]),
        // No layers of int8: a score, float64, a convolution.
        ("model.value.weight", "F32", &[1, 16]),
        ("model.wide.weight", "F64", &[24, 16]),
        ("model.conv.weight", "F32", &[4, 4, 3]),
    ];
    let config = r#"{"text_config": {"vocab_size": 96, "hidden_size": 16}}"#;
    let model = dir.model_of(tensors, config);
    let (int8, ignore) = dir.split(&model, &QuantizeOptions::default());
    assert_eq!(
        int8,
        [
            "model.layers.0.moe.experts.0.w1",
            "model.layers.0.moe.experts.1.w1",
            "model.layers.0.moe.experts.2.w1",
            "model.layers.0.moe.experts.3.w1",
            "model.layers.1.mlp.gate",
            "model.layers.1.mlp.up",
            "model.layers.2.mlp.up",
        ]
    );
    assert_eq!(
        ignore,
        [
            "model.layers.0.moe.select",
            "model.layers.2.mlp.gate",
            "model.layers.3.mlp.choose",
            "model.layers.3.mlp.experts",
            "model.project",
            "model.tokens",
            "model.value",
            "model.wide",
        ]
    );
}

#[test]
fn a_head_without_a_tensor_is_ignored_where_there_is_one() {
    let dir = Folder::new("tied");
    let tensors: &[Tensor<'_>] = &[("a.weight", "F32", &[8, 16])];
    for (config, head) in [
        (
            r#"{"architectures": ["LlamaForCausalLM"], "tie_word_embeddings": true}"#,
            true,
        ),
        (r#"{"architectures": ["GemmaForCausalLM"]}"#, true),
        (
            r#"{"architectures": ["LlamaForCausalLM"], "tie_word_embeddings": false}"#,
            false,
        ),
        (r#"{"architectures": ["BertModel"]}"#, false),
        ("{}", false),
    ] {
        let (_, ignore) = dir.split(&dir.model_of(tensors, config), &Default::default());
        let want: &[&str] = if head { &["lm_head"] } else { &[] };
        assert_eq!(ignore, want, "{config}");
    }
}

#[test]
fn the_rest_of_config_json_stays_as_it_is_written() {
    let dir = Folder::new("config");
    let tensors: &[Tensor<'_>] = &[("a.weight", "BF16", &[16, 64])];
    let head = "{\n  \"model_type\": \"nemotron_h\",\n  \"time_step_limit\": [\n    0.0,\n    Infinity\n  ],\n  \"eps\": 1e-05,\n  \"big\": 100000000000000000001";
    let model = dir.model_of(
        tensors,
        &format!("{head},\n  \"quantization_config\": null\n}}"),
    );
    let report = dir.quantized(&model, &Default::default()).unwrap();
    assert_eq!(report.layers.len(), 1);
    let out = dir.0.join("out");
    let written = std::fs::read_to_string(out.join("config.json")).unwrap();
    assert!(written.starts_with(head), "{written}");
    assert_eq!(written.matches("quantization_config").count(), 1);
    let read = imma::Int8Linear::from_checkpoint(&out, "a").unwrap();
    assert_eq!((read.inputs(), read.outputs()), (64, 16));
}

#[test]
fn models_that_are_quantised_already_are_refused_wherever_that_is_written() {
    let dir = Folder::new("already");
    let floats: &[Tensor<'_>] = &[("layers.0.q_proj.weight", "BF16", &[16, 64])];
    let refused = |model: &Path, parts: &[&str]| {
        let message = dir.quantized(model, &Default::default()).unwrap_err();
        for part in parts.iter().chain(&["quantised already"]) {
            assert!(message.contains(part), "'{part}' is not in: {message}");
        }
        assert!(!dir.0.join("out").exists());
    };
    let inner = r#"{"quant_method": "compressed-tensors", "format": "pack-quantized"}"#;
    for (config, place) in [
        (
            format!(r#"{{"quantization_config": {inner}}}"#),
            "quantization_config",
        ),
        (
            format!(r#"{{"text_config": {{"quantization_config": {inner}}}}}"#),
            "text_config.quantization_config (compressed-tensors)",
        ),
        (
            format!(r#"{{"compression_config": {{"quantization_config": {inner}}}}}"#),
            "compression_config",
        ),
        (
            format!(r#"{{"parts": [{{"quant_config": {inner}}}]}}"#),
            "parts.0.quant_config",
        ),
        (
            r#"{"quantization": {"bits": 4, "group_size": 64}}"#.into(),
            "quantization",
        ),
    ] {
        refused(&dir.model_of(floats, &config), &["config.json", place]);
    }
    for file in [
        "hf_quant_config.json",
        "quantize_config.json",
        "quant_model_description.json",
    ] {
        let model = dir.model_of(floats, "{}");
        std::fs::write(model.join(file), "{}").unwrap();
        refused(&model, &[file]);
    }
    for tensor in [
        ("layers.0.q_proj.weight", "I8", &[16, 64][..]),
        ("layers.0.q_proj.weight", "F8_E4M3", &[16, 64]),
        ("layers.0.q_proj.qweight", "I32", &[8, 64]),
        ("layers.0.q_proj.weight_packed", "I32", &[16, 8]),
        ("layers.0.q_proj.weight_scale", "BF16", &[16, 1]),
        ("layers.0.q_proj.SCB", "F32", &[16]),
    ] {
        let other = ("layers.0.k_proj.weight", "BF16", &[16, 64][..]);
        refused(&dir.model_of(&[tensor, other], "{}"), &[tensor.0]);
    }
    // Something that is said to be nothing says nothing.
    let model = dir.model_of(
        floats,
        r#"{"quantization": {}, "text_config": {"quantization_config": null}}"#,
    );
    dir.quantized(&model, &Default::default()).unwrap();
}

#[test]
fn transposed_layers_are_recognised_wherever_they_stand() {
    let dir = Folder::new("transposed");
    let square: &[Tensor<'_>] = &[("decoder.h.0.attn.c_proj.weight", "F32", &[16, 16])];
    for config in [
        r#"{"model_type": "gpt2"}"#,
        r#"{"model_type": "vision-encoder-decoder", "decoder": {"model_type": "gpt2"}}"#,
        r#"{"architectures": ["GPT2LMHeadModel"]}"#,
        r#"{"parts": [{"decoder_config": {"model_type": "clvp_decoder"}}]}"#,
    ] {
        let message = dir.quantized(&dir.model_of(square, config), &Default::default());
        let message = message.unwrap_err();
        assert!(
            message.contains("transposed (Conv1D)"),
            "{config}: {message}"
        );
    }
    // Without a config the bias tells.
    let tensors: &[Tensor<'_>] = &[
        ("h.0.attn.c_attn.weight", "F32", &[16, 48]),
        ("h.0.attn.c_attn.bias", "F32", &[48]),
    ];
    let message = dir.quantized(&dir.model_of(tensors, "{}"), &Default::default());
    let message = message.unwrap_err();
    let part = "c_attn.weight: found F32 [16, 48] beside a bias of 48, expected [N, K]";
    assert!(message.contains(part), "{message}");
    // The name alone says nothing: nanoGPT's layers are [N, K].
    let tensors: &[Tensor<'_>] = &[
        ("h.0.attn.c_attn.weight", "F32", &[48, 16]),
        ("h.0.attn.c_attn.bias", "F32", &[48]),
    ];
    dir.split(&dir.model_of(tensors, "{}"), &Default::default());
    let none: &[Tensor<'_>] = &[("embed.weight", "F32", &[16, 16])];
    let message = dir.quantized(&dir.model_of(none, "{}"), &Default::default());
    assert!(message.unwrap_err().contains("found no layer to quantise"));
}

#[cfg(unix)]
#[test]
fn links_are_followed_and_what_is_no_file_is_named() {
    use std::os::unix::fs::symlink;
    let dir = Folder::new("odd");
    let model = dir.model_of(&[("a.weight", "F32", &[8, 16])], "{}");
    // As a download cache keeps a model: links to files elsewhere.
    let blobs = dir.0.join("blobs");
    std::fs::create_dir_all(blobs.join("tokens")).unwrap();
    std::fs::rename(model.join("model.safetensors"), blobs.join("1")).unwrap();
    symlink("../blobs/1", model.join("model.safetensors")).unwrap();
    std::fs::write(blobs.join("2"), "tokenizer").unwrap();
    symlink("../blobs/2", model.join("tokenizer.json")).unwrap();
    std::fs::write(blobs.join("tokens/merges.txt"), "merges").unwrap();
    symlink("../blobs/tokens", model.join("linked")).unwrap();
    symlink(".", model.join("circle")).unwrap();
    symlink("gone", model.join("dangling.json")).unwrap();
    std::fs::create_dir_all(model.join(".git")).unwrap();
    std::fs::write(model.join("pytorch_model.bin.index.json"), "{}").unwrap();
    std::fs::write(model.join("model.onnx"), "").unwrap();
    let long = "n".repeat(255);
    std::fs::write(model.join(&long), "long").unwrap();
    let fifo = std::process::Command::new("mkfifo")
        .arg(model.join("fifo"))
        .status();
    assert!(fifo.unwrap().success());

    let report = dir.quantized(&model, &Default::default()).unwrap();
    let out = dir.0.join("out");
    let read = |name: &str| std::fs::read_to_string(out.join(name)).unwrap();
    assert_eq!(read("tokenizer.json"), "tokenizer");
    assert_eq!(read("linked/merges.txt"), "merges");
    assert_eq!(read(&long), "long");
    for name in ["tokenizer.json", "linked", "model.safetensors"] {
        assert!(
            !out.join(name).symlink_metadata().unwrap().is_symlink(),
            "{name}"
        );
    }
    let mut names: Vec<_> = std::fs::read_dir(&out)
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .filter(|name| *name != long)
        .collect();
    names.sort();
    let want = [
        "config.json",
        "linked",
        "model.safetensors",
        "quantization.md",
        "quantization.svg",
        "tokenizer.json",
    ];
    assert_eq!(names, want);
    let left: Vec<_> = report
        .left_out
        .iter()
        .map(|l| l.rsplit('/').next().unwrap())
        .collect();
    assert_eq!(
        left,
        [
            ".git (a hidden folder)",
            "circle (a link to a folder around it)",
            "dangling.json (a link that leads nowhere)",
            "fifo (neither a file nor a folder)",
            "model.onnx (weights)",
            "pytorch_model.bin.index.json (the index of weights)",
        ]
    );
    assert_eq!(Checkpoint::open(&out).unwrap().int8_layers(), ["a"]);
}

#[test]
fn a_single_file_is_a_model_too() {
    let dir = Folder::new("single");
    let tensors: &[Tensor<'_>] = &[("a.weight", "F16", &[8, 16]), ("a.bias", "F16", &[8])];
    let model = dir.model_of(tensors, r#"{"model_type": "test"}"#);
    std::fs::write(model.join("tokenizer.json"), "{}").unwrap();
    let report = dir.quantized(&model.join("model.safetensors"), &Default::default());
    assert_eq!(report.unwrap().layers.len(), 1);
    let out = dir.0.join("out");
    assert_eq!(Checkpoint::open(&out).unwrap().int8_layers(), ["a"]);
    let config = std::fs::read_to_string(out.join("config.json")).unwrap();
    assert!(config.contains("\"test\""), "{config}");
    assert!(!out.join("tokenizer.json").exists());
}
