//! Devices: one, or `IMMA_FAKE_DEVICES` of a kind, which share what is in their memory.
use super::abi::{Host, Out};
use super::attribute::attribute;
use super::context::check_device;
use super::state::{lock, Driver};
use super::status::Status;
use super::with_driver;

/// Differs by architecture, so that caches keyed by it stay apart.
fn uuid(driver: &Driver) -> [u8; 16] {
    let mut uuid = *b"imma fake sm_000";
    for (place, power) in [(13, 100), (14, 10), (15, 1)] {
        uuid[place] = b'0' + (driver.profile.cc() / power % 10) as u8;
    }
    uuid
}

#[no_mangle]
extern "C" fn cuDeviceGetCount(out: Out<i32>) -> Status {
    with_driver("cuDeviceGetCount", |driver| {
        out.set(lock(&driver.references).len() as i32)
    })
}

#[no_mangle]
extern "C" fn cuDeviceGet(out: Out<i32>, ordinal: i32) -> Status {
    with_driver("cuDeviceGet", |driver| {
        check_device(driver, ordinal)?;
        out.set(ordinal)
    })
}

#[no_mangle]
extern "C" fn cuDeviceGetName(out: Host, bytes: i32, device: i32) -> Status {
    with_driver("cuDeviceGetName", |driver| {
        check_device(driver, device)?;
        let room = usize::try_from(bytes)
            .ok()
            .filter(|n| *n > 0)
            .ok_or_else(|| Status::INVALID_VALUE.because("no room for the name"))?;
        let mut name = driver.profile.name.as_bytes().to_vec();
        name.truncate(room - 1);
        name.push(0);
        out.write(&name)
    })
}

#[no_mangle]
extern "C" fn cuDeviceGetUuid(out: Out<[u8; 16]>, device: i32) -> Status {
    with_driver("cuDeviceGetUuid", |driver| {
        check_device(driver, device)?;
        out.set(uuid(driver))
    })
}

#[no_mangle]
extern "C" fn cuDeviceGetUuid_v2(out: Out<[u8; 16]>, device: i32) -> Status {
    with_driver("cuDeviceGetUuid_v2", |driver| {
        check_device(driver, device)?;
        out.set(uuid(driver))
    })
}

#[no_mangle]
extern "C" fn cuDeviceGetPCIBusId(out: Host, bytes: i32, device: i32) -> Status {
    with_driver("cuDeviceGetPCIBusId", |driver| {
        check_device(driver, device)?;
        let id = b"0000:00:00.0\0";
        if usize::try_from(bytes).unwrap_or(0) < id.len() {
            return Err(Status::INVALID_VALUE.because("no room for the id"));
        }
        out.write(id)
    })
}

#[no_mangle]
extern "C" fn cuDeviceTotalMem_v2(out: Out<usize>, device: i32) -> Status {
    with_driver("cuDeviceTotalMem_v2", |driver| {
        check_device(driver, device)?;
        out.set(driver.memory.capacity() as usize)
    })
}

#[no_mangle]
extern "C" fn cuDeviceComputeCapability(major: Out<i32>, minor: Out<i32>, device: i32) -> Status {
    with_driver("cuDeviceComputeCapability", |driver| {
        check_device(driver, device)?;
        major.set(driver.profile.cc_major as i32)?;
        minor.set(driver.profile.cc_minor as i32)
    })
}

#[no_mangle]
extern "C" fn cuDeviceGetAttribute(out: Out<i32>, which: i32, device: i32) -> Status {
    with_driver("cuDeviceGetAttribute", |driver| {
        check_device(driver, device)?;
        match attribute(&driver.profile, which) {
            Some(value) => out.set(value),
            None => {
                Err(Status::INVALID_VALUE
                    .because(format!("device attribute {which} is not emulated")))
            }
        }
    })
}

#[no_mangle]
extern "C" fn cuDeviceCanAccessPeer(out: Out<i32>, device: i32, peer: i32) -> Status {
    with_driver("cuDeviceCanAccessPeer", |driver| {
        check_device(driver, device)?;
        check_device(driver, peer)?;
        out.set(0)
    })
}
