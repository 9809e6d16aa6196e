//! Which products are measured: given one by one, or as the layers of a known model.

use crate::Failure;
use clap::ValueEnum;

/// An [M, K] x [K, N] product.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    pub m: usize,
    pub k: usize,
    pub n: usize,
}

impl Shape {
    /// Reads `MxKxN`.
    pub fn parse(text: &str) -> Result<Self, Failure> {
        let sides: Vec<_> = text.split('x').map(|s| s.parse::<usize>().ok()).collect();
        match sides[..] {
            [Some(m), Some(k), Some(n)] => Ok(Shape { m, k, n }),
            _ => Err(Failure::new(format!(
                "--shapes has '{text}', expected MxKxN such as 128x1024x4096"
            ))),
        }
    }

    /// Multiplications and additions.
    pub fn operations(self) -> f64 {
        2.0 * self.m as f64 * self.n as f64 * self.k as f64
    }
}

/// The linear layers of a model, or a sweep.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum Suite {
    /// Llama 3 8B: qkv, o, gate and up, down.
    #[value(name = "llama-8b")]
    Llama8b,
    /// Llama 3 70B: the same.
    #[value(name = "llama-70b")]
    Llama70b,
    /// BERT base: qkv, o, up, down.
    #[value(name = "bert-base")]
    BertBase,
    /// M = N = K.
    Square,
    /// One to 64 tokens over the two weights that decoding is judged by.
    Decode,
}

impl Suite {
    /// The products, weights in turn and for each the numbers of tokens; `tokens` instead of the suite's own.
    pub fn shapes(self, tokens: &[usize]) -> Vec<Shape> {
        let (own, weights): (&[usize], &[(usize, usize)]) = match self {
            Suite::Llama8b => (
                &[1, 16, 128, 2048],
                &[(4096, 6144), (4096, 4096), (4096, 28672), (14336, 4096)],
            ),
            Suite::Llama70b => (
                &[1, 16, 128, 2048],
                &[(8192, 10240), (8192, 8192), (8192, 57344), (28672, 8192)],
            ),
            Suite::BertBase => (
                &[1, 128, 512, 4096],
                &[(768, 2304), (768, 768), (768, 3072), (3072, 768)],
            ),
            Suite::Decode => (
                &[1, 2, 4, 8, 16, 17, 32, 33, 64],
                &[(8192, 4096), (21760, 8192)],
            ),
            Suite::Square => {
                let sides = [256, 512, 1024, 2048, 4096, 8192];
                let square = |side| Shape {
                    m: side,
                    k: side,
                    n: side,
                };
                return sides.into_iter().map(square).collect();
            }
        };
        let tokens = if tokens.is_empty() { own } else { tokens };
        let of_weight = |&(k, n)| tokens.iter().map(move |&m| Shape { m, k, n });
        weights.iter().flat_map(of_weight).collect()
    }
}
