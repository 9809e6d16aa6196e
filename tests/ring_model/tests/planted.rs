//! Planted faults: the checker must find each, and tell how it comes about.
use ring_model::config::{Config, Fault};
use ring_model::model::{Wrong, LEFT_AS_FOUND, NOTHING_WRONG, NO_DEADLOCK};
use stateright::{Checker, HasDiscoveries, Model};

/// The shortest way to a state that breaks a property, step by step; what it breaks, and what went wrong there.
fn find(config: Config) -> (&'static str, Option<Wrong>) {
    let name = format!("{config:?}");
    // One thread: the same trace every time.
    let checker = config
        .checker()
        .finish_when(HasDiscoveries::AnyFailures)
        .spawn_bfs()
        .join();
    let found = [NOTHING_WRONG, NO_DEADLOCK, LEFT_AS_FOUND]
        .into_iter()
        .find_map(|property| Some((property, checker.discovery(property)?)));
    let (property, path) = found.unwrap_or_else(|| panic!("not found: {name}"));
    let wrong = path.last_state().wrong;
    let steps = path.into_actions();
    assert!(!steps.is_empty(), "{name}: no trace");
    println!(
        "{name}: '{property}', {wrong:?} after {} steps",
        steps.len()
    );
    for step in steps {
        println!("    {step:?}");
    }
    (property, wrong)
}

fn wrong(config: Config) -> Option<Wrong> {
    let (property, wrong) = find(config);
    assert_eq!(property, NOTHING_WRONG);
    wrong
}

/// Three tiles of two stages in a ring of two, by one block.
fn block(pingpong: bool, fault: Fault) -> Config {
    Config::new(2, 1, pingpong, 3, &[2]).with(fault)
}

/// The same of one tile of three stages, by a cluster of two.
fn cluster(fault: Fault) -> Config {
    Config::new(2, 2, false, 1, &[3]).with(fault)
}

/// One tile in two parts, by two blocks.
fn parts(fault: Fault) -> Config {
    Config::new(2, 1, true, 1, &[1, 1]).on(2).with(fault)
}

#[test]
fn a_wrong_parity() {
    for pingpong in [false, true] {
        assert_eq!(
            wrong(block(pingpong, Fault::FullParity)),
            Some(Wrong::ReadBeforeFull)
        );
        assert_eq!(find(block(pingpong, Fault::EmptyParity)).0, NO_DEADLOCK);
        assert_eq!(
            wrong(block(pingpong, Fault::EmptyParityStuck)),
            Some(Wrong::Overwritten)
        );
    }
    find(block(true, Fault::TurnParity));
}

#[test]
fn a_missing_release() {
    for pingpong in [false, true] {
        assert_eq!(find(block(pingpong, Fault::NoLastRelease)).0, NO_DEADLOCK);
    }
    assert_eq!(find(cluster(Fault::ReleaseOwnBlockOnly)).0, NO_DEADLOCK);
}

#[test]
fn a_stage_given_away_too_early() {
    assert_eq!(
        wrong(block(false, Fault::ReleaseTooEarly)),
        Some(Wrong::Overwritten)
    );
    assert_eq!(
        wrong(block(false, Fault::NoEmptyWait)),
        Some(Wrong::Overwritten)
    );
    // The producer comes round too early: to a stage that the peer still reads, or to one whose phase is not over.
    assert!(matches!(
        wrong(cluster(Fault::EmptyCountsOneBlock)),
        Some(Wrong::Overwritten | Wrong::TooManyArrivals)
    ));
}

#[test]
fn a_missing_turn() {
    assert_eq!(
        wrong(block(true, Fault::NoTurnWait)),
        Some(Wrong::ReadBeforeFull)
    );
    assert_eq!(find(block(true, Fault::NoTurnArrive)).0, NO_DEADLOCK);
}

#[test]
fn stages_filled_ahead() {
    let ahead = |fault| Config::new(2, 1, true, 2, &[3]).ahead(true).with(fault);
    find(ahead(Fault::AheadBeyondRing));
    find(ahead(Fault::AheadForgotten));
    assert_eq!(
        wrong(ahead(Fault::NoGridWait)),
        Some(Wrong::BeforeTheKernelBefore)
    );
}

#[test]
fn a_cluster_that_starts_or_ends_without_its_barrier() {
    assert_eq!(
        wrong(cluster(Fault::NoFirstClusterBarrier)),
        Some(Wrong::BarrierNotThere)
    );
    assert_eq!(
        wrong(cluster(Fault::NoLastClusterBarrier)),
        Some(Wrong::BlockHasLeft)
    );
}

#[test]
fn parts_of_k_that_miss_each_other() {
    assert_eq!(
        wrong(parts(Fault::CountBeforeAdd)),
        Some(Wrong::SumsOfAnotherTime)
    );
    assert_eq!(
        wrong(parts(Fault::FirstIsLast)),
        Some(Wrong::SumsOfAnotherTime)
    );
    assert_eq!(find(parts(Fault::CounterKept)).0, LEFT_AS_FOUND);
    assert_eq!(find(parts(Fault::SumsKept)).0, LEFT_AS_FOUND);
}
