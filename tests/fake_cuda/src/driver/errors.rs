//! Names of results.
use std::ffi::c_char;

use super::abi::Out;
use super::call;
use super::status::Status;

#[no_mangle]
extern "C" fn cuGetErrorName(error: Status, out: Out<*const c_char>) -> Status {
    call("cuGetErrorName", || match error.name() {
        Some(name) => out.set(name.as_ptr()),
        None => {
            out.set_if_wanted(std::ptr::null());
            Err(Status::INVALID_VALUE.into())
        }
    })
}

#[no_mangle]
extern "C" fn cuGetErrorString(error: Status, out: Out<*const c_char>) -> Status {
    call("cuGetErrorString", || match error.text() {
        Some(text) => out.set(text.as_ptr()),
        None => {
            out.set_if_wanted(std::ptr::null());
            Err(Status::INVALID_VALUE.into())
        }
    })
}
