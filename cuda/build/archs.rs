//! Architectures: which there will be code for.

use super::nvcc::dotted;

/// Architectures when none are asked for, as far as the compiler knows them.
pub const DEFAULT: [&str; 6] = ["80", "86", "89", "90a", "100", "120"];
/// What Hopper's own kernels are compiled for.
pub const HOPPER: &str = "90a";

/// What to compile for.
#[derive(Debug, PartialEq, Eq)]
pub struct Archs {
    /// In order of number.
    pub names: Vec<String>,
    /// What the user did not ask for and should know.
    pub note: Option<String>,
}

/// The architectures of `IMMA_CUDA_ARCHS` (the default where it is empty), for a compiler of this version that knows these
/// numbers.
///
/// # Errors
/// A sentence about the first that can't be had. Without 90a asked for or left out by name, a compiler that can't make it
/// is refused: Hopper's kernels don't go missing unseen.
pub fn choose(asked: &str, known: &[String], version: u32) -> Result<Archs, String> {
    let knows = |arch: &str| known.iter().any(|k| *k == digits(arch));
    let compiler = format!("this nvcc (CUDA {})", dotted(version));
    let mut note = None;
    let mut names: Vec<String> = if asked.trim().is_empty() {
        let (there, lacking): (Vec<_>, Vec<_>) = DEFAULT.into_iter().partition(|arch| knows(arch));
        if lacking.contains(&HOPPER) {
            return Err(format!(
                "{compiler} makes no code for {HOPPER}, without which Hopper's kernels are missing: take another, or list \
                 what it shall compile for in IMMA_CUDA_ARCHS ({})",
                offer(known)
            ));
        }
        if there.first() != Some(&DEFAULT[0]) {
            return Err(format!(
                "{compiler} makes no code for {}: list what it shall compile for in IMMA_CUDA_ARCHS ({})",
                DEFAULT[0],
                offer(known)
            ));
        }
        if !lacking.is_empty() {
            note = Some(format!(
                "{compiler} makes no code for {}: the driver compiles there what was made for {}",
                lacking.join(", "),
                DEFAULT[0]
            ));
        }
        there.into_iter().map(Into::into).collect()
    } else {
        let asked: Vec<&str> = asked.split(',').map(str::trim).collect();
        for arch in &asked {
            if let Some(reason) = refusal(arch, &knows) {
                return Err(format!(
                    "IMMA_CUDA_ARCHS: '{arch}' {reason} ({compiler} compiles for {})",
                    offer(known)
                ));
            }
        }
        if !asked.contains(&HOPPER) {
            note = Some(format!(
                "IMMA_CUDA_ARCHS does not ask for {HOPPER}: Hopper's own kernels are left out"
            ));
        }
        asked.into_iter().map(Into::into).collect()
    };
    names.sort_by_key(|arch| number(arch));
    names.dedup();
    Ok(Archs { names, note })
}

/// Why there can be no code for what was asked; none if there can.
fn refusal(arch: &str, knows: &impl Fn(&str) -> bool) -> Option<String> {
    if arch.is_empty() {
        return Some("is no architecture: write, for example, 80,90a".into());
    }
    let bare = arch
        .to_ascii_lowercase()
        .replace("sm_", "")
        .replace("compute_", "")
        .replace('.', "");
    let right = if digits(&bare) == "90" { HOPPER } else { &bare };
    let suffix = &bare[digits(&bare).len()..];
    if digits(&bare).is_empty() || !matches!(suffix, "" | "a" | "f") {
        return Some("is no architecture: write a number such as 80, or 90a".into());
    }
    if number(&bare) < 80 {
        return Some("is too old: the kernels use instructions that start with 80".into());
    }
    if bare != arch {
        return Some(format!("is written {right}"));
    }
    if bare == "90" {
        return Some(format!(
            "has none of Hopper's own instructions, so its kernels would be left out: write {HOPPER}"
        ));
    }
    let since = match suffix {
        "a" => 90,
        "f" => 100,
        _ => 80,
    };
    (!knows(arch) || number(arch) < since).then(|| "is unknown to this compiler".into())
}

/// What can be asked for.
fn offer(known: &[String]) -> String {
    let new = known.iter().filter(|arch| number(arch) >= 80);
    let mut names: Vec<&str> = new
        .map(|a| if a == "90" { HOPPER } else { a.as_str() })
        .collect();
    names.sort_by_key(|arch| number(arch));
    names.join(", ")
}

fn digits(arch: &str) -> &str {
    let end = arch.find(|c: char| !c.is_ascii_digit());
    &arch[..end.unwrap_or(arch.len())]
}

/// The number of `90a` is 90.
fn number(arch: &str) -> u32 {
    digits(arch).parse().unwrap_or(0)
}
