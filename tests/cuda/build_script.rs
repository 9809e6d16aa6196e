//! What the build decides: which compiler, which architectures, whose images; as plain functions of what it finds.

#[path = "../../cuda/build"]
#[allow(dead_code)] // the build calls the rest
pub mod build {
    pub mod archs;
    pub mod cache;
    pub mod nvcc;
    pub mod packaged;
    pub mod sources;
}

use crate::folder::Folder;
use build::archs::{choose, Archs};
use build::packaged::{Image, Images};
use build::{cache, nvcc, packaged, sources};
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

/// What nvcc 13.0 answers to `--list-gpu-code`.
fn known() -> Vec<String> {
    let list = "75 80 86 87 88 89 90 100 110 103 120 121";
    list.split(' ').map(Into::into).collect()
}

#[test]
fn architectures_are_taken_or_refused_with_the_reason() {
    let names = |asked: &str| choose(asked, &known(), 13_000).unwrap().names.join(" ");
    assert_eq!(names(""), "80 86 89 90a 100 120");
    assert_eq!(names("90a, 80,80"), "80 90a");
    assert_eq!(names("90a,100a,120f,87"), "87 90a 100a 120f");
    for (asked, words) in [
        ("90A", "'90A' is written 90a"),
        ("sm_90", "'sm_90' is written 90a"),
        ("8.6", "'8.6' is written 86"),
        ("80,90", "'90' has none of Hopper's own instructions"),
        ("75", "'75' is too old: the kernels use instructions that start with 80"),
        ("7.5", "'7.5' is too old"),
        ("99", "'99' is unknown to this compiler (this nvcc (CUDA 13.0) compiles for 80, 86, 87, 88, 89, 90a, 100, 103"),
        ("80a", "'80a' is unknown"),
        ("90f", "'90f'"),
        ("90x", "'90x' is no architecture"),
        ("hopper", "'hopper' is no architecture"),
        ("80,", "'' is no architecture"),
        ("80;90a", "'80;90a' is no architecture"),
    ] {
        let said = choose(asked, &known(), 13_000).unwrap_err();
        assert!(said.starts_with("IMMA_CUDA_ARCHS: ") && said.contains(words), "{asked}: {said}");
    }
}

#[test]
fn hoppers_kernels_do_not_go_missing_unseen() {
    let note = |asked: &str| choose(asked, &known(), 13_000).unwrap().note;
    assert_eq!(note(""), None);
    assert_eq!(note("80,90a"), None);
    assert!(note("80")
        .unwrap()
        .contains("Hopper's own kernels are left out"));
    let without: Vec<String> = known().into_iter().filter(|arch| arch != "90").collect();
    let said = choose("", &without, 12_090).unwrap_err();
    assert!(
        said.contains("no code for 90a") && said.contains("CUDA 12.9"),
        "{said}"
    );
    assert!(choose("80,90a", &without, 12_090).is_err());
    assert!(choose("80", &without, 12_090).is_ok());
    // CUDA 12.0 has no Blackwell.
    let old: Vec<String> = ["80", "86", "89", "90"].map(Into::into).to_vec();
    let Archs { names, note } = choose("", &old, 12_000).unwrap();
    assert_eq!(names.join(" "), "80 86 89 90a");
    assert!(note.unwrap().contains("100, 120"));
}

#[test]
fn compilers_are_looked_for_where_they_are_installed() {
    let variables = |name: &str| -> Option<OsString> {
        match name {
            "CUDA_PATH" => Some("/toolkit".into()),
            "PATH" => Some(std::env::join_paths(["/one", "/two"]).unwrap()),
            _ => None,
        }
    };
    let paths = |windows| -> Vec<PathBuf> { nvcc::candidates(variables, windows) };
    let expected = [
        "/toolkit/bin/nvcc",
        "/one/nvcc",
        "/two/nvcc",
        "/usr/local/cuda/bin/nvcc",
        ".cuda/nvidia/cu13/bin/nvcc",
    ];
    assert_eq!(paths(false), expected.map(PathBuf::from));
    let expected = [
        "/toolkit/bin/nvcc.exe",
        "/one/nvcc.exe",
        "/two/nvcc.exe",
        ".cuda/nvidia/cu13/bin/nvcc.exe",
    ];
    assert_eq!(paths(true), expected.map(PathBuf::from));
    let nothing = nvcc::candidates(|_| None, true);
    assert_eq!(nothing, [PathBuf::from(".cuda/nvidia/cu13/bin/nvcc.exe")]);
}

#[test]
fn a_compiler_says_its_version_and_an_old_one_is_told_the_oldest() {
    let banner = "Copyright (c) 2005-2025\nCuda compilation tools, release 13.0, V13.0.88\n";
    assert_eq!(nvcc::version(banner), Some(13_000));
    assert_eq!(
        nvcc::version("Cuda compilation tools, release 11.8, V11.8.89"),
        Some(11_080)
    );
    assert_eq!(nvcc::version("gcc 14"), None);
    let said = nvcc::too_old(Path::new("/usr/bin/nvcc"), 11_080);
    assert!(
        said.contains("/usr/bin/nvcc is of CUDA 11.8") && said.contains("12.0 or later"),
        "{said}"
    );
    let said = nvcc::missing("why. Either this", true);
    assert!(
        said.contains("Either this; or run `.ci/fetch-nvcc`, or install"),
        "{said}"
    );
    assert!(!nvcc::missing("why", false).contains(".ci"));
}

/// A crate's `cuda` folder: two sources, one header, and images of them.
struct Crate {
    folder: Folder,
    images: Images,
}

impl Crate {
    fn new(name: &str) -> Self {
        let folder = Folder::new(name);
        fs::create_dir(folder.0.join("images")).unwrap();
        fs::create_dir(folder.0.join("out")).unwrap();
        let write = |name: &str, text: &str| fs::write(folder.0.join(name), text).unwrap();
        write("a.cu", "#include \"shared.cuh\"\nint a;\n");
        write("b_sm90.cu", "int b;\n");
        write("shared.cuh", "int shared;\n");
        let image = |name: &str, bytes: &[u8]| {
            let fatbin = folder.0.join(name).with_extension("fatbin");
            fs::write(&fatbin, bytes).unwrap();
            let level = ruzstd::encoding::CompressionLevel::Fastest;
            let packed = ruzstd::encoding::compress_to_vec(bytes, level);
            fs::write(
                folder
                    .0
                    .join("images")
                    .join(name)
                    .with_extension("fatbin.zst"),
                packed,
            )
            .unwrap();
            Image {
                name: name.into(),
                fatbin,
                entries: vec![format!("{name}_one"), format!("{name}_two")],
            }
        };
        let images = Images {
            toolkit: 13_000,
            archs: vec!["80".into(), "90a".into()],
            images: vec![image("a", &[1; 5000]), image("b_sm90", b"b")],
        };
        let here = Crate { folder, images };
        let manifest = packaged::manifest(&here.images, &here.sources()).unwrap();
        fs::write(here.path("images/manifest"), manifest).unwrap();
        here
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.0.join(name)
    }

    fn sources(&self) -> Vec<PathBuf> {
        sources::all(&self.folder.0).unwrap()
    }

    fn unpack(&self) -> Result<Option<Images>, String> {
        packaged::unpack(&self.path("images"), &self.sources(), &self.path("out"))
    }

    fn refused(&self, words: &str) {
        let said = self.unpack().unwrap_err();
        assert!(said.contains(words), "{said}; expected {words}");
    }
}

#[test]
fn images_of_the_package_are_those_that_were_compiled() {
    let here = Crate::new("unpacked");
    let found = here.unpack().unwrap().unwrap();
    assert_eq!((found.toolkit, &found.archs), (13_000, &here.images.archs));
    assert_eq!(found.images.len(), 2);
    for (found, made) in found.images.iter().zip(&here.images.images) {
        assert_eq!((&found.name, &found.entries), (&made.name, &made.entries));
        assert_eq!(
            found.fatbin,
            here.path("out").join(&made.name).with_extension("fatbin")
        );
        assert_eq!(
            fs::read(&found.fatbin).unwrap(),
            fs::read(&made.fatbin).unwrap()
        );
    }
    // What an earlier build left is not believed.
    fs::write(here.path("out/a.fatbin"), "another").unwrap();
    here.unpack().unwrap().unwrap();
    assert_eq!(fs::read(here.path("out/a.fatbin")).unwrap(), [1; 5000]);
    fs::remove_file(here.path("images/manifest")).unwrap();
    assert_eq!(here.unpack(), Ok(None));
}

#[test]
fn images_of_other_sources_are_refused() {
    let here = Crate::new("others");
    fs::write(here.path("shared.cuh"), "int changed;\n").unwrap();
    here.refused("the image of a in ");
    fs::write(here.path("shared.cuh"), "int shared;\n").unwrap();
    here.unpack().unwrap().unwrap();
    fs::write(here.path("b_sm90.cu"), "int b; \n").unwrap();
    here.refused("the image of b_sm90 in ");
    fs::remove_file(here.path("b_sm90.cu")).unwrap();
    here.refused("has an image of b_sm90, and the crate no such source");
    fs::write(here.path("b_sm90.cu"), "int b;\n").unwrap();
    fs::write(here.path("c.cu"), "").unwrap();
    here.refused("has no image of ");
}

#[test]
fn damaged_images_are_refused() {
    let here = Crate::new("damaged_package");
    let packed = here.path("images/a.fatbin.zst");
    let whole = fs::read(&packed).unwrap();
    for length in 0..whole.len() {
        fs::write(&packed, &whole[..length]).unwrap();
        here.refused("is damaged");
    }
    // Another image of the same length, and one that unpacks to more than it should.
    let level = ruzstd::encoding::CompressionLevel::Fastest;
    for other in [vec![2; 5000], vec![1; 5001], vec![1; 10_000_000]] {
        fs::write(
            &packed,
            ruzstd::encoding::compress_to_vec(&other[..], level),
        )
        .unwrap();
        here.refused("is damaged");
    }
    fs::remove_file(&packed).unwrap();
    here.refused("a.fatbin.zst: ");
    fs::write(&packed, &whole).unwrap();
    let manifest = fs::read_to_string(here.path("images/manifest")).unwrap();
    for (old, new) in [
        ("imma-images 1", "imma-images 2"),
        ("toolkit 13000", "toolkit"),
        ("image a ", "image b_sm90 "),
        (" a_one a_two", ""),
        (" 5000 ", " many "),
    ] {
        assert!(manifest.contains(old), "{old} in {manifest}");
        fs::write(here.path("images/manifest"), manifest.replace(old, new)).unwrap();
        here.refused("not a manifest of images");
    }
}

#[test]
fn a_hash_is_of_all_that_a_source_includes() {
    let here = Crate::new("hash");
    let text = sources::text(&here.path("a.cu")).unwrap();
    assert!(text.contains("int a;") && text.contains("int shared;") && !text.contains("int b;"));
    let hash = |name: &str| sources::hash(&here.path(name)).unwrap();
    assert_ne!(hash("a.cu"), hash("b_sm90.cu"));
    assert_eq!(hash("a.cu"), hash("a.cu"));
    // Published values of FNV-1a, 128 bits.
    assert_eq!(cache::fnv(&[b""]), 0x6c62272e07bb014262b821756295c58d);
    assert_eq!(cache::fnv(&[b"a"]), 0xd228cb696f1a8caf78912b704e4a8964);
    assert_eq!(cache::fnv(&[b"foo", b"bar"]), cache::fnv(&[b"foobar"]));
}
