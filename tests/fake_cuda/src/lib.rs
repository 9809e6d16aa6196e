//! A strict emulated CUDA driver: answers the driver API and interprets PTX.
