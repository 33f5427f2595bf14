//! `with_` methods for configurations that may get more fields.

/// Adds a `with_` method to a configuration for each of its fields.
macro_rules! with_fields {
    ($config:ident { $($field:ident $with:ident: $type:ty),* $(,)? }) => {
        impl $config {
            $(
                #[doc = concat!("Sets [`", stringify!($field), "`](Self::", stringify!($field), ").")]
                pub fn $with(self, $field: $type) -> Self {
                    Self { $field, ..self }
                }
            )*
        }
    };
}

pub(super) use with_fields;
