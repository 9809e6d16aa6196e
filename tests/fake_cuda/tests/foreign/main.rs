//! Kernels that another compiler made: Triton's PTX of our kernels (`foreign/`), against integer oracles, over several seeds
//! of the schedule.
#[path = "../common/mod.rs"]
mod common;
mod fixture;
mod floats;
mod integers;
mod products;

use common::must_fail;
use fake_cuda::exec::FaultKind;
use fake_cuda::memory::MemoryFault;
use fake_cuda::strictness::{Relaxed, Rule};
use fixture::{all, Fixture, Outcome, Trial};

/// Runs one fixture; a wrong answer panics.
fn check(t: &Trial<'_>) -> Outcome {
    match t.fixture.kernel.as_str() {
        "dot_s8" | "dot_s8_whole" | "dot_s8_changed" | "dot_s8_onto" => products::plain(t),
        "dot_s8_tma" | "dot_s8_specialised" | "dot_s8_multicast" => products::mapped(t),
        "transpose_tma" => integers::transpose(t),
        "reduce_tma" => integers::reduce(t),
        "turns_tma" => integers::turns(t),
        "half_written" => integers::half_written(t),
        "atomics" => integers::atomics(t),
        "scan" => integers::scan(t),
        "conversions" => floats::conversions(t),
        "float_bits" => floats::float_bits(t),
        "quantise" => floats::quantise(t),
        other => panic!("no oracle for {other}"),
    }
}

const SEEDS: std::ops::Range<u64> = 0..4;

fn named(name: &str) -> &'static Fixture {
    let found = all().iter().find(|f| f.name == name);
    found.unwrap_or_else(|| panic!("no fixture {name}"))
}

fn relaxed(rules: &[Rule]) -> Relaxed {
    rules.iter().fold(Relaxed::default(), |all, r| all.and(*r))
}

/// Whether a launch stopped because of this rule.
fn broke(rule: Rule, kind: &FaultKind) -> bool {
    match (rule, kind) {
        (Rule::InitFence, FaultKind::Proxy(t)) => t.contains("fence.mbarrier_init"),
        (Rule::SameValue, FaultKind::Race(t)) => t.contains("after a write by warp"),
        (Rule::UnusedShared, FaultKind::Shared(m)) => {
            matches!(m, MemoryFault::Uninitialised { .. })
        }
        (Rule::WideParity, FaultKind::Mbarrier(t)) => t.contains("want 0 or 1"),
        (Rule::OneSetmaxnreg, FaultKind::Warpgroup(t)) => {
            t.contains("another warp of the warpgroup ran")
        }
        _ => false,
    }
}

/// The right answer for every seed with the rules relaxed that the manifest names; with all of these but one, exactly the fault
/// of that one.
fn right(name: &str) {
    let fixture = named(name);
    let rules = fixture.rules();
    let mut instructions = 0;
    for seed in SEEDS {
        let trial = |rules: &[Rule]| {
            check(&Trial {
                fixture,
                seed,
                relaxed: relaxed(rules),
            })
        };
        let stats = trial(&rules).unwrap_or_else(|fault| panic!("{name}, seed {seed}: {fault}"));
        instructions += stats.warp_instructions;
        for rule in &rules {
            let others: Vec<Rule> = rules.iter().copied().filter(|r| r != rule).collect();
            match trial(&others) {
                Ok(_) => panic!(
                    "{name}, seed {seed}: ends well under {rule:?}, which the manifest relaxes"
                ),
                Err(fault) => assert!(
                    broke(*rule, &fault.kind),
                    "{name}, seed {seed}, {rule:?}: {fault}"
                ),
            }
        }
    }
    let relaxing = if rules.is_empty() {
        String::new()
    } else {
        format!(", relaxing {rules:?}")
    };
    println!("ran {name} with seeds {SEEDS:?}: {instructions} warp instructions{relaxing}");
}

macro_rules! fixtures {
    ($($name:ident)*) => {
        mod gives_the_right_answer {
            $(#[test]
            fn $name() {
                super::right(stringify!($name));
            })*
        }

        /// Every fixture is a test, and the other way round.
        #[test]
        fn all_fixtures_are_run() {
            let mut listed = vec![$(stringify!($name)),*];
            let mut there: Vec<&str> = all().iter().map(|f| f.name.as_str()).collect();
            listed.sort_unstable();
            there.sort_unstable();
            assert_eq!(listed, there);
        }
    };
}

fixtures! {
    dot_80_32 dot_80_64 dot_80_128 ragged_80 changed_80 onto_80
    dot_90_32 dot_90_64 dot_90_128 ragged_90 changed_90 onto_90
    tma_32 tma_64 tma_128 split_tma multicast specialised transpose reduce
    turns half_written conversions float_bits atomics scan quantise
}

/// An error planted in the emulator makes a foreign kernel's answer wrong, or stops it.
#[test]
fn planted_errors_break_foreign_kernels() {
    for (error, name) in [
        ("no-swizzle", "dot_90_32"),
        ("no-swizzle", "dot_90_64"),
        ("no-swizzle", "dot_90_128"),
        ("wrong-swizzle-bits", "dot_90_32"),
        ("wrong-swizzle-bits", "dot_90_64"),
        ("wrong-swizzle-bits", "dot_90_128"),
        ("no-swizzle", "transpose"),
        ("offsets-swapped", "dot_90_64"),
        ("no-satfinite", "onto_80"),
    ] {
        must_fail(error, &format!("gives_the_right_answer::{name}"));
    }
}
