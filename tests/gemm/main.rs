//! The matrix product, held against its definition, its promises, and other people's products.
//!
//! | module | what it proves |
//! |---|---|
//! | `oracle` | the bits of the definition, on every instruction set, source and epilogue |
//! | `bf16` | the same for products of bf16, whose definition flushes denormals |
//! | `paths` | the same for each path that sizes and strides choose, around its limits |
//! | `guards` | nothing is read or written that must not be, down to the page |
//! | `special` | NaN, infinity, denormals and huge values behave as IEEE says |
//! | `bits` | threads, row splits, prepacking, alignment and callers do not change a bit |
//! | `accuracy` | the error against double precision, by netlib's measure |
//! | `blas` | the raw entry points agree with those of `matrixmultiply` |
//! | `limits` | misfits, overflows and misuse are errors that name both sizes |
//!
//! `operands` makes matrices in memory that is NaN wherever nothing may be read; `cases` makes
//! random products of them, a pure function of a seed and the number of the case.

mod accuracy;
mod bf16;
mod bits;
mod blas;
mod cases;
mod guards;
mod limits;
mod operands;
mod oracle;
mod paths;
mod special;
