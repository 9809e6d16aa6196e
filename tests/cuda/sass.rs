//! What ptxas made of the kernels: no local memory anywhere, 16-byte global accesses where they are promised.
//!
//! Needs cuobjdump (`.ci/fetch-nvcc` brings it); says 'not run' without.

use imma::cuda::kernels::{igemm_grouped, igemm_groupwise, igemm_sm80, igemm_sm90};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

fn cuobjdump() -> Option<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut candidates = vec![root.join(".cuda/nvidia/cu13/bin")];
    for name in ["CUDA_HOME", "CUDA_PATH"] {
        candidates.extend(std::env::var_os(name).map(|home| Path::new(&home).join("bin")));
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    candidates.extend(std::env::split_paths(&path));
    candidates.push("/usr/local/cuda/bin".into());
    candidates
        .into_iter()
        .map(|folder| folder.join("cuobjdump"))
        .find(|program| {
            Command::new(program)
                .arg("--version")
                .output()
                .is_ok_and(|output| output.status.success())
        })
}

/// Opcodes by (architecture, kernel); a branch's with the number of the instruction that it goes to, as in `BRA@17`.
fn disassemble(
    program: &Path,
    image: &imma::cuda::Image,
) -> BTreeMap<(String, String), Vec<String>> {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let file = folder.join(format!("{}.fatbin", image.name));
    std::fs::write(&file, image.bytes).unwrap();
    let output = Command::new(program)
        .arg("-sass")
        .arg(&file)
        .current_dir(folder)
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let text = String::from_utf8(output.stdout).unwrap();
    let mut kernels: BTreeMap<(String, String), Vec<String>> = BTreeMap::new();
    let (mut arch, mut kernel) = (String::new(), String::new());
    for line in text.lines().map(str::trim) {
        if let Some(name) = line.strip_prefix("arch = ") {
            arch = name.into();
        } else if let Some(name) = line.strip_prefix("Function : ") {
            kernel = name.into();
            kernels.insert((arch.clone(), kernel.clone()), Vec::new());
        } else if let Some((_, instruction)) =
            line.strip_prefix("/*").and_then(|l| l.split_once("*/"))
        {
            // An instruction may stand behind a predicate: `@!P0 LDG.E.128 R4, ...`.
            let words = instruction.split_whitespace();
            let opcode = words.into_iter().find(|word| !word.starts_with('@'));
            if let (Some(opcode), Some(list)) =
                (opcode, kernels.get_mut(&(arch.clone(), kernel.clone())))
            {
                if !opcode.starts_with(char::is_uppercase) {
                    continue;
                }
                let mut opcode = opcode.trim_end_matches(';').to_owned();
                if opcode.starts_with("BRA") {
                    // An instruction is 16 bytes. Behind it stands its encoding, in hexadecimal too.
                    let target = |word: &str| {
                        usize::from_str_radix(word.strip_prefix("0x")?.trim_end_matches(';'), 16)
                            .ok()
                    };
                    let target = instruction.split_whitespace().find_map(target);
                    opcode += &target.map_or(String::new(), |at| format!("@{}", at / 16));
                }
                list.push(opcode);
            }
        }
    }
    kernels
}

#[test]
fn kernels_spill_nothing_and_access_16_bytes() {
    let Some(program) = cuobjdump() else {
        println!("not run: no cuobjdump");
        return;
    };
    let mut checked = 0;
    let mut wrong = Vec::new();
    for image in imma::cuda::images() {
        let kernels = disassemble(&program, image);
        for entry in image.entries {
            assert!(
                kernels.keys().any(|(_, name)| name == entry),
                "{entry} was not disassembled"
            );
        }
        for ((arch, name), opcodes) in kernels {
            checked += 1;
            let uses = |prefix: &str, part: &str| {
                opcodes
                    .iter()
                    .any(|op| op.starts_with(prefix) && op.split('.').any(|p| p == part))
            };
            if opcodes.is_empty() {
                wrong.push(format!("{arch} {name}: no instructions seen"));
            }
            for op in &opcodes {
                if op.starts_with("LDL") || op.starts_with("STL") {
                    wrong.push(format!("{arch} {name}: local memory ({op})"));
                }
                // A generic access hides which memory it reads and is slower.
                if op == "LD" || op.starts_with("LD.") || op == "ST" || op.starts_with("ST.") {
                    wrong.push(format!("{arch} {name}: generic access ({op})"));
                }
            }
            let mma = ["igemm_sm80", "igemm_groupwise", "igemm_grouped"];
            if mma.iter().any(|family| name.starts_with(family)) {
                // m16n8k32 in int8, and the fragments of both operands by ldmatrix.
                if !uses("IMMA", "16832") || !uses("IMMA", "S8") || !uses("LDSM", "M88") {
                    wrong.push(format!("{arch} {name}: no IMMA.16832.S8.S8 or no LDSM"));
                }
                let wide = uses("LDGSTS", "128");
                if wide == name.ends_with("_any") {
                    wrong.push(format!("{arch} {name}: 16-byte LDGSTS: {wide}"));
                }
                continue;
            }
            if name.starts_with("igemm_sm90") {
                check_hopper(&name, &opcodes, &mut wrong);
                continue;
            }
            if name.starts_with("peak_") {
                let count = opcodes.iter().filter(|op| op.starts_with("IMMA")).count();
                if count != 8 {
                    wrong.push(format!("{arch} {name}: {count} IMMA, expected 8 in a loop"));
                }
                continue;
            }
            // A word a pair.
            if name.starts_with("moe_sort") {
                continue;
            }
            if !name.starts_with("dequantize_i8") && !uses("LDG", "128") {
                wrong.push(format!("{arch} {name}: no 16-byte load"));
            }
            let stores = [
                "dequantize_",
                "quantize_cols_",
                "transpose_",
                "add_rmsnorm_",
            ];
            if stores.iter().any(|family| name.starts_with(family)) && !uses("STG", "128") {
                wrong.push(format!("{arch} {name}: no 16-byte store"));
            }
        }
    }
    check_tiles(&program, &mut wrong);
    check_tiles90(&program, &mut wrong);
    println!("{checked} kernels disassembled");
    assert!(checked > 0 && wrong.is_empty(), "{wrong:#?}");
}

/// wgmma in one unbroken pipeline: where ptxas serialises, it waits after every one or injects arrivals (its messages C7510,
/// C7515, C7519), and where it ignores `setmaxnreg` (C7508) the instruction is gone.
fn check_hopper(name: &str, opcodes: &[String], wrong: &mut Vec<String>) {
    let tile = name
        .strip_prefix("igemm_sm90_")
        .and_then(igemm_sm90::by_name);
    let Some(tile) = tile else {
        return wrong.push(format!("{name}: no such tile"));
    };
    let count = |prefix: &str| opcodes.iter().filter(|op| op.starts_with(prefix)).count();
    // Four steps of 32 bytes of K for each 64 rows that a consumer has, in one loop.
    let blocks = tile.tall / 64 / if tile.pingpong { 1 } else { 2 };
    let shape = format!("IGMMA.64x{}x32.S8.S8", tile.wide);
    for (what, expected) in [
        (shape.as_str(), 4 * blocks),
        ("IGMMA", 4 * blocks),
        ("WARPGROUP.ARRIVE", 1),
        // One in the loop, one behind it.
        ("WARPGROUP.DEPBAR", 2),
        ("USETMAXREG", 2),
    ] {
        if count(what) != expected {
            wrong.push(format!(
                "{name}: {} {what}, expected {expected}",
                count(what)
            ));
        }
    }
    // From the first to the last wgmma of a stage, nothing but arithmetic on descriptors.
    let of = |op: &String| op.starts_with("IGMMA");
    let (first, last) = (opcodes.iter().position(of), opcodes.iter().rposition(of));
    if let (Some(first), Some(last)) = (first, last) {
        let between = &opcodes[first..last];
        let moved = between.iter().filter(|op| {
            ["LD", "ST", "BAR", "BRA", "SYNCS"]
                .iter()
                .any(|prefix| op.starts_with(prefix))
        });
        let moved: Vec<_> = moved.collect();
        if !moved.is_empty() {
            wrong.push(format!("{name}: between the wgmma of a stage: {moved:?}"));
        }
    }
    check_fences(name, opcodes, wrong);
    for (what, least) in [("UTMALDG.2D", 2), ("SYNCS.PHASECHK", 2), ("UTMACCTL", 2)] {
        if count(what) < least {
            wrong.push(format!("{name}: {} {what}, expected {least}", count(what)));
        }
    }
    let multicast = opcodes.iter().any(|op| op.contains("MULTICAST"));
    if multicast != (tile.cluster > 1) {
        wrong.push(format!("{name}: multicast: {multicast}"));
    }
}

/// No fence of the device where a stage changes hands: neither in the consumers' loop nor where the producer loads. An arrival or a
/// wait in the scope of the cluster would bring one.
fn check_fences(name: &str, opcodes: &[String], wrong: &mut Vec<String>) {
    let fences = |what: &str, from: Option<usize>, to: Option<usize>, wrong: &mut Vec<String>| {
        let (Some(from), Some(to)) = (from, to) else {
            return wrong.push(format!("{name}: {what} was not found"));
        };
        let of = |op: &&String| {
            ["MEMBAR", "ERRBAR", "CGAERRBAR", "CCTL"]
                .iter()
                .any(|prefix| op.starts_with(prefix))
        };
        let found: Vec<_> = opcodes[from..=to.max(from)].iter().filter(of).collect();
        if !found.is_empty() {
            wrong.push(format!("{name}: fences in {what}: {found:?}"));
        }
    };
    let first = opcodes.iter().position(|op| op.starts_with("IGMMA"));
    // The branch behind the wgmma that goes back to before them.
    let back = first.and_then(|first| {
        let goes_back = |op: &String| {
            let target = op.strip_prefix("BRA")?.split_once('@')?.1.parse().ok();
            target.filter(|target: &usize| *target <= first)
        };
        let at = opcodes[first..]
            .iter()
            .position(|op| goes_back(op).is_some());
        at.map(|at| first + at)
    });
    fences("the consumers' loop", first, back, wrong);
    let starts = opcodes
        .iter()
        .position(|op| op.starts_with("USETMAXREG.DEALLOC"));
    let loads = opcodes.iter().rposition(|op| op.starts_with("UTMALDG"));
    fences(
        "the producer",
        starts,
        loads.filter(|end| starts.is_some_and(|at| at < *end)),
        wrong,
    );
}

/// Registers and bytes of stack of each kernel of an image, by name.
fn usage(program: &Path, image: &str) -> BTreeMap<String, (usize, usize)> {
    let found = imma::cuda::images().iter().find(|i| i.name == image);
    let Some(image) = found else {
        return BTreeMap::new();
    };
    let file =
        std::env::temp_dir().join(format!("imma-{}-{}.fatbin", image.name, std::process::id()));
    std::fs::write(&file, image.bytes).unwrap();
    let output = Command::new(program)
        .arg("-res-usage")
        .arg(&file)
        .output()
        .unwrap();
    let _ = std::fs::remove_file(&file);
    let text = String::from_utf8_lossy(&output.stdout).into_owned()
        + &String::from_utf8_lossy(&output.stderr);
    // ` Function igemm_sm80_16x64x128:` and then ` REG:108 STACK:0 SHARED:0 LOCAL:0 ...`, for each architecture
    let (mut name, mut most) = (String::new(), BTreeMap::new());
    for line in text.lines().map(str::trim) {
        if let Some(function) = line.strip_prefix("Function ") {
            name = function.trim_end_matches(':').to_owned();
        }
        let field = |key: &str| -> Option<usize> {
            let of = line.split_whitespace().find_map(|w| w.strip_prefix(key))?;
            of.parse().ok()
        };
        if let (Some(registers), Some(stack)) = (field("REG:"), field("STACK:")) {
            let (r, s) = most.entry(name.clone()).or_insert((0, 0));
            (*r, *s) = (registers.max(*r), stack.max(*s));
        }
    }
    most
}

/// What the checks read of a tile of whichever family.
#[derive(Debug)]
struct Tile {
    name: &'static str,
    warps: usize,
    blocks: usize,
    registers: usize,
    shared: usize,
}

/// The tiles of an image.
macro_rules! tiles {
    ($family:ident) => {
        tiles!($family::TILES)
    };
    ($($all:ident)::+) => {
        $($all)::+.each_ref().map(|tile| Tile {
            name: tile.name,
            warps: tile.warps,
            blocks: tile.blocks,
            registers: tile.registers,
            shared: tile.shared(),
        })
    };
}

/// Registers and shared memory of each GEMM instance against what its tile says, so that the blocks it is meant for fit.
fn check_tiles(program: &Path, wrong: &mut Vec<String>) {
    let mut grouped: Vec<_> = tiles!(igemm_grouped).into();
    grouped.extend(tiles!(igemm_grouped::GROUPWISE_TILES));
    for (image, tiles) in [
        ("igemm_sm80", &tiles!(igemm_sm80)[..]),
        ("igemm_grouped", &grouped[..]),
        ("igemm_groupwise", &tiles!(igemm_groupwise)[..]),
    ] {
        let used = usage(program, image);
        if used.len() != tiles.len() {
            wrong.push(format!(
                "resource usage of {} instances of {image} seen",
                used.len()
            ));
        }
        for (name, (registers, stack)) in used {
            let of_tile = name.strip_prefix(image).and_then(|n| n.strip_prefix('_'));
            let Some(tile) = tiles.iter().find(|t| Some(t.name) == of_tile) else {
                wrong.push(format!("{name}: no such tile"));
                continue;
            };
            let held = registers.next_multiple_of(8) * 32 * tile.warps * tile.blocks;
            // A block takes 1 KiB of shared memory for itself; sm_80 has 164 KiB a multiprocessor.
            let shared = (tile.shared + 1024) * tile.blocks;
            if registers > tile.registers || held > 65_536 || stack > 0 || shared > 164 << 10 {
                wrong.push(format!(
                    "{name}: {registers} registers, {stack} bytes of stack do not fit {tile:?}"
                ));
            }
            if tile.shared > 99 << 10 {
                wrong.push(format!(
                    "{name}: more shared memory than sm_86, 89 and 120 have"
                ));
            }
        }
    }
}

/// The table of cuda/README.md is what the Hopper instances are and take.
fn check_tiles90(program: &Path, wrong: &mut Vec<String>) {
    let used = usage(program, "igemm_sm90");
    if used.is_empty() {
        return println!("not run: no igemm_sm90 in this build");
    }
    let readme = include_str!("../../cuda/README.md");
    for tile in igemm_sm90::TILES {
        let Some((registers, stack)) = used.get(&format!("igemm_sm90_{}", tile.name)) else {
            wrong.push(format!("{}: no such entry", tile.name));
            continue;
        };
        let side = if tile.swapped { "weights" } else { "rows" };
        let turns = if tile.pingpong {
            "in turn"
        } else {
            "half each"
        };
        let row = format!(
            "| `{}` | {} {side} x {} | {turns} | {} | {} x {} | {} | {registers} |",
            tile.name,
            tile.tall,
            tile.wide,
            tile.cluster,
            tile.stages,
            (tile.tall + tile.wide) * 128,
            tile.shared(),
        );
        if !readme.contains(&row) {
            wrong.push(format!("cuda/README.md lacks the row {row}"));
        }
        // 384 threads a block; 227 KiB of shared memory.
        if *stack > 0 || registers * 384 > 65_536 || tile.shared() > 227 << 10 {
            wrong.push(format!(
                "{}: {registers} registers, {stack} bytes of stack",
                tile.name
            ));
        }
    }
}
