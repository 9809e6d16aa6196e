//! cuBLASLt, as much of it as int8 products and their float peers need.
