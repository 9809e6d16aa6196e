//! The command in a shell's situations: links, devices, pipes, closed and full outputs, little memory.
//!
//! An output is there whole, or the exit code says no.

use crate::cli::{bytes, imma, ok, read_i32, refused};
use crate::folder::Folder;
use half::bf16;
use imma::npy::{self, NpyArray};
use ndarray::{Array2, ArrayD};
use std::os::unix::fs::{symlink, FileTypeExt, PermissionsExt};
use std::path::Path;
use std::process::{Command, Output};

/// Two int8 operands in a folder, and their product.
fn operands(name: &str) -> (Folder, Array2<i32>) {
    let dir = Folder::new(name);
    let (a, w) = (bytes(5, 7, 1), bytes(7, 3, 2));
    npy::write(dir.0.join("a.npy"), a.view().into_dyn()).unwrap();
    npy::write(dir.0.join("w.npy"), w.view().into_dyn()).unwrap();
    (dir, a.mapv(i32::from).dot(&w.mapv(i32::from)))
}

/// Runs a line of a shell in a folder; `$imma` is the command.
fn shell(dir: &Folder, line: &str) -> Output {
    Command::new("bash")
        .args(["-c", line])
        .current_dir(&dir.0)
        .env("imma", env!("CARGO_BIN_EXE_imma"))
        .output()
        .unwrap()
}

const PRODUCT: &str = "\"$imma\" matmul a.npy w.npy --device cpu --threads 1 -o ";

/// Nothing but what the test made lies in the folder.
fn holds(dir: &Folder, want: &[&str]) {
    let mut names: Vec<_> = std::fs::read_dir(&dir.0)
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(names, want);
}

#[test]
fn a_link_stays_a_link_and_its_target_keeps_its_mode() {
    let (dir, want) = operands("links");
    std::fs::create_dir(dir.0.join("there")).unwrap();
    let target = dir.0.join("there/real.npy");
    std::fs::write(&target, "old").unwrap();
    std::fs::set_permissions(&target, std::fs::Permissions::from_mode(0o640)).unwrap();
    symlink("there/real.npy", dir.0.join("second")).unwrap();
    symlink("second", dir.0.join("first")).unwrap();
    symlink("there/new.npy", dir.0.join("dangling")).unwrap();
    symlink("circle", dir.0.join("circle")).unwrap();
    for (link, file) in [("first", "there/real.npy"), ("dangling", "there/new.npy")] {
        ok(shell(&dir, &format!("{PRODUCT}{link}")));
        assert!(dir.0.join(link).symlink_metadata().unwrap().is_symlink());
        assert_eq!(read_i32(&dir.0.join(file)), want);
    }
    let mode = target.metadata().unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o640);
    refused(
        &shell(&dir, &format!("{PRODUCT}circle")),
        &["circle", "found"],
    );
    let made = std::fs::read_dir(dir.0.join("there")).unwrap().count();
    assert_eq!(made, 2);
    holds(
        &dir,
        &[
            "a.npy", "circle", "dangling", "first", "second", "there", "w.npy",
        ],
    );
}

#[test]
fn devices_and_fifos_are_written_into() {
    let (dir, want) = operands("devices");
    let quantize = "\"$imma\" quantize x.npy --device cpu -o ";
    let x = want.mapv(|x| x as f32);
    npy::write(dir.0.join("x.npy"), x.view().into_dyn()).unwrap();
    ok(shell(
        &dir,
        &format!("mkfifo p; cat p >got & {PRODUCT}p && wait"),
    ));
    assert_eq!(read_i32(&dir.0.join("got")), want);
    ok(shell(
        &dir,
        &format!("cat p >got.npz & {quantize}p && wait"),
    ));
    let read = imma::npz::read(dir.0.join("got.npz")).unwrap();
    assert_eq!(read.names().collect::<Vec<_>>(), ["data", "scales"]);
    assert!(dir.0.join("p").metadata().unwrap().file_type().is_fifo());
    for command in [PRODUCT, quantize] {
        ok(shell(&dir, &format!("{command}/dev/null")));
        let full = shell(&dir, &format!("{command}/dev/full"));
        refused(&full, &["/dev/full: found", "No space left"]);
    }
    let null = Path::new("/dev/null").metadata().unwrap();
    assert!(null.file_type().is_char_device());
    holds(&dir, &["a.npy", "got", "got.npz", "p", "w.npy", "x.npy"]);
}

#[test]
fn standard_output_takes_the_product_and_nothing_else() {
    let (dir, want) = operands("stdout");
    for line in [
        format!("{PRODUCT}/dev/stdout | cat >got"),
        format!("{PRODUCT}/dev/stdout >got"),
        format!("{PRODUCT}got >got"),
        format!("{PRODUCT}/dev/fd/3 3>got"),
        format!(": >got; {PRODUCT}/proc/self/fd/1 >>got"),
    ] {
        let ran = shell(&dir, &line);
        let errors = String::from_utf8_lossy(&ran.stderr).into_owned();
        let reported = errors + &ok(ran);
        assert!(
            reported.contains("[5, 7] x [7, 3] int8 -> int32"),
            "{reported}"
        );
        assert_eq!(read_i32(&dir.0.join("got")), want, "{line}");
    }
    let gone = shell(
        &dir,
        &format!("set -o pipefail; {PRODUCT}/dev/stdout | sleep 0"),
    );
    // A reader that has gone may have taken what there was; what it has not taken is a failure.
    assert!([Some(0), Some(2)].contains(&gone.status.code()));
    holds(&dir, &["a.npy", "got", "w.npy"]);
}

#[test]
fn reports_that_cannot_be_printed_undo_nothing() {
    let (dir, want) = operands("reports");
    for (ending, warned) in [(">/dev/full", true), ("| true", false), (">&-", false)] {
        let line = format!("set -o pipefail; {PRODUCT}out.npy --reference {ending}");
        let ran = shell(&dir, &line);
        let errors = String::from_utf8_lossy(&ran.stderr).into_owned();
        assert_eq!(
            errors.contains("the output was written"),
            warned,
            "{errors}"
        );
        ok(ran);
        assert_eq!(read_i32(&dir.0.join("out.npy")), want, "{ending}");
        std::fs::remove_file(dir.0.join("out.npy")).unwrap();
    }
    // A failure stays one, whether or not it can be said.
    for ending in [
        ">/dev/full",
        "2>/dev/full",
        ">&- 2>&-",
        "2>/dev/full | true",
    ] {
        let line = format!("set -o pipefail; {PRODUCT}no/such/out.npy {ending}");
        assert_eq!(shell(&dir, &line).status.code(), Some(2), "{ending}");
    }
    // Where the lines are the result, they have to be printed.
    let bench = "bench gemm --m 1 --n 8 --k 8 --seconds 0.01 --threads 1";
    for command in ["info", bench] {
        let ran = shell(&dir, &format!("\"$imma\" {command} >/dev/full"));
        refused(&ran, &["standard output: No space left"]);
        ok(shell(
            &dir,
            &format!("set -o pipefail; \"$imma\" {command} | true"),
        ));
    }
    let plot = shell(
        &dir,
        &format!("\"$imma\" {bench} --plot roof.svg >/dev/full"),
    );
    refused(&plot, &["standard output"]);
    holds(&dir, &["a.npy", "roof.svg", "w.npy"]);
}

#[test]
fn inputs_come_from_pipes() {
    let (dir, want) = operands("pipes");
    for (a, w, before) in [
        ("<(cat a.npy)", "w.npy", ""),
        ("a.npy", "<(cat w.npy)", ""),
        ("<(cat a.npy)", "<(cat w.npy)", ""),
        ("/dev/stdin", "w.npy", "cat a.npy |"),
        ("/dev/stdin", "w.npy", "<a.npy"),
    ] {
        let line = format!("{before} \"$imma\" matmul {a} {w} --device cpu -o out.npy");
        ok(shell(&dir, &line));
        assert_eq!(read_i32(&dir.0.join("out.npy")), want, "{line}");
        std::fs::remove_file(dir.0.join("out.npy")).unwrap();
    }
    let short = shell(
        &dir,
        "\"$imma\" matmul <(head -c 140 a.npy) w.npy -o out.npy",
    );
    refused(&short, &["found 12 bytes of data, expected 35 bytes"]);
    let zeros = shell(&dir, "\"$imma\" matmul /dev/zero w.npy -o out.npy");
    refused(&zeros, &["/dev/zero: found a file that begins with zeros"]);
}

#[test]
fn names_may_be_as_long_as_the_system_takes() {
    let (dir, want) = operands("long");
    let name = format!("{}.npy", "n".repeat(251));
    ok(shell(&dir, &format!("{PRODUCT}{name}")));
    assert_eq!(read_i32(&dir.0.join(&name)), want);
    let name = format!("{}.npy", "n".repeat(252));
    refused(&shell(&dir, &format!("{PRODUCT}{name}")), &["too long"]);
}

/// Under any limit on memory the command says what it can't have: it never aborts.
#[test]
fn little_memory_is_one_sentence() {
    let dir = Folder::new("little");
    let write = |name: &str, shape: [usize; 2]| {
        npy::write(
            dir.0.join(name),
            Array2::<f32>::ones(shape).into_dyn().view(),
        )
        .unwrap();
    };
    write("a.npy", [100_000, 1]);
    write("w.npy", [1, 100_000]);
    let line = format!("ulimit -v 2097152; {PRODUCT}out.npy");
    let large = shell(&dir, &line);
    refused(
        &large,
        &[
            "the result takes 40000000000 bytes, more than the ",
            "bytes that are free",
        ],
    );
    // Room for the result, none for the float product to compare it with.
    write("a.npy", [10_000, 1]);
    write("w.npy", [1, 2_000]);
    let line = format!("ulimit -v 262144; {PRODUCT}out.npy --reference");
    let compared = shell(&dir, &line);
    let errors = String::from_utf8_lossy(&compared.stderr);
    assert_eq!(compared.status.code(), Some(2), "{errors}");
    assert!(
        errors.contains("the comparison with the float product takes"),
        "{errors}"
    );
    assert!(dir.0.join("out.npy").exists());
    let quantize = "\"$imma\" quantize out.npy --device cpu -o q.npz";
    // What fits under a limit depends on the build and the machine: which sentence comes is open, that one comes is not.
    let sentences = [
        (
            2,
            "out.npy: found an array of 80000000 bytes, expected one that fits",
        ),
        (2, "the quantised tensor takes 40000000 bytes, more than"),
        (
            0,
            "error against the floats: not computed: compare: the comparison takes",
        ),
    ];
    for limit in [98_304, 131_072, 262_144] {
        let ran = shell(&dir, &format!("ulimit -v {limit}; {quantize}"));
        let said = [&ran.stdout[..], &ran.stderr].concat();
        let said = String::from_utf8_lossy(&said);
        let one =
            |(code, part): &(i32, &str)| ran.status.code() == Some(*code) && said.contains(part);
        assert!(
            sentences.iter().any(one),
            "{limit}: {:?} {said}",
            ran.status
        );
    }
}

#[test]
fn float64_and_bfloat16_are_taken_with_a_note() {
    let dir = Folder::new("notes");
    let path = |name: &str| dir.0.join(name);
    let x = bytes(4, 9, 1).mapv(|x| f32::from(x) * 0.031);
    let w = bytes(9, 3, 2).mapv(|x| f32::from(x) * 0.007);
    ndarray_npy::write_npy(path("a.npy"), &x.mapv(f64::from)).unwrap();
    npy::write(path("w.npy"), w.view().into_dyn()).unwrap();
    let ran = shell(&dir, &format!("{PRODUCT}out.npy"));
    let notes = String::from_utf8_lossy(&ran.stderr).into_owned();
    assert!(
        notes.contains("imma: a.npy: float64 values were rounded to float32"),
        "{notes}"
    );
    ok(ran);
    let want = imma::q_matmul_int8(x.view(), w.view()).unwrap();
    assert_eq!(
        npy::read(path("out.npy")).unwrap(),
        NpyArray::F32(want.into_dyn())
    );
    // Messages say what was in the files.
    npy::write(path("w.npy"), bytes(9, 3, 2).view().into_dyn()).unwrap();
    refused(
        &shell(&dir, &format!("{PRODUCT}out.npy")),
        &["w.npy: found int8, expected float32 as in a.npy (float64 values were rounded"],
    );

    let (x, w) = (x.mapv(bf16::from_f32), w.mapv(bf16::from_f32));
    npy::write(path("a.npy"), x.view().into_dyn()).unwrap();
    npy::write(path("w.npy"), w.view().into_dyn()).unwrap();
    let want = imma::q_matmul_int8(x.view(), w.view()).unwrap().into_dyn();
    ok(shell(&dir, &format!("{PRODUCT}out.npy --reference")));
    assert_eq!(npy::read(path("out.npy")).unwrap(), NpyArray::BF16(want));
    let want: ArrayD<f32> = imma::ops::q_matmul_int8_as(x.view(), w.view())
        .unwrap()
        .into_dyn();
    ok(shell(&dir, &format!("{PRODUCT}out.npy --out-dtype f32")));
    assert_eq!(npy::read(path("out.npy")).unwrap(), NpyArray::F32(want));
    ok(shell(&dir, "\"$imma\" quantize a.npy -o q.npz"));
}

/// Files that stand for others, or are others: named, with what to do.
#[test]
fn other_files_are_named() {
    let dir = Folder::new("others");
    let at = |name: &str| dir.0.join(name).display().to_string();
    for (start, found, remedy) in [
        (
            &b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n"[..],
            "git-lfs pointer",
            "git lfs pull",
        ),
        (
            b"<!DOCTYPE html><html>",
            "HTML page",
            "download the file itself",
        ),
        (b"GGUF\x03\0\0\0\0\0\0\0", "GGUF", "safetensors"),
        (b"", "an empty file", "download the file again"),
        (b"\x80\x02}q\x00X\x03\0\0\0abc", "pickle", "torch.load"),
    ] {
        std::fs::write(at("x.npy"), start).unwrap();
        let array = imma(&["matmul", &at("x.npy"), &at("x.npy"), "-o", &at("out.npy")]);
        refused(
            &array,
            &["x.npy: found", found, "expected a .npy file", remedy],
        );
        std::fs::create_dir_all(at("model")).unwrap();
        std::fs::write(at("model/model.safetensors"), start).unwrap();
        let model = imma(&["quantize", &at("model"), "-o", &at("out")]);
        refused(
            &model,
            &[
                "model.safetensors: found",
                found,
                "safetensors file",
                remedy,
            ],
        );
        std::fs::write(at("model/config.json"), start).unwrap();
        let model = imma(&["quantize", &at("model"), "-o", &at("out")]);
        refused(&model, &["config.json: found", "expected"]);
        std::fs::remove_dir_all(at("model")).unwrap();
    }
    // A folder of other formats says which.
    std::fs::create_dir_all(at("model")).unwrap();
    std::fs::write(at("model/pytorch_model.bin"), "x").unwrap();
    let model = imma(&["quantize", &at("model"), "-o", &at("out")]);
    refused(&model, &["pytorch_model.bin", "no .safetensors file"]);
    holds(&dir, &["model", "x.npy"]);
}
