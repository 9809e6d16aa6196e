//! `cuTensorMapEncodeTiled`.
use super::abi::{Host, Out};
use super::in_context;
use super::status::Status;
use crate::tensor_map::{TensorMap, MAX_RANK, WORDS};

const ALIGN: usize = 64;

#[no_mangle]
extern "C" fn cuTensorMapEncodeTiled(
    out: Out<[u64; WORDS]>,
    data_type: u32,
    rank: u32,
    address: u64,
    extents: Host,
    strides: Host,
    box_extents: Host,
    element_strides: Host,
    interleave: u32,
    swizzle: u32,
    l2_promotion: u32,
    fill: u32,
) -> Status {
    in_context("cuTensorMapEncodeTiled", |driver| {
        let rank = rank as usize;
        if driver.profile.cc() < 90 {
            return Err(Status::NOT_SUPPORTED.because("tensor maps need compute capability 9.0"));
        }
        if rank == 0 || rank > MAX_RANK || !out.address().is_multiple_of(ALIGN) {
            return Err(Status::INVALID_VALUE.because(format!(
                "rank {rank}, or a tensor map that is not {ALIGN}-byte aligned"
            )));
        }
        let wide = |list: Host, n: usize| {
            let items = (0..n).map(|i| list.offset(i * 8).number::<8>());
            items.collect::<Result<Vec<u64>, _>>()
        };
        let narrow = |list: Host| {
            let items = (0..rank).map(|i| list.offset(i * 4).number::<4>().map(|n| n as u32));
            items.collect::<Result<Vec<u32>, _>>()
        };
        let byte = |value: u32| u8::try_from(value).unwrap_or(u8::MAX);
        let map = TensorMap {
            data_type: byte(data_type),
            interleave: byte(interleave),
            swizzle: byte(swizzle),
            l2_promotion: byte(l2_promotion),
            fill: byte(fill),
            address,
            extents: wide(extents, rank)?,
            strides: wide(strides, rank - 1)?,
            box_extents: narrow(box_extents)?,
            element_strides: narrow(element_strides)?,
        };
        match map.objection() {
            Some(why) => Err(Status::INVALID_VALUE.because(why)),
            None => out.set(map.encode()),
        }
    })
}
