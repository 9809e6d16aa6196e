//! The MiniLM example against transformers, when `IMMA_MINILM` names the model's folder (examples/minilm/main.rs says how
//! to get it), and a layer of the same size always.

#[path = "../../examples/minilm/bert.rs"]
mod bert;
#[path = "../../examples/minilm/wordpiece.rs"]
mod wordpiece;

use bert::{cosine, Bert, Kind};
use imma::activation::Activation;
use imma::checkpoint::{quantize_model, Checkpoint, QuantizeOptions};
use imma::quant::ErrorReport;
use imma::Int8Linear;
use ndarray::{Array1, Array2, Ix2};
use std::path::{Path, PathBuf};
use wordpiece::WordPiece;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A dozen sentences, as tests/data/minilm/make.py picks them.
fn sentences() -> Vec<String> {
    let text = std::fs::read_to_string(root().join("examples/data/sentences.txt")).unwrap();
    text.lines()
        .step_by(30)
        .take(12)
        .map(String::from)
        .collect()
}

#[test]
fn int8_embeddings_stay_close_to_those_of_transformers() {
    let Some(model) = std::env::var_os("IMMA_MINILM").map(PathBuf::from) else {
        println!("not run: IMMA_MINILM does not name the model's folder");
        return;
    };
    let expected = Checkpoint::open(root().join("tests/data/minilm/expected.safetensors")).unwrap();
    let floats = |name| {
        expected
            .floats(name)
            .unwrap()
            .into_dimensionality::<Ix2>()
            .unwrap()
    };
    let (ids, want) = (floats("ids"), floats("embeddings"));
    let tokenizer = WordPiece::open(&model.join("vocab.txt")).unwrap();
    let tokens: Vec<_> = sentences().iter().map(|s| tokenizer.encode(s)).collect();
    for (tokens, ids) in tokens.iter().zip(ids.rows()) {
        let ids: Vec<u32> = ids.iter().map(|i| *i as u32).filter(|i| *i != 0).collect();
        assert_eq!(*tokens, ids);
    }
    // Accents go, punctuation stands alone, what the vocabulary lacks is one token.
    assert_eq!(
        tokenizer.encode("Caf\u{e9}, na\u{ef}ve"),
        [101, 7668, 1010, 15743, 102]
    );
    assert_eq!(tokenizer.encode("\u{13000}"), [101, 100, 102]);

    let mean = |kind: &Kind<'_>, from: &Path| {
        let bert = Bert::load(&Checkpoint::open(from).unwrap(), kind).unwrap();
        let got = bert.embed(&tokens).unwrap();
        let rows = want.rows().into_iter().zip(got.rows());
        rows.map(|(a, b)| cosine(a, b)).sum::<f64>() / tokens.len() as f64
    };
    let float = mean(&Kind::Float, &model);
    assert!(float > 0.999_999, "float: {float}");
    let int8 = mean(&Kind::Int8, &model);
    assert!(int8 >= 0.995, "int8: {int8}");
    let statistics = Bert::load(&Checkpoint::open(&model).unwrap(), &Kind::Float).unwrap();
    let statistics = statistics.observe(&tokens).unwrap();
    let smooth = mean(&Kind::Smooth(&statistics, 0.5), &model);
    assert!(smooth >= 0.995, "SmoothQuant: {smooth}");
    // The command's output is the same model, to the bit.
    let out = std::env::temp_dir().join(format!("imma-minilm-{}", std::process::id()));
    quantize_model(&model, &out, &QuantizeOptions::default(), &mut |_| ()).unwrap();
    assert_eq!(mean(&Kind::Int8, &out), int8);
    std::fs::remove_dir_all(&out).unwrap();
}

#[test]
fn a_layer_of_the_models_size_loses_little() {
    // Twelve uniform values summed: near enough to the normal distribution of trained weights.
    let mut state = 7u32;
    let mut normal = || {
        let mut sum = -6.0f32;
        for _ in 0..12 {
            state = state.wrapping_mul(1664525).wrapping_add(1013904223);
            sum += (state >> 8) as f32 / (1 << 24) as f32;
        }
        sum
    };
    let weight = Array2::from_shape_simple_fn((1536, 384), || normal() * 0.05);
    let bias = Array1::from_shape_simple_fn(1536, || normal() * 0.1);
    let x = Array2::from_shape_simple_fn((33, 384), &mut normal);
    let layer = Int8Linear::from_float(weight.view(), Some(bias.view())).unwrap();
    let layer = layer.with_activation(Activation::Gelu);
    let got = layer.forward(x.view()).unwrap().into_dyn();
    let want = (x.dot(&weight.t()) + &bias)
        .mapv(|x| Activation::Gelu.apply(x))
        .into_dyn();
    let report = ErrorReport::between(want.view(), got.view()).unwrap();
    assert!(report.snr_db > 35.0, "{report}");
}
