//! int8 matrix multiplication.
