//! A binary with `cuda` starts anywhere, and says what is missing.

use crate::support::{alone, hardware};
use imma::cuda::{status, Device, Status};
use std::process::Command;

/// No driver is put in place here: this sees the machine as it is.
#[test]
fn status_answers_on_any_machine() {
    if !alone("status::status_answers_on_any_machine", &[]) {
        return;
    }
    let status = status();
    println!("{status}");
    assert_ne!(status, Status::NotCompiledIn);
    assert_eq!(status, imma::cuda::status(), "asking twice changes nothing");
    if hardware() {
        assert!(status.is_usable(), "{status}");
    }
}

#[test]
fn opening_a_device_that_is_not_there_is_an_error() {
    let name = "status::opening_a_device_that_is_not_there_is_an_error";
    if !alone(name, &[]) {
        return;
    }
    let nowhere = 1000;
    let error = Device::open(nowhere).unwrap_err().to_string();
    assert!(error.contains("CUDA") && error.contains("1000"), "{error}");
    let status = status();
    if !status.is_usable() {
        let error = Device::open(0).unwrap_err().to_string();
        assert!(error.contains(&status.to_string()), "{error}");
    }
}

/// The emulated driver in several states, each in a process of its own: a driver is loaded once and for all.
#[test]
fn status_names_what_is_missing() {
    if hardware() {
        println!("not run: hardware has one state");
        return;
    }
    let cases: [(&[(&str, &str)], &str); 5] = [
        (&[("IMMA_FAKE_DEVICE", "sm_80")], "Ready { devices: 1 }"),
        (&[("IMMA_FAKE_DEVICE", "sm_90")], "Ready { devices: 1 }"),
        (&[("IMMA_FAKE_DEVICE", "none")], "NoDevice"),
        (
            &[("IMMA_FAKE_DRIVER_VERSION", "11040")],
            "DriverTooOld { found: 11040",
        ),
        (
            &[("IMMA_FAKE_DEVICE", "no such thing")],
            "InitFailed { call: \"cuInit\"",
        ),
    ];
    for (environment, expected) in cases {
        let output = Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "status::with_the_emulated_driver",
                "--ignored",
                "--nocapture",
            ])
            .env_remove("IMMA_FAKE_DEVICE")
            .envs(environment.iter().copied())
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{environment:?}: {said}\n{errors}");
        assert!(
            said.contains(&format!("status: {expected}")),
            "{environment:?}: expected {expected}, said\n{said}\n{errors}"
        );
    }
}

#[test]
#[ignore = "run by status_names_what_is_missing, in a process of its own"]
fn with_the_emulated_driver() {
    if hardware() {
        return;
    }
    fake_cuda::install::install();
    let status = status();
    println!("status: {status:?}");
    println!("{status}");
    assert_eq!(Device::open(0).is_ok(), status.is_usable());
}
