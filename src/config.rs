//! `with_` methods for configurations that may get more fields.

/// Adds a `with_` method to a configuration for each of its fields.
macro_rules! with_fields {
    ($config:ident { $($field:ident $with:ident: $type:ty),* $(,)? }) => {
        impl $config {
            $(
                #[doc = concat!("Sets [`", stringify!($field), "`](Self::", stringify!($field), ").")]
                #[must_use]
                pub fn $with(self, $field: $type) -> Self {
                    Self { $field, ..self }
                }
            )*
        }
    };
}

pub(crate) use with_fields;
