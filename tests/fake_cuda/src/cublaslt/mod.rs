//! cuBLASLt, as much of it as int8 products and their float peers need, and as strict as the real one.
//!
//! ```text
//! status       results            descriptor   what the caller sets, attribute by attribute
//! problem      a product that passed every check        algo   candidates and their workspaces
//! gemm         the arithmetic     this file    the C functions
//! ```
//!
//! What int8 asks for is documented under `cublasLtMatmul`, "regular data ordering": A transposed and B not,
//! every matrix in column order, pointers 4-byte aligned, leading dimensions, m and k multiples of 4, no bias
//! and no epilogue. Anything else is refused here as there, with the reason on stderr.
mod algo;
mod descriptor;
mod gemm;
mod problem;
mod status;

use std::ffi::{c_char, CStr};
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::{Arc, Mutex, OnceLock};

use crate::driver::abi::{Host, Out};
use crate::driver::handles::Table;
use crate::driver::state::{lock, Driver};
use crate::driver::work::{submit, Work};
use crate::driver::{self};
use algo::{AlgoBytes, HeuristicResult};
use descriptor::{Layout, MatmulDesc, Preference};
use gemm::{Gemm, Scalar};
use problem::Problem;
use status::{Result, Status};

/// 13.0.0, as the library counts.
const VERSION: usize = 130_000;

/// The live objects of the library.
struct Library {
    handles: Table<()>,
    descs: Table<Mutex<MatmulDesc>>,
    layouts: Table<Mutex<Layout>>,
    preferences: Table<Mutex<Preference>>,
}

fn library() -> &'static Library {
    static LIBRARY: OnceLock<Library> = OnceLock::new();
    LIBRARY.get_or_init(|| Library {
        handles: Table::new("cuBLASLt handle"),
        descs: Table::new("matmul descriptor"),
        layouts: Table::new("matrix layout"),
        preferences: Table::new("matmul preference"),
    })
}

impl Library {
    fn desc(&self, handle: usize) -> Result<MatmulDesc> {
        Ok(lock(&*self.descs.get(handle)?).clone())
    }

    fn layout(&self, handle: usize) -> Result<Layout> {
        Ok(lock(&*self.layouts.get(handle)?).clone())
    }

    /// The checked product of a descriptor and four layouts.
    fn problem(&self, desc: usize, layouts: [usize; 4]) -> Result<Problem> {
        let [a, b, c, d] = layouts;
        Problem::new(
            &self.desc(desc)?,
            &self.layout(a)?,
            &self.layout(b)?,
            &self.layout(c)?,
            &self.layout(d)?,
        )
    }
}

/// Answers one exported call: counts it, reports a refusal, keeps panics on this side.
fn answer(name: &'static str, body: impl FnOnce(&'static Library) -> Result) -> Status {
    driver::count(name);
    match catch_unwind(AssertUnwindSafe(|| body(library()))) {
        Ok(Ok(())) => Status::SUCCESS,
        Ok(Err(refusal)) => {
            if let Some(why) = &refusal.why {
                driver::note_refusal(&format!("{name}: {:?}: {why}", refusal.status));
            }
            refusal.status
        }
        Err(panic) => {
            let text = driver::panic_text(&*panic);
            driver::note_refusal(&format!("{name}: the emulator panicked: {text}"));
            Status::INTERNAL_ERROR
        }
    }
}

/// The driver, if this thread may launch.
fn ready() -> Result<&'static Driver> {
    driver::ready().map_err(|r| {
        Status::NOT_INITIALIZED.because(r.why.unwrap_or_else(|| format!("{:?}", r.status)))
    })
}

#[no_mangle]
extern "C" fn cublasLtGetVersion() -> usize {
    VERSION
}

#[no_mangle]
extern "C" fn cublasLtGetCudartVersion() -> usize {
    13_000
}

#[no_mangle]
extern "C" fn cublasLtGetStatusName(status: Status) -> *const c_char {
    status.name().map_or(c"unknown".as_ptr(), CStr::as_ptr)
}

#[no_mangle]
extern "C" fn cublasLtGetStatusString(status: Status) -> *const c_char {
    status.text().map_or(c"unknown".as_ptr(), CStr::as_ptr)
}

#[no_mangle]
extern "C" fn cublasLtCreate(out: Out<usize>) -> Status {
    answer("cublasLtCreate", |library| {
        ready()?;
        Ok(out.set(library.handles.insert(()))?)
    })
}

#[no_mangle]
extern "C" fn cublasLtDestroy(handle: usize) -> Status {
    answer("cublasLtDestroy", |library| {
        library.handles.remove(handle)?;
        Ok(())
    })
}

#[no_mangle]
extern "C" fn cublasLtMatmulDescCreate(out: Out<usize>, compute: u32, scale: u32) -> Status {
    answer("cublasLtMatmulDescCreate", |library| {
        let desc = MatmulDesc::new(compute, scale)?;
        Ok(out.set(library.descs.insert(Mutex::new(desc)))?)
    })
}

#[no_mangle]
extern "C" fn cublasLtMatmulDescDestroy(desc: usize) -> Status {
    answer("cublasLtMatmulDescDestroy", |library| {
        library.descs.remove(desc)?;
        Ok(())
    })
}

#[no_mangle]
extern "C" fn cublasLtMatmulDescSetAttribute(
    desc: usize,
    which: u32,
    value: Host,
    bytes: usize,
) -> Status {
    answer("cublasLtMatmulDescSetAttribute", |library| {
        lock(&*library.descs.get(desc)?).set(which, value, bytes)
    })
}

#[no_mangle]
extern "C" fn cublasLtMatrixLayoutCreate(
    out: Out<usize>,
    data_type: u32,
    rows: u64,
    cols: u64,
    ld: i64,
) -> Status {
    answer("cublasLtMatrixLayoutCreate", |library| {
        let layout = Layout::new(data_type, rows, cols, ld);
        Ok(out.set(library.layouts.insert(Mutex::new(layout)))?)
    })
}

#[no_mangle]
extern "C" fn cublasLtMatrixLayoutDestroy(layout: usize) -> Status {
    answer("cublasLtMatrixLayoutDestroy", |library| {
        library.layouts.remove(layout)?;
        Ok(())
    })
}

#[no_mangle]
extern "C" fn cublasLtMatrixLayoutSetAttribute(
    layout: usize,
    which: u32,
    value: Host,
    bytes: usize,
) -> Status {
    answer("cublasLtMatrixLayoutSetAttribute", |library| {
        lock(&*library.layouts.get(layout)?).set(which, value, bytes)
    })
}

#[no_mangle]
extern "C" fn cublasLtMatmulPreferenceCreate(out: Out<usize>) -> Status {
    answer("cublasLtMatmulPreferenceCreate", |library| {
        let preference = Mutex::new(Preference::default());
        Ok(out.set(library.preferences.insert(preference))?)
    })
}

#[no_mangle]
extern "C" fn cublasLtMatmulPreferenceDestroy(preference: usize) -> Status {
    answer("cublasLtMatmulPreferenceDestroy", |library| {
        library.preferences.remove(preference)?;
        Ok(())
    })
}

#[no_mangle]
extern "C" fn cublasLtMatmulPreferenceSetAttribute(
    preference: usize,
    which: u32,
    value: Host,
    bytes: usize,
) -> Status {
    answer("cublasLtMatmulPreferenceSetAttribute", |library| {
        lock(&*library.preferences.get(preference)?).set(which, value, bytes)
    })
}

#[no_mangle]
extern "C" fn cublasLtMatmulAlgoGetHeuristic(
    handle: usize,
    desc: usize,
    a: usize,
    b: usize,
    c: usize,
    d: usize,
    preference: usize,
    wanted: i32,
    results: Host,
    found: Out<i32>,
) -> Status {
    answer("cublasLtMatmulAlgoGetHeuristic", |library| {
        library.handles.get(handle)?;
        let wanted = usize::try_from(wanted)
            .ok()
            .filter(|n| *n > 0)
            .ok_or_else(|| Status::INVALID_VALUE.because("no room for a result"))?;
        let preference = match preference {
            0 => Preference::default(),
            _ => lock(&*library.preferences.get(preference)?).clone(),
        };
        let problem = library.problem(desc, [a, b, c, d]);
        let answers = problem.and_then(|p| algo::candidates(&p, &preference));
        match answers {
            Ok(answers) => {
                let some = &answers[..answers.len().min(wanted)];
                for (i, answer) in some.iter().enumerate() {
                    results
                        .offset(i * HeuristicResult::BYTES)
                        .write(&answer.encode())?;
                }
                Ok(found.set(some.len() as i32)?)
            }
            Err(refusal) => {
                found.set_if_wanted(0);
                Err(refusal)
            }
        }
    })
}

#[no_mangle]
extern "C" fn cublasLtMatmulAlgoCheck(
    handle: usize,
    desc: usize,
    a: usize,
    b: usize,
    c: usize,
    d: usize,
    algo: Host,
    result: Host,
) -> Status {
    answer("cublasLtMatmulAlgoCheck", |library| {
        library.handles.get(handle)?;
        let problem = library.problem(desc, [a, b, c, d])?;
        let answer = algo::check(&problem, &AlgoBytes::read(algo)?)?;
        Ok(result.write(&answer.encode())?)
    })
}

#[no_mangle]
extern "C" fn cublasLtMatmul(
    handle: usize,
    desc: usize,
    alpha: Host,
    a: u64,
    a_layout: usize,
    b: u64,
    b_layout: usize,
    beta: Host,
    c: u64,
    c_layout: usize,
    d: u64,
    d_layout: usize,
    algo: Host,
    workspace: u64,
    workspace_bytes: usize,
    stream: usize,
) -> Status {
    answer("cublasLtMatmul", |library| {
        let driver = ready()?;
        library.handles.get(handle)?;
        let problem = library.problem(desc, [a_layout, b_layout, c_layout, d_layout])?;
        let workspace = algo::workspace(&problem, algo, workspace, workspace_bytes)?;
        let gemm = Gemm {
            alpha: Scalar::new(&problem, alpha)?,
            beta: Scalar::new(&problem, beta)?,
            a,
            b,
            c,
            d,
            workspace,
            problem,
        };
        gemm.check_pointers(driver)?;
        let stream = driver.stream(stream)?;
        let task = Work::Task(Arc::new(move |driver| gemm.run(driver)));
        submit(driver, &stream, task).map_err(|r| match r.why {
            Some(why) => Status::EXECUTION_FAILED.because(why),
            None => Status::EXECUTION_FAILED.because(format!("{:?}", r.status)),
        })
    })
}
