//! Sizes as people write them: `128M`, `8MiB`, `1.5G`, `4096`.

use std::{fmt, str::FromStr};

/// A number of bytes given by a person; the units are powers of 1,024.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ByteSize(pub u64);

/// Why a text is not a size.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a size: write a number with K, M, G or T, as in 128M")]
pub struct NotASize(String);

impl ByteSize {
    /// `n` KiB.
    pub const fn kib(n: u64) -> Self {
        Self(n << 10)
    }

    /// `n` MiB.
    pub const fn mib(n: u64) -> Self {
        Self(n << 20)
    }

    /// `n` GiB.
    pub const fn gib(n: u64) -> Self {
        Self(n << 30)
    }

    /// The number of bytes.
    pub const fn bytes(self) -> u64 {
        self.0
    }
}

impl FromStr for ByteSize {
    type Err = NotASize;

    fn from_str(text: &str) -> Result<Self, NotASize> {
        let refuse = || NotASize(text.to_owned());
        let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
        let (number, unit) = text.split_at(digits);
        let shift = match unit.trim().to_ascii_lowercase().as_str() {
            "" | "b" => 0,
            "k" | "kb" | "kib" => 10,
            "m" | "mb" | "mib" => 20,
            "g" | "gb" | "gib" => 30,
            "t" | "tb" | "tib" => 40,
            _ => return Err(refuse()),
        };
        if let Ok(whole) = number.parse::<u64>() {
            return whole.checked_mul(1 << shift).map(Self).ok_or_else(refuse);
        }
        let (whole, fraction) = number.split_once('.').ok_or_else(refuse)?;
        let fraction = fraction.get(..fraction.len().min(6)).unwrap_or_default();
        let scale = 10u64.pow(u32::try_from(fraction.len()).map_err(|_| refuse())?);
        let whole: u64 = whole.parse().map_err(|_| refuse())?;
        let part: u64 = fraction.parse().map_err(|_| refuse())?;
        let bytes = (u128::from(whole) << shift) + (u128::from(part) << shift) / u128::from(scale);
        u64::try_from(bytes).map(Self).map_err(|_| refuse())
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (shift, unit) in [(40, "T"), (30, "G"), (20, "M"), (10, "K")] {
            if self.0 >= 1 << shift && self.0.trailing_zeros() >= shift {
                return write!(f, "{}{unit}", self.0 >> shift);
            }
        }
        write!(f, "{}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_people_write() {
        for (text, bytes) in [("0", 0), ("4096", 4096), ("64K", 65_536), ("8MiB", 8 << 20), ("1.5G", 3 << 29), ("2 tb", 2 << 40)] {
            assert_eq!(text.parse(), Ok(ByteSize(bytes)), "{text}");
        }
        for text in ["", "M", "-1", "1.2.3G", "12Q", "99999999999T", "1.M"] {
            assert!(text.parse::<ByteSize>().is_err(), "{text}");
        }
    }

    #[test]
    fn what_it_prints_it_reads() {
        for size in [0, 1, 1023, 1024, 1 << 20, 5 << 30, (5 << 30) + 1] {
            assert_eq!(ByteSize(size).to_string().parse(), Ok(ByteSize(size)));
        }
    }
}
