//! The compiled kernels in this crate.

/// What nvcc made of one `cuda/*.cu`: a fatbin with a cubin an architecture, and PTX of the lowest in the clear.
#[derive(Debug)]
#[non_exhaustive]
pub struct Image {
    /// The source's name without `.cu`.
    pub name: &'static str,
    /// The fatbin.
    pub bytes: &'static [u8],
    /// The kernels in it.
    pub entries: &'static [&'static str],
}

// IMAGES; TOOLKIT, the compiler's version as the driver counts; ARCHS, such as ["80", "90a"].
mod made {
    use super::Image;
    include!(concat!(env!("OUT_DIR"), "/images.rs"));
}
pub(super) use made::{ARCHS, TOOLKIT};

/// Every image that this build embeds, in order of name; none where it was built for documentation alone.
pub fn images() -> &'static [Image] {
    made::IMAGES
}

/// Whether some image runs on a device of this capability under a driver of this version.
pub(super) fn serves(capability: (u32, u32), driver: u32) -> bool {
    let device = capability.0 * 10 + capability.1;
    let parse = |arch: &str| {
        let digits = arch.trim_end_matches(char::is_alphabetic);
        (
            digits.parse::<u32>().unwrap_or(u32::MAX),
            arch.len() > digits.len(),
        )
    };
    // Code for a feature set (90a) runs on that very device; other code on later devices of the same major.
    let cubin = ARCHS.iter().map(|arch| parse(arch)).any(|(arch, exact)| {
        arch == device || (!exact && arch / 10 == device / 10 && arch < device)
    });
    // PTX of the lowest: any later device, by a driver that knows the compiler's PTX.
    let ptx = ARCHS.first().is_some_and(|arch| {
        let (arch, exact) = parse(arch);
        !exact && arch <= device && driver >= TOOLKIT
    });
    cubin || ptx
}

impl Image {
    /// Whether its code runs on a device of this capability: code for 90a runs on that very one.
    pub(super) fn runs_on(&self, capability: (u32, u32)) -> bool {
        capability == (9, 0) || !self.name.ends_with("_sm90")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_serves_its_own_and_later_devices() {
        if ARCHS.first() == Some(&"80") {
            assert!(serves((8, 0), 13000));
            assert!(serves((8, 9), 13000));
            assert!(!serves((7, 5), 13000));
            // By PTX, if the driver reads it.
            assert!(serves((13, 0), TOOLKIT));
            assert!(!serves((13, 0), TOOLKIT - 10));
        }
    }
}
