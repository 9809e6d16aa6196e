//! A kernel's fault sticks to the context. One test, because it sticks for all threads of the process.
mod cudarc_common;

use cudarc::driver::sys::CUresult;
use cudarc::driver::PushKernelArg;
use cudarc_common::{code, context, function, shape};

#[test]
fn a_fault_is_told_in_full_and_sticks_until_the_context_ends() {
    let (fake, context) = context();
    let scale = function(&context, "scale");
    let stream = context.new_stream().unwrap();
    let input = stream.clone_htod(&[1.0f32; 8]).unwrap();
    let mut output = stream.alloc_zeros::<f32>(8).unwrap();
    assert_eq!(fake.last_fault(), None);

    let (too_many, by) = (9u32, 2.0f32);
    let mut launch = stream.launch_builder(&scale);
    launch.arg(&input).arg(&mut output).arg(&too_many).arg(&by);
    // SAFETY: the emulator stops the ninth thread.
    let result = unsafe { launch.launch(shape(1, 32, 0)) };
    let illegal = CUresult::CUDA_ERROR_ILLEGAL_ADDRESS;
    assert_eq!(code(result.map(|_| ())), illegal);
    let fault = fake.last_fault().unwrap();
    for part in [
        "kernel scale",
        "out of bounds",
        "thread 8,0,0",
        "PTX line",
        "seed",
    ] {
        assert!(fault.contains(part), "no {part:?} in {fault}");
    }

    assert_eq!(code(stream.synchronize()), illegal);
    assert_eq!(code(stream.clone_dtoh(&output)), illegal);
    let allocation = stream.alloc_zeros::<u8>(16);
    assert_eq!(code(allocation), illegal);
    fake.reset();
    assert_eq!(fake.last_fault(), None);
    stream.synchronize().unwrap();

    // Misaligned: a view of floats that starts in the middle of one.
    let bytes = stream.clone_htod(&[0u8; 64]).unwrap();
    let odd = bytes.slice(2..);
    let n = 8u32;
    let mut launch = stream.launch_builder(&scale);
    launch.arg(&odd).arg(&mut output).arg(&n).arg(&by);
    // SAFETY: the emulator stops the first thread.
    let result = unsafe { launch.launch(shape(1, 32, 0)) };
    let misaligned = CUresult::CUDA_ERROR_MISALIGNED_ADDRESS;
    assert_eq!(code(result.map(|_| ())), misaligned);
    assert_eq!(code(stream.synchronize()), misaligned);
    fake.reset();

    drop((input, output, bytes, scale, stream));
    // cudarc keeps errors of dropped objects for the next call of the context: there must be none.
    context.synchronize().unwrap();
    assert_eq!(fake.live_allocations(), 0);
}
