//! Arrays round trip; what numpy wrote is read; what is damaged is refused.

use super::*;
use ndarray::{arr2, Array1};

/// A file of version 1 whose description is Python text.
fn header(descr: &str, shape: &str, data: &[u8]) -> Vec<u8> {
    let header = format!("{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}\n");
    let mut out = b"\x93NUMPY\x01\x00".to_vec();
    out.extend_from_slice(&(header.len() as u16).to_le_bytes());
    out.extend_from_slice(header.as_bytes());
    out.extend_from_slice(data);
    out
}

fn file(descr: &str, shape: &str, data: &[u8]) -> Vec<u8> {
    header(&format!("'{descr}'"), shape, data)
}

fn folder(name: &str) -> PathBuf {
    let dir = std::env::temp_dir().join(format!("imma-npy-{}-{name}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    dir
}

#[test]
fn arrays_come_back_as_they_were_written() {
    let dir = folder("round");
    let path = dir.join("a.npy");
    let a = arr2(&[[1i8, -128, 3], [4, 5, 127]]).into_dyn();
    write(&path, a.view()).unwrap();
    assert_eq!(read(&path).unwrap(), NpyArray::I8(a));
    let f = Array1::from_vec(vec![1.5f32, f32::NEG_INFINITY]).into_dyn();
    write(&path, f.view()).unwrap();
    assert_eq!(read(&path).unwrap(), NpyArray::F32(f));
    let h = Array1::from_vec(vec![f16::from_f32(0.1)]).into_dyn();
    write(&path, h.view()).unwrap();
    assert_eq!(read(&path).unwrap(), NpyArray::F16(h));
    // Larger than the parts in which it is written.
    let a = ndarray::Array2::from_shape_fn((401, 97), |(i, j)| (i * 97 + j) as f32).into_dyn();
    write(&path, a.view()).unwrap();
    assert_eq!(read(&path).unwrap(), NpyArray::F32(a.clone()));
    write(&path, a.t()).unwrap();
    let transposed = a.t().as_standard_layout().into_owned();
    assert_eq!(read(&path).unwrap(), NpyArray::F32(transposed));
    // Another reader agrees, and the temporary file is gone.
    let a = arr2(&[[1i32, 2], [3, 4]]);
    write(&path, a.view().into_dyn()).unwrap();
    assert_eq!(
        ndarray_npy::read_npy::<_, ndarray::Array2<i32>>(&path).unwrap(),
        a
    );
    assert_eq!(std::fs::read_dir(&dir).unwrap().count(), 1);
    std::fs::remove_dir_all(&dir).unwrap();
}

#[test]
fn hostile_headers_are_refused_before_anything_is_allocated() {
    let dir = folder("hostile");
    let path = dir.join("h.npy");
    for (bytes, part) in [
        (b"".to_vec(), "found an empty file"),
        (b"not numpy at all".to_vec(), "found plain text"),
        (
            b"\x01\x02\x03".to_vec(),
            "does not start as a .npy file does",
        ),
        (b"\x93NUMPY".to_vec(), "truncated header"),
        (b"\x93NUMPY\x01\x00\xff\xff{".to_vec(), "truncated header"),
        (
            b"\x93NUMPY\x02\x00\xff\xff\xff\xff{".to_vec(),
            "truncated header",
        ),
        (b"\x93NUMPY\x09\x00\x00\x00".to_vec(), "format version 9"),
        (
            file("<f4", "(2, 2)", &[0; 15]),
            "found 15 bytes of data, expected 16 bytes",
        ),
        (
            file("<f4", "(2, 2)", &[0; 17]),
            "found 17 bytes of data, expected 16 bytes",
        ),
        (
            file("<f4", "(99999999999, 99999999999)", &[]),
            "more bytes than can be addressed",
        ),
        (
            file("<f4", "(1000000000000,)", &[0; 4]),
            "found 4 bytes of data",
        ),
        (file("<f4", "(-1,)", &[]), "the header"),
        (
            file("<f8", "(1,)", &[0; 7]),
            "found 7 bytes of data, expected 8 bytes for shape [1] of float64",
        ),
        (
            file("<f8", "(1,)", &1e39f64.to_le_bytes()),
            "found 1e39 among float64 values",
        ),
        (
            file(">i2", "(1,)", &[0; 2]),
            "found elements of type big-endian int16, expected int8",
        ),
        (file("|u1", "(1,)", &[0; 1]), "type uint8"),
        (file("|O", "(1,)", &[0; 4]), "type Python objects"),
        (file("<V1", "(4,)", &[0; 4]), "float8"),
        (file("<V4", "(1,)", &[0; 4]), "type '<V4'"),
        (
            header("[('a', '<f4'), ('b', '<f4')]", "(1,)", &[0; 8]),
            "a structure of fields",
        ),
    ] {
        std::fs::write(&path, &bytes).unwrap();
        let message = read(&path).unwrap_err().to_string();
        assert!(
            message.contains(part) && message.contains("h.npy"),
            "{message}"
        );
        assert!(!message.contains('\n'), "{message}");
    }
    std::fs::remove_dir_all(&dir).unwrap();
}

#[test]
fn fortran_order_is_read() {
    let dir = folder("fortran");
    let path = dir.join("f.npy");
    let a = arr2(&[[1f32, 2.0, 3.0], [4.0, 5.0, 6.0]]);
    let f = a.t().as_standard_layout().into_owned().reversed_axes();
    ndarray_npy::write_npy(&path, &f).unwrap();
    assert!(std::fs::read(&path)
        .unwrap()
        .windows(4)
        .any(|w| w == b"True"));
    assert_eq!(read(&path).unwrap(), NpyArray::F32(a.into_dyn()));
    std::fs::remove_dir_all(&dir).unwrap();
}

#[test]
fn a_failed_write_leaves_the_old_file() {
    let dir = folder("failed");
    let path = dir.join("x.npy");
    std::fs::write(&path, b"old").unwrap();
    let e = write_npz(&path, |_| {
        let full = std::io::Error::other("disk full");
        Err(ndarray_npy::WriteNpzError::Npy(full.into()))
    });
    let e = e.unwrap_err();
    assert!(e.to_string().contains("disk full"));
    assert_eq!(std::fs::read(&path).unwrap(), b"old");
    assert_eq!(std::fs::read_dir(&dir).unwrap().count(), 1);
    let missing = dir.join("no/such/folder/x.npy");
    assert!(write(&missing, arr2(&[[1i8]]).view().into_dyn())
        .unwrap_err()
        .to_string()
        .contains("no such file"));
    std::fs::remove_dir_all(&dir).unwrap();
}

#[test]
fn every_form_of_a_type_is_read_as_its_values() {
    let dir = folder("forms");
    let path = dir.join("x.npy");
    let read = |bytes: Vec<u8>| {
        std::fs::write(&path, bytes).unwrap();
        read_with_note(&path).unwrap_or_else(|e| panic!("{e}"))
    };
    let floats = [1.5f32, -0.1, f32::INFINITY, 3e-41];
    let want = NpyArray::F32(Array1::from_vec(floats.to_vec()).into_dyn());
    let data = |f: fn(f32) -> Vec<u8>| floats.into_iter().flat_map(f).collect::<Vec<u8>>();
    let little = data(|x| x.to_le_bytes().to_vec());
    for descr in ["<f4", "=f4", "f4", "|f4"] {
        assert_eq!(read(file(descr, "(4,)", &little)), (want.clone(), None));
    }
    let (got, note) = read(file(">f4", "(4,)", &data(|x| x.to_be_bytes().to_vec())));
    assert_eq!(got, want);
    assert!(note.unwrap().contains("big-endian"));
    for (descr, bytes) in [
        ("<f8", data(|x| f64::from(x).to_le_bytes().to_vec())),
        (">f8", data(|x| f64::from(x).to_be_bytes().to_vec())),
    ] {
        let (got, note) = read(file(descr, "(4,)", &bytes));
        assert_eq!(got, want);
        assert!(note.unwrap().contains("float64"), "{descr}");
    }
    // Rounded to nearest, ties to even; NaN stays NaN.
    let between = 1.0 + f64::from(f32::EPSILON) * 0.5;
    let bytes = [between, -1e-50, f64::NAN].map(f64::to_le_bytes).concat();
    let (NpyArray::F32(got), _) = read(file("<f8", "(3,)", &bytes)) else {
        panic!("float32")
    };
    assert_eq!((got[[0]], got[[1]].to_bits()), (1.0, (-0.0f32).to_bits()));
    assert!(got[[2]].is_nan());

    let halves = [1.5f32, -2.0].map(f16::from_f32);
    let want = NpyArray::F16(Array1::from_vec(halves.to_vec()).into_dyn());
    assert_eq!(
        read(file("<f2", "(2,)", &halves.map(f16::to_le_bytes).concat())).0,
        want
    );
    assert_eq!(
        read(file(">f2", "(2,)", &halves.map(f16::to_be_bytes).concat())).0,
        want
    );

    let brains = [1.5f32, -3e38].map(bf16::from_f32);
    let want = NpyArray::BF16(Array1::from_vec(brains.to_vec()).into_dyn());
    let bytes = brains.map(bf16::to_le_bytes).concat();
    for descr in ["<V2", "|V2", "V2", "bfloat16"] {
        assert_eq!(
            read(file(descr, "(2,)", &bytes)),
            (want.clone(), None),
            "{descr}"
        );
    }
    assert_eq!(
        read(header("[('', '<V2')]", "(2,)", &bytes)),
        (want.clone(), None)
    );
    assert_eq!(
        read(header("[('', '|V2'),]", "(2,)", &bytes)),
        (want.clone(), None)
    );
    // And written as ml_dtypes writes it.
    let NpyArray::BF16(brains) = &want else {
        unreachable!()
    };
    write(&path, brains.view()).unwrap();
    assert!(std::fs::read(&path)
        .unwrap()
        .windows(5)
        .any(|w| w == b"'<V2'"));
    assert_eq!(super::read(&path).unwrap(), want);

    for descr in ["|i1", "<i1", ">i1", "=i1", "i1"] {
        let (got, note) = read(file(descr, "(2, 1)", &[0x80, 7]));
        assert_eq!(
            (got, note),
            (NpyArray::I8(arr2(&[[-128i8], [7]]).into_dyn()), None)
        );
    }
    std::fs::remove_dir_all(&dir).unwrap();
}

#[test]
fn headers_of_python_2_and_of_other_writers_are_read() {
    let dir = folder("python2");
    let path = dir.join("x.npy");
    for text in [
        "{'descr': '|i1', 'fortran_order': False, 'shape': (2L, 3L), }",
        "{'shape': (2L,3), 'fortran_order':False, 'descr':'|i1'}",
        "{\"descr\": \"|i1\", \"fortran_order\": False, \"shape\": (2, 3)}",
    ] {
        for version in 1..=3u8 {
            let mut bytes = b"\x93NUMPY".to_vec();
            bytes.extend([version, 0]);
            match version {
                1 => bytes.extend((text.len() as u16).to_le_bytes()),
                _ => bytes.extend((text.len() as u32).to_le_bytes()),
            }
            bytes.extend(text.as_bytes());
            bytes.extend([1, 2, 3, 4, 5, 6]);
            std::fs::write(&path, bytes).unwrap();
            let want = NpyArray::I8(arr2(&[[1i8, 2, 3], [4, 5, 6]]).into_dyn());
            assert_eq!(read(&path).unwrap(), want, "{text}");
        }
    }
    std::fs::write(&path, file("|i1", "(5LL,)", &[0; 5])).unwrap();
    assert!(read(&path).unwrap_err().to_string().contains("the header"));
    std::fs::remove_dir_all(&dir).unwrap();
}

/// Gigabytes that a sparse file only claims are not allocated.
#[test]
fn a_header_of_gigabytes_is_refused() {
    let dir = folder("sparse");
    let path = dir.join("x.npy");
    std::fs::write(&path, b"\x93NUMPY\x02\x00\xf0\xff\xff\xff").unwrap();
    let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
    file.set_len(1 << 33).unwrap();
    let message = read(&path).unwrap_err().to_string();
    assert!(
        message.contains("found a header of 4294967280 bytes"),
        "{message}"
    );
    std::fs::remove_dir_all(&dir).unwrap();
}

/// From a stream of unknown length memory grows with what comes, and every length is checked at its end.
#[test]
fn streams_are_read_to_their_end() {
    let want: Vec<i8> = (0..100_000u32).map(|i| i as i8).collect();
    let data: Vec<u8> = want.iter().map(|x| *x as u8).collect();
    let path = Path::new("pipe");
    let stream = |claimed: &str, data: &[u8]| {
        let bytes = file("|i1", claimed, data);
        // Bytes come in small parts, as from a pipe.
        let slow = bytes.chunks(7).map(|c| c.to_vec()).collect::<Vec<_>>();
        struct Slow(Vec<Vec<u8>>, usize);
        impl std::io::Read for Slow {
            fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
                let Some(next) = self.0.get_mut(self.1) else {
                    return Ok(0);
                };
                let n = next.len().min(out.len());
                out[..n].copy_from_slice(&next[..n]);
                next.drain(..n);
                self.1 += usize::from(next.is_empty());
                Ok(n)
            }
        }
        parse(path, Slow(slow, 0), None)
    };
    let (got, _) = stream("(100000,)", &data).unwrap();
    assert_eq!(got, NpyArray::I8(Array1::from_vec(want).into_dyn()));
    for (claimed, part) in [
        (
            "(99999,)",
            "found more than 99999 bytes of data, expected 99999 bytes",
        ),
        (
            "(100001,)",
            "found 100000 bytes of data, expected 100001 bytes",
        ),
        ("(9000000000000000000,)", "found 100000 bytes of data"),
        (
            "(9000000000000000000, 9)",
            "found a pipe, expected more bytes than can be addressed",
        ),
    ] {
        let message = stream(claimed, &data).unwrap_err().to_string();
        assert!(message.contains(part), "{message}");
    }
}
