//! The manifest, and a launch as it describes one.
use std::collections::HashMap;
use std::sync::OnceLock;

use fake_cuda::device::DeviceProfile;
use fake_cuda::exec::{launch, Fault, Launch, LaunchStats};
use fake_cuda::strictness::{Relaxed, Rule};
use fake_cuda::tensor_map::{element_bytes, TensorMap};
use serde::Deserialize;

use super::common::Machine;

/// What a run came to; a wrong answer panics.
pub type Outcome = Result<LaunchStats, Fault>;

#[derive(Deserialize)]
struct Manifest {
    triton: String,
    fixtures: Vec<Fixture>,
}

/// A kernel as `foreign/compile.py` left it.
#[derive(Deserialize)]
pub struct Fixture {
    pub name: String,
    /// The function in `foreign/kernels.py`.
    pub kernel: String,
    pub target: u32,
    pub constants: HashMap<String, usize>,
    entry: String,
    threads: u32,
    cluster: u32,
    shared: u32,
    parameters: Vec<Parameter>,
    /// Rules of the machine that it breaks.
    relax: Vec<String>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Parameter {
    Map { map: Box },
    Plain(String),
}

/// A tensor map's part that the compiler fixed: extents innermost first.
#[derive(Deserialize)]
struct Box {
    #[serde(rename = "type")]
    data_type: u8,
    swizzle: u8,
    r#box: Vec<u32>,
}

/// An argument of a launch.
pub enum Arg {
    Pointer(u64),
    Number(usize),
    /// A matrix in device memory: address, rows, columns, bytes from row to row.
    Matrix(u64, [usize; 2], usize),
}

/// All fixtures.
pub fn all() -> &'static [Fixture] {
    static ALL: OnceLock<Manifest> = OnceLock::new();
    let read = || {
        let text = include_str!("../../foreign/manifest.json");
        let found: Manifest = serde_json::from_str(text).expect("the manifest");
        assert_eq!(
            found.triton, "3.9.0",
            "the version that foreign/compile.py pins"
        );
        found
    };
    &ALL.get_or_init(read).fixtures
}

impl Fixture {
    /// The PTX text.
    pub fn text(&self) -> String {
        let path = format!(
            "{}/foreign/{}.ptx.zst",
            env!("CARGO_MANIFEST_DIR"),
            self.name
        );
        let packed = std::fs::read(&path).unwrap_or_else(|e| panic!("{path}: {e}"));
        let mut text = Vec::with_capacity(1 << 20);
        ruzstd::decoding::FrameDecoder::new()
            .decode_all_to_vec(&packed, &mut text)
            .unwrap_or_else(|e| panic!("{path}: {e}"));
        String::from_utf8(text).unwrap_or_else(|e| panic!("{path}: {e}"))
    }

    /// The rules that it breaks.
    pub fn rules(&self) -> Vec<Rule> {
        let named = |name: &String| {
            Rule::named(name).unwrap_or_else(|| panic!("{}: no rule {name}", self.name))
        };
        self.relax.iter().map(named).collect()
    }

    /// A constant that the kernel was compiled with.
    pub fn constant(&self, name: &str) -> usize {
        self.constants[name]
    }

    /// A device with the kernel loaded.
    pub fn machine(&self) -> Machine {
        let device = match self.target {
            80 => DeviceProfile::sm80(),
            90 => DeviceProfile::sm90(),
            other => panic!("no device of compute capability {other}"),
        };
        Machine::on(device, &self.text())
    }

    fn pack(&self, m: &Machine, args: &[Arg]) -> Vec<u8> {
        let declared = &m.module.entry(&self.entry).expect("the entry").params;
        assert_eq!(
            declared.len(),
            self.parameters.len(),
            "{}: parameters",
            self.name
        );
        let (mut params, mut args, mut beside) = (Vec::new(), args.iter(), Vec::new().into_iter());
        for (kind, place) in self.parameters.iter().zip(declared) {
            params.resize(place.offset as usize, 0);
            let value = match kind {
                Parameter::Map { map } => {
                    let Some(&Arg::Matrix(address, shape, pitch)) = args.next() else {
                        panic!("{}: want a matrix", self.name)
                    };
                    let encoded = map.over(address, shape, pitch).encode();
                    params.extend(encoded.iter().flat_map(|w| w.to_le_bytes()));
                    beside = vec![shape[0] as u64, shape[1] as u64, pitch as u64, 1].into_iter();
                    continue;
                }
                Parameter::Plain(kind) if kind == "scratch" => 0,
                Parameter::Plain(_) => beside.next().unwrap_or_else(|| match args.next() {
                    Some(&Arg::Pointer(at)) => at,
                    Some(&Arg::Number(n)) => n as u64,
                    _ => panic!("{}: want a pointer or a number", self.name),
                }),
            };
            params.extend(&value.to_le_bytes()[..place.size as usize]);
        }
        assert!(args.next().is_none(), "{}: too many arguments", self.name);
        params
    }
}

/// A fixture to run, in which order and under which rules.
pub struct Trial<'a> {
    pub fixture: &'a Fixture,
    pub seed: u64,
    pub relaxed: Relaxed,
}

impl Trial<'_> {
    /// Launches it: `grid` counts programs, each a cluster where the kernel was compiled for one.
    pub fn run(&self, m: &Machine, grid: [usize; 2], args: &[Arg]) -> Outcome {
        let f = self.fixture;
        let params = f.pack(m, args);
        launch(&Launch {
            module: &m.module,
            entry: &f.entry,
            grid: [grid[0] as u32 * f.cluster, grid[1] as u32, 1],
            block: [f.threads, 1, 1],
            cluster: [f.cluster, 1, 1],
            explicit_cluster: f.cluster > 1,
            dependent: false,
            dynamic_shared: f.shared,
            params: &params,
            memory: &m.memory,
            device: &m.device,
            seed: self.seed,
            relaxed: self.relaxed,
        })
    }
}

impl Box {
    fn over(&self, address: u64, [rows, columns]: [usize; 2], pitch: usize) -> TensorMap {
        let map = TensorMap {
            data_type: self.data_type,
            interleave: 0,
            swizzle: self.swizzle,
            l2_promotion: 2,
            fill: 0,
            address,
            extents: vec![columns as u64, rows as u64],
            strides: vec![pitch as u64],
            box_extents: self.r#box.clone(),
            element_strides: vec![1, 1],
        };
        assert!(element_bytes(self.data_type).is_some());
        assert_eq!(map.objection(), None);
        map
    }
}

/// Random numbers of one seed.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x1234_5678_9abc_def1)
    }

    pub fn word(&mut self) -> u32 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 32) as u32 ^ (self.0 >> 27) as u32
    }

    pub fn words(&mut self, n: usize) -> Vec<u32> {
        (0..n).map(|_| self.word()).collect()
    }

    pub fn bytes(&mut self, n: usize) -> Vec<i8> {
        (0..n).map(|_| (self.word() >> 8) as i8).collect()
    }

    /// Below `n`.
    pub fn below(&mut self, n: usize) -> usize {
        self.word() as usize % n
    }
}
