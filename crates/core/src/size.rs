//! An amount of memory or disk as people write it: `16GiB`, `500 MB`.

use std::fmt;
use std::str::FromStr;

/// Bytes, from a number with a unit. `GiB` and `G` are powers of two, `GB` powers of ten, as memory and disks are sold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(pub u64);

/// As people read them, two or more digits that count: `1.5 MB`.
impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (mut value, mut unit) = (self.0 as f64, "bytes");
        for larger in ["kB", "MB", "GB", "TB"] {
            if value < 999.5 {
                break;
            }
            (value, unit) = (value / 1000.0, larger);
        }
        match unit {
            "bytes" => write!(f, "{} bytes", self.0),
            unit if value < 9.95 => write!(f, "{value:.1} {unit}"),
            unit => write!(f, "{value:.0} {unit}"),
        }
    }
}

const UNITS: [(&str, u64); 13] = [
    ("", 1),
    ("b", 1),
    ("k", 1 << 10),
    ("kib", 1 << 10),
    ("kb", 1_000),
    ("m", 1 << 20),
    ("mib", 1 << 20),
    ("mb", 1_000_000),
    ("g", 1 << 30),
    ("gib", 1 << 30),
    ("gb", 1_000_000_000),
    ("tib", 1 << 40),
    ("tb", 1_000_000_000_000),
];

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is not a size such as `16GiB`, `16GB` or `500MB`");
        let lower = text.trim().to_lowercase();
        let digits = lower.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(lower.len());
        let (number, unit) = lower.split_at(digits);
        let (_, factor) = UNITS.into_iter().find(|(name, _)| *name == unit.trim()).ok_or_else(wrong)?;
        let number: f64 = number.parse().map_err(|_| wrong())?;
        let bytes = number * factor as f64;
        if bytes >= 1.0 && bytes < (1_u64 << 60) as f64 { Ok(Self(bytes as u64)) } else { Err(wrong()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_have_units() {
        let check = |text: &str, expected: Option<u64>| {
            assert_eq!(text.parse::<Size>().ok().map(|size| size.0), expected, "{text}");
        };
        check("16GiB", Some(16 << 30));
        check("16g", Some(16 << 30));
        check("1.5 GB", Some(1_500_000_000));
        check("500MB", Some(500_000_000));
        check("4096", Some(4096));
        check("512 KiB", Some(512 << 10));
        check("2TB", Some(2_000_000_000_000));
        assert_eq!([0, 999, 1000, 1_500_000].map(|n| Size(n).to_string()), ["0 bytes", "999 bytes", "1.0 kB", "1.5 MB"]);
        for wrong in ["", "GB", "-1GB", "0", "1.2.3GB", "16 gigabytes", "1e30", "NaN", "9999999TB"] {
            check(wrong, None);
        }
    }
}
