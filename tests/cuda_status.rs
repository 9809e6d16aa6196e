//! A binary with `cuda` starts anywhere, and says what is missing. No driver is put in place here: this sees the
//! machine as it is.
#![cfg(feature = "cuda")]

use imma::cuda::{status, Device, Status};

#[test]
fn status_answers_on_any_machine() {
    let status = status();
    println!("{status}");
    assert_ne!(status, Status::NotCompiledIn);
    assert_eq!(status, imma::cuda::status(), "asking twice changes nothing");
    if std::env::var("IMMA_TEST_DEVICE").as_deref() == Ok("hardware") {
        assert!(status.is_usable(), "{status}");
    }
}

#[test]
fn opening_a_device_that_is_not_there_is_an_error() {
    let nowhere = 1000;
    let error = Device::open(nowhere).unwrap_err().to_string();
    assert!(error.contains("CUDA") && error.contains("1000"), "{error}");
    let status = status();
    if !status.is_usable() {
        let error = Device::open(0).unwrap_err().to_string();
        assert!(error.contains(&status.to_string()), "{error}");
    }
}
