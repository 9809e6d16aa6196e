//! The ring as it is, over every interleaving.
use ring_model::config::Config;
use ring_model::kernel::instances;
use stateright::{Checker, Model};

fn explore(config: Config) {
    let name = format!("{config:?}");
    let checker = config.checker().threads(2).spawn_bfs().join();
    println!("{} states: {name}", checker.unique_state_count());
    assert!(checker.is_done(), "{name}");
    checker.assert_properties();
}

/// The kinds of instances that the kernel's source has: cluster, pingpong, swapped.
fn kinds() -> Vec<(u8, bool, bool)> {
    let mut kinds: Vec<_> = instances()
        .iter()
        .map(|i| (i.cluster, i.pingpong, i.swapped))
        .collect();
    kinds.sort_unstable();
    kinds.dedup();
    kinds
}

#[test]
fn one_block_of_each_kind() {
    let alone: Vec<_> = kinds().into_iter().filter(|kind| kind.0 == 1).collect();
    assert_eq!(
        alone.len(),
        3,
        "shared, pingpong, swapped pingpong: {alone:?}"
    );
    for (cluster, pingpong, swapped) in alone {
        for stages in 2..=4 {
            for (tiles, steps) in [(2, 1), (3, 2), (2, 3), (5, 1), (2, 5)] {
                let config = Config::new(stages, cluster, pingpong, tiles, &[steps]);
                explore(config.clone());
                explore(config.ahead(swapped));
            }
        }
    }
}

#[test]
fn a_cluster_of_two_of_each_kind() {
    let clusters: Vec<_> = kinds().into_iter().filter(|kind| kind.0 == 2).collect();
    assert_eq!(clusters.len(), 2, "shared and pingpong: {clusters:?}");
    for (cluster, pingpong, swapped) in clusters {
        explore(Config::new(2, cluster, pingpong, 2, &[1]));
        explore(Config::new(2, cluster, pingpong, 1, &[3]));
        explore(Config::new(2, cluster, pingpong, 1, &[2]).ahead(swapped));
    }
    explore(Config::new(2, 2, true, 2, &[2]));
}

#[test]
fn two_blocks_that_share_the_sums_of_parts_of_k() {
    for pingpong in [false, true] {
        explore(Config::new(2, 1, pingpong, 1, &[2, 1]).on(2));
        explore(Config::new(3, 1, pingpong, 1, &[1, 1]).on(2));
        // Two parts to one block, one to the other; and all to one.
        explore(Config::new(2, 1, pingpong, 1, &[1, 1, 1]).on(2));
        explore(Config::new(2, 1, pingpong, 2, &[2, 1]));
    }
    explore(Config::new(2, 1, true, 2, &[1, 1]).on(2));
}
