//! Enums that people write: each value has one name, the same on a command line, in a file and in a message.

/// An enum with a name for each value. The macro `named!` writes the names down once, as `Display`, `FromStr` and serde.
pub trait Named: Copy + 'static {
    /// Every value that has a name to ask for it by.
    const ALL: &'static [Self];
    /// Their names, in the same order.
    const NAMES: &'static [&'static str];
}

/// A text that does not name a value of an option.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{value}` {problem}")]
pub struct ParseNameError {
    /// The option.
    pub option: &'static str,
    /// The text.
    pub value: String,
    /// What is wrong, as a predicate: "is not one of `a`, `b`".
    pub problem: String,
}

impl ParseNameError {
    /// Says that `value` is not one of `names`.
    pub fn not_one_of(option: &'static str, value: &str, names: &[&str]) -> Self {
        let names = names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
        Self { option, value: value.into(), problem: format!("is not one of {names}") }
    }
}

/// Serde by way of `Display` and `FromStr`.
macro_rules! serde_as_text {
    ($type:ty) => {
        impl serde::Serialize for $type {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> serde::Deserialize<'de> for $type {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = <String as serde::Deserialize>::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

/// Writes [`Named`], `Display`, `FromStr` and serde of an enum: `named!(DType, "dtype", { F32: "f32", F16: "f16" })`, and values that are
/// displayed and cannot be asked for behind a second brace.
macro_rules! named {
    ($type:ty, $option:literal, { $($value:ident: $name:literal),+ $(,)? } $(, { $($hidden:ident: $shown:literal),+ })?) => {
        impl $crate::named::Named for $type {
            const ALL: &'static [Self] = &[$(Self::$value),+];
            const NAMES: &'static [&'static str] = &[$($name),+];
        }

        impl std::fmt::Display for $type {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.pad(match self {
                    $(Self::$value => $name,)+
                    $($(Self::$hidden => $shown,)+)?
                })
            }
        }

        impl std::str::FromStr for $type {
            type Err = $crate::named::ParseNameError;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                match text {
                    $($name => Ok(Self::$value),)+
                    _ => Err($crate::named::ParseNameError::not_one_of($option, text, <Self as $crate::named::Named>::NAMES)),
                }
            }
        }

        $crate::named::serde_as_text!($type);
    };
}

pub(crate) use {named, serde_as_text};
