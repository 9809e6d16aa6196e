//! What the tests of compute capability 9.0 share: a kernel of one body, with a tensor map and a cluster.
#![allow(dead_code)]

use super::common::Machine;
use fake_cuda::exec::{launch, Fault, FaultKind, Launch};
use fake_cuda::strictness::Relaxed;
use fake_cuda::tensor_map::TensorMap;

/// A kernel with `[k_map]` (a tensor map), `%in`, `%out`, `%t`, `%o` (4 bytes a thread of the grid), `%s` (4 KiB and
/// more of shared memory at a multiple of 1024), `%m` (an mbarrier's place) and some registers in scope.
pub fn kernel(body: &str) -> String {
    format!(
        ".version 9.0\n.target sm_90a\n.address_size 64\n\
         .visible .entry k(.param .align 64 .b8 k_map[128], .param .u64 k_in, .param .u64 k_out)\n.maxntid 512\n{{\n\
         .shared .align 1024 .b8 s[12288]; .shared .align 8 .b8 m[64];\n\
         .reg .b64 %in, %out, %at, %o, %map, %d<8>; .reg .b32 %t, %s, %m, %r<64>; .reg .pred %p, %q;\n\
         mov.b64 %map, k_map; cvta.param.u64 %map, %map; ld.param.u64 %in, [k_in]; ld.param.u64 %out, [k_out];\n\
         mov.u32 %s, s; mov.u32 %m, m; mov.u32 %t, %ctaid.x; mov.u32 %r0, %ntid.x; mul.lo.u32 %t, %t, %r0;\n\
         mov.u32 %r0, %tid.x; add.u32 %t, %t, %r0; mul.wide.u32 %at, %t, 4; add.s64 %o, %out, %at; mov.u32 %t, %tid.x;\n\
         setp.eq.u32 %p, %t, 0;\n{body}\nret;\n}}\n"
    )
}

/// Waits until the phase of the mbarrier at `%m` with this parity is over.
pub fn wait(parity: u32) -> String {
    format!(
        "{{ W: mbarrier.try_wait.parity.shared::cta.b64 %q, [%m], {parity}; @%q bra D; bra W; D: }}"
    )
}

/// An mbarrier at `%m` that `count` arrivals complete, known to the block and to bulk copies.
pub fn init(count: u32) -> String {
    format!(
        "@%p mbarrier.init.shared::cta.b64 [%m], {count}; @%p fence.mbarrier_init.release.cluster; bar.sync 0;"
    )
}

/// A launch of such a kernel.
pub struct Run<'a> {
    pub grid: u32,
    pub block: u32,
    pub cluster: u32,
    pub seed: u64,
    pub map: Option<&'a TensorMap>,
    pub dependent: bool,
    pub relaxed: Relaxed,
}

impl Default for Run<'_> {
    fn default() -> Self {
        Run {
            grid: 1,
            block: 128,
            cluster: 1,
            seed: 1,
            map: None,
            dependent: false,
            relaxed: Relaxed::default(),
        }
    }
}

impl Run<'_> {
    pub fn on(&self, m: &Machine, input: u64, output: u64) -> Result<(), Fault> {
        let words = self.map.map_or([0; 16], TensorMap::encode);
        let mut params: Vec<u8> = words.iter().flat_map(|w| w.to_le_bytes()).collect();
        params.extend(input.to_le_bytes());
        params.extend(output.to_le_bytes());
        launch(&Launch {
            module: &m.module,
            entry: "k",
            grid: [self.grid, 1, 1],
            block: [self.block, 1, 1],
            cluster: [self.cluster, 1, 1],
            explicit_cluster: self.cluster > 1,
            dependent: self.dependent,
            dynamic_shared: 0,
            params: &params,
            memory: &m.memory,
            device: &m.device,
            seed: self.seed,
            relaxed: self.relaxed,
        })
        .map(drop)
    }

    /// Runs a body that stores a word a thread at `[%o]`.
    pub fn words(&self, body: &str) -> Vec<u32> {
        let m = Machine::new(&kernel(body));
        let n = (self.grid * self.block) as usize;
        let out = m.room(4 * n as u64);
        self.on(&m, 0, out).unwrap_or_else(|f| panic!("{f}"));
        m.read(out, n)
    }

    /// Runs a body that must end in a fault.
    pub fn fault(&self, body: &str) -> FaultKind {
        let m = Machine::new(&kernel(body));
        let (input, out) = (m.words(&[7; 1024]), m.room(8192));
        match self.on(&m, input, out) {
            Err(f) => f.kind,
            Ok(()) => panic!("the kernel ended without a fault"),
        }
    }
}
