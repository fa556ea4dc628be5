//! Options are built by chained setters, since a struct that will grow cannot be written as a literal elsewhere.

/// Writes `new` and one `with_…` for each field. A field that is an `Option` takes its value as well as an `Option` of it.
macro_rules! setters {
    ($type:ty { $($with:ident: $field:ident: $value:ty),+ $(,)? }) => {
        impl $type {
            /// The defaults.
            pub fn new() -> Self {
                Self::default()
            }

            $(
                #[doc = concat!("Sets [`", stringify!($field), "`](Self::", stringify!($field), ").")]
                #[must_use]
                pub fn $with(mut self, $field: impl Into<$value>) -> Self {
                    self.$field = $field.into();
                    self
                }
            )+
        }
    };
}

pub(crate) use setters;
