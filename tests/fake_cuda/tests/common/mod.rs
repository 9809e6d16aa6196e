//! What the emulator's tests share: memory, parameters and launches in few words.
#![allow(dead_code)]

use fake_cuda::device::DeviceProfile;
use fake_cuda::exec::{launch, link, Fault, Launch, LaunchStats, LinkedModule};
use fake_cuda::memory::GlobalMemory;
use fake_cuda::ptx;
use fake_cuda::strictness::Relaxed;

/// A device with a module loaded.
pub struct Machine {
    pub memory: GlobalMemory,
    pub device: DeviceProfile,
    pub module: LinkedModule,
}

/// One kernel parameter.
#[derive(Clone, Copy)]
pub enum Arg {
    Ptr(u64),
    U32(u32),
    U64(u64),
    F32(f32),
}

impl Machine {
    /// Loads PTX text.
    pub fn new(text: &str) -> Self {
        Self::on(DeviceProfile::sm90(), text)
    }

    /// Loads PTX text on a device.
    pub fn on(device: DeviceProfile, text: &str) -> Self {
        let memory = GlobalMemory::new(1 << 30);
        let module = ptx::parse(text).unwrap_or_else(|e| panic!("{e}"));
        let module = link(module, &memory).unwrap_or_else(|e| panic!("{e}"));
        Machine {
            memory,
            device,
            module,
        }
    }

    /// A buffer that holds these words.
    pub fn words(&self, words: &[u32]) -> u64 {
        let bytes: Vec<u8> = words.iter().flat_map(|w| w.to_le_bytes()).collect();
        self.bytes(&bytes)
    }

    /// A buffer that holds these bytes.
    pub fn bytes(&self, bytes: &[u8]) -> u64 {
        let at = self.memory.alloc(bytes.len().max(1) as u64).unwrap();
        self.memory.write(at, bytes).unwrap();
        at
    }

    /// An uninitialised buffer.
    pub fn room(&self, bytes: u64) -> u64 {
        self.memory.alloc(bytes).unwrap()
    }

    /// Reads words back.
    pub fn read(&self, at: u64, count: usize) -> Vec<u32> {
        let mut bytes = vec![0; 4 * count];
        self.memory.read(at, &mut bytes).unwrap();
        bytes
            .chunks_exact(4)
            .map(|c| u32::from_le_bytes([c[0], c[1], c[2], c[3]]))
            .collect()
    }

    /// Launches and expects an answer one way or the other.
    pub fn try_run(
        &self,
        entry: &str,
        grid: u32,
        block: u32,
        dynamic: u32,
        seed: u64,
        args: &[Arg],
    ) -> Result<LaunchStats, Fault> {
        let declared = &self.module.entry(entry).expect("entry").params;
        let mut params = Vec::new();
        for (arg, p) in args.iter().zip(declared) {
            params.resize(p.offset as usize, 0);
            match *arg {
                Arg::Ptr(v) | Arg::U64(v) => params.extend(v.to_le_bytes()),
                Arg::U32(v) => params.extend(v.to_le_bytes()),
                Arg::F32(v) => params.extend(v.to_le_bytes()),
            }
        }
        launch(&Launch {
            module: &self.module,
            entry,
            grid: [grid, 1, 1],
            block: [block, 1, 1],
            cluster: [1; 3],
            explicit_cluster: false,
            dependent: false,
            dynamic_shared: dynamic,
            params: &params,
            memory: &self.memory,
            device: &self.device,
            seed,
            relaxed: Relaxed::default(),
        })
    }

    /// Launches; the kernel must end well.
    pub fn run(
        &self,
        entry: &str,
        grid: u32,
        block: u32,
        dynamic: u32,
        args: &[Arg],
    ) -> LaunchStats {
        self.try_run(entry, grid, block, dynamic, 1, args)
            .unwrap_or_else(|e| panic!("{e}"))
    }
}

/// A one-entry module: `extern "C" k(in, out)` with lane-indexed helpers and this body.
///
/// In scope: `%in`, `%out` (global addresses), `%t` (thread index), `%at` (4 * thread index, 64 bits).
pub fn kernel(body: &str) -> String {
    format!(
        ".version 9.0\n.target sm_80\n.address_size 64\n\
         .visible .entry k(.param .u64 k_in, .param .u64 k_out)\n{{\n\
         .reg .b64 %in, %out, %at, %i, %o; .reg .b32 %t;\n\
         ld.param.u64 %in, [k_in]; ld.param.u64 %out, [k_out];\n\
         mov.u32 %t, %tid.x; mul.wide.u32 %at, %t, 4;\n\
         add.s64 %i, %in, %at; add.s64 %o, %out, %at;\n\
         {body}\nret;\n}}\n"
    )
}

/// Runs `body` with one thread a word of `input`; the words it stored at `[%o]`.
pub fn map(body: &str, input: &[u32]) -> Vec<u32> {
    let m = Machine::new(&kernel(body));
    let (i, o) = (m.words(input), m.room(4 * input.len() as u64));
    m.run("k", 1, input.len() as u32, 0, &[Arg::Ptr(i), Arg::Ptr(o)]);
    m.read(o, input.len())
}

/// Runs `body` over rows of operands: the thread's row starts at `[%row]`, its answer goes to `[%o]`.
pub fn rows<const N: usize>(body: &str, input: &[[u32; N]]) -> Vec<u32> {
    let body = format!(
        ".reg .b64 %row; mad.wide.u32 %row, %t, {}, %in;\n{body}",
        4 * N
    );
    let m = Machine::new(&kernel(&body));
    let mut out = Vec::new();
    for part in input.chunks(1024) {
        let (i, o) = (m.words(part.as_flattened()), m.room(4 * part.len() as u64));
        m.run("k", 1, part.len() as u32, 0, &[Arg::Ptr(i), Arg::Ptr(o)]);
        out.extend(m.read(o, part.len()));
    }
    out
}

/// Runs `body` on 32 threads with these input words; the fault it must end in.
pub fn fault(body: &str, threads: u32, input: &[u32]) -> Fault {
    let m = Machine::new(&kernel(body));
    let (i, o) = (m.words(input), m.room(4096));
    match m.try_run("k", 1, threads, 0, 1, &[Arg::Ptr(i), Arg::Ptr(o)]) {
        Err(f) => f,
        Ok(_) => panic!("the kernel ended without a fault"),
    }
}

/// Runs one test of this binary in a process of its own with an error planted in the emulator: it must fail, and must
/// not without.
pub fn must_fail(error: &str, test: &str) {
    let run = |error: Option<&str>| {
        let mut command = std::process::Command::new(std::env::current_exe().expect("this binary"));
        command
            .args(["--exact", test])
            .env_remove("IMMA_FAKE_PLANTED");
        if let Some(error) = error {
            command.env("IMMA_FAKE_PLANTED", error);
        }
        let out = command.output().expect("the test's process");
        let text = String::from_utf8_lossy(&out.stdout).into_owned();
        assert!(text.contains("running 1 test"), "no test '{test}'");
        assert!(
            !String::from_utf8_lossy(&out.stderr).contains("no such error"),
            "{error:?}"
        );
        out.status.success()
    };
    assert!(run(None), "{test} fails without a planted error");
    assert!(!run(Some(error)), "{test} passes with '{error}' planted");
}
