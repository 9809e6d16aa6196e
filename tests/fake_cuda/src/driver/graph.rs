//! Graphs: captured work in the order in which it was captured.
use std::sync::Arc;

use super::abi::Out;
use super::state::Driver;
use super::status::{Result, Status};
use super::work::{submit, Work};
use super::{at_end, in_context};

const DEVICE_LAUNCH: u64 = 4;
const KNOWN_FLAGS: u64 = 1 | 2 | DEVICE_LAUNCH | 8;

/// Captured work.
#[derive(Clone)]
pub struct Graph {
    nodes: Arc<[Work]>,
}

impl Graph {
    /// Of nodes in an order that respects their dependencies.
    pub fn new(nodes: Vec<Work>) -> Self {
        Graph {
            nodes: nodes.into(),
        }
    }
}

fn instantiate(driver: &Driver, out: Out<usize>, graph: usize, flags: u64) -> Result {
    if flags & !KNOWN_FLAGS != 0 || flags & DEVICE_LAUNCH != 0 {
        return Err(Status::INVALID_VALUE.because(format!(
            "instantiation flags {flags:#x} (launches from the device are not emulated)"
        )));
    }
    let graph = Graph::clone(&*driver.graphs.get(graph)?);
    out.set(driver.executables.insert(graph))
}

#[no_mangle]
extern "C" fn cuGraphInstantiateWithFlags(out: Out<usize>, graph: usize, flags: u64) -> Status {
    in_context("cuGraphInstantiateWithFlags", |driver| {
        instantiate(driver, out, graph, flags)
    })
}

#[no_mangle]
extern "C" fn cuGraphLaunch(graph: usize, stream: usize) -> Status {
    in_context("cuGraphLaunch", |driver| {
        let graph = driver.executables.get(graph)?;
        let stream = driver.stream(stream)?;
        graph
            .nodes
            .iter()
            .try_for_each(|work| submit(driver, &stream, work.clone()))
    })
}

#[no_mangle]
extern "C" fn cuGraphUpload(graph: usize, stream: usize) -> Status {
    in_context("cuGraphUpload", |driver| {
        driver.executables.get(graph)?;
        driver.stream(stream).map(|_| ())
    })
}

#[no_mangle]
extern "C" fn cuGraphGetNodes(graph: usize, nodes: usize, count: Out<usize>) -> Status {
    in_context("cuGraphGetNodes", |driver| {
        if nodes != 0 {
            return Err(Status::NOT_SUPPORTED.because("only the number of nodes is emulated"));
        }
        count.set(driver.graphs.get(graph)?.nodes.len())
    })
}

#[no_mangle]
extern "C" fn cuGraphExecDestroy(graph: usize) -> Status {
    at_end("cuGraphExecDestroy", |driver| {
        driver.executables.remove(graph).map(|_| ())
    })
}

#[no_mangle]
extern "C" fn cuGraphDestroy(graph: usize) -> Status {
    at_end("cuGraphDestroy", |driver| {
        driver.graphs.remove(graph).map(|_| ())
    })
}
