//! How fast an architecture multiplies int8, by datasheets.

use super::properties::Properties;

/// int8 multiply-adds that one multiprocessor does in a clock.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct Int8Rates {
    /// By `mma.sync`, which every architecture has: what `igemm_sm80` is bound by.
    pub mma: f64,
    /// By the architecture's own instructions where it has them: `wgmma` (9.0), `tcgen05` (10.0, 11.0); else as `mma`.
    pub native: f64,
}

impl Properties {
    /// The rates of this architecture; those of the nearest one known below it for one that is not.
    ///
    /// | capability | `mma` | native | where from |
    /// |---|---|---|---|
    /// | 8.0, 8.7 | 2048 | | A100: 624 TOPS, 108 multiprocessors, 1.41 GHz |
    /// | 8.6, 8.9, 12.x | 1024 | | RTX 4090: 661 TOPS, 128 at 2.52 GHz; RTX 5090: 838 TOPS, 170 at 2.41 GHz |
    /// | 9.0 | 2048 | 4096 | H100: 1979 TOPS, 132 at 1.83 GHz; others saw up to 62 % of it by `mma.sync` |
    /// | 10.0, 11.0 | 2048 | 8192 | B200: 4500 TOPS, 148 at 1.85 GHz; `mma.sync` is a guess |
    /// | 10.3 | 256 | | B300: 150 TOPS, 160 at 1.9 GHz; it has no int8 form of `tcgen05` |
    pub fn int8_rates(&self) -> Int8Rates {
        let (mma, native) = match self.capability {
            (8, 0 | 7) => (2048.0, 2048.0),
            (0..=7, _) | (8, _) => (1024.0, 1024.0),
            (9, _) => (2048.0, 4096.0),
            (10, 3) => (256.0, 256.0),
            (10 | 11, _) => (2048.0, 8192.0),
            _ => (1024.0, 1024.0),
        };
        Int8Rates { mma, native }
    }

    /// int8 operations a second (two a multiply-add) of all multiprocessors at their highest clock and the native rate;
    /// `None` where the driver does not say the clock.
    ///
    /// What the datasheet says, not what a kernel of this crate reaches.
    pub fn int8_peak(&self) -> Option<f64> {
        let clocks = f64::from(self.clock) * 1e6;
        let rate = 2.0 * f64::from(self.multiprocessors) * self.int8_rates().native * clocks;
        (rate > 0.0).then_some(rate)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Datasheets' dense TOPS from the properties that such a device answers.
    #[test]
    fn peaks_are_the_datasheets() {
        for (capability, multiprocessors, clock, tops) in [
            ((8, 0), 108, 1410, 624.0),
            ((8, 6), 82, 1695, 284.0),
            ((8, 9), 128, 2520, 661.0),
            ((9, 0), 132, 1830, 1979.0),
            ((10, 0), 148, 1850, 4500.0),
            ((10, 3), 160, 1900, 150.0),
            ((12, 0), 170, 2407, 838.0),
        ] {
            let device = Properties {
                capability,
                multiprocessors,
                clock,
                ..Properties::default()
            };
            let found = device.int8_peak().unwrap() * 1e-12;
            assert!(
                (found / tops - 1.0).abs() < 0.05,
                "{capability:?}: {found:.0} TOPS, the datasheet has {tops}"
            );
        }
        assert_eq!(Properties::default().int8_peak(), None);
    }
}
