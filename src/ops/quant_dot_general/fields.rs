//! The names of a configuration's fields, as errors say them.

/// Names of the fields of one operand.
pub(super) struct OperandFields {
    pub bits: &'static str,
    pub calibration: &'static str,
    pub clipping: &'static str,
    pub gradient: &'static str,
}

/// Names of the fields of one product.
pub(super) struct ProductFields {
    pub lhs: OperandFields,
    pub rhs: OperandFields,
    pub accumulate: &'static str,
    pub shards: &'static str,
    pub reuse_forward: &'static str,
}

macro_rules! operand {
    ($operand:literal) => {
        OperandFields {
            bits: concat!($operand, ".bits"),
            calibration: concat!($operand, ".calibration"),
            clipping: concat!($operand, ".clipping"),
            gradient: concat!($operand, ".gradient"),
        }
    };
}

macro_rules! product {
    ($product:literal, $lhs:literal, $rhs:literal) => {
        ProductFields {
            lhs: operand!($lhs),
            rhs: operand!($rhs),
            accumulate: concat!($product, ".accumulate"),
            shards: concat!($product, ".shards"),
            reuse_forward: concat!($product, ".reuse_forward"),
        }
    };
}

pub(super) const FWD: ProductFields = product!("fwd", "fwd.lhs", "fwd.rhs");
pub(super) const DLHS: ProductFields = product!("dlhs", "dlhs.lhs", "dlhs.rhs");
pub(super) const DRHS: ProductFields = product!("drhs", "drhs.lhs", "drhs.rhs");
