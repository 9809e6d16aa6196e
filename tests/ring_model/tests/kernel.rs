//! The model says what the kernel's source says.
use ring_model::kernel::{instances, source, TIES};

#[test]
fn every_statement_that_a_step_was_written_from_still_stands() {
    let gone: Vec<String> = TIES
        .iter()
        .filter_map(|tie| tie.check(&source(tie.file)).err())
        .collect();
    assert!(gone.is_empty(), "{}", gone.join("\n"));
}

#[test]
fn a_changed_statement_is_named() {
    for tie in TIES {
        // Parities, counts and orders are what is in there: without its digits and names no statement is the same.
        let changed = source(tie.file)
            .replace("at / T::STAGES % 2", "at / T::STAGES & 1")
            .replace("- 1)", "- 0)");
        let told = tie.check(&changed);
        let touched =
            tie.statement.contains("at / T::STAGES % 2") || tie.statement.contains("- 1)");
        assert_eq!(told.is_err(), touched, "{}: {told:?}", tie.statement);
    }
}

#[test]
fn instances_are_read() {
    let all = instances();
    let cluster = all.iter().find(|i| i.name == "64x256_cluster").unwrap();
    assert_eq!(
        (
            cluster.stages,
            cluster.cluster,
            cluster.pingpong,
            cluster.swapped
        ),
        (5, 2, true, false)
    );
    assert_eq!(
        all.len(),
        source("igemm_sm90.cu").matches("\nENTRY(").count()
    );
    assert!(
        all.iter().all(|i| i.stages >= 2),
        "a ring has two stages at least"
    );
}
