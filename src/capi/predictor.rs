//! Predictors, their scratch memory, and what to make of logits.

use std::ffi::c_char;

use crate::{
    capi::{
        error::{Failure, Status, guard},
        handle::{Exclusive, destroy, give},
        matrix::{Matrix, MatrixMut},
        pointers::{elements, elements_mut, optional, path, room, shared},
        pool::{Place, Pool},
    },
    data,
    error::Error,
    nn::{self, Examples},
};

/// A network for inference, its weights packed. It never changes: any number of threads may use it
/// at once, each with a scratch of its own.
pub struct Predictor(pub(super) nn::Predictor<f32>);

/// What one prediction at a time writes to. One thread at a time may use it.
pub struct Scratch {
    scratch: Exclusive<nn::Scratch<f32>>,
    place: Place,
}

/// How bytes become numbers: `byte * scale + shift`, with a scale and a shift for each channel of
/// pictures that are stored channel by channel.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Normalization {
    /// One factor for each channel.
    pub scale: *const f64,
    /// One summand for each channel.
    pub shift: *const f64,
    /// Number of channels.
    pub channels: usize,
}

impl Normalization {
    /// # Safety
    /// That of the module `capi`.
    pub(super) unsafe fn read(
        pointer: *const Self,
    ) -> Result<Option<data::Normalization>, Failure> {
        // SAFETY: the caller's promises are passed on.
        let Some(&Self { scale, shift, channels }) =
            (unsafe { optional("normalization", pointer)? })
        else {
            return Ok(None);
        };
        // SAFETY: as above.
        let (scale, shift) =
            unsafe { (elements("scale", scale, channels)?, elements("shift", shift, channels)?) };
        Ok(Some(data::Normalization::new(scale.to_vec(), shift.to_vec())?))
    }
}

/// Loads a network from a safetensors file, saved by tilewise or from the `state_dict` of a PyTorch
/// `nn.Sequential`, into `predictor`. `path` is UTF-8. `normalization` says how bytes become
/// numbers; null: as the file says, and if it says nothing, the predictor takes no pictures.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tilewise_predictor_load(
    path: *const c_char,
    normalization: *const Normalization,
    predictor: *mut *mut Predictor,
) -> Status {
    guard(|| {
        // SAFETY: the caller keeps the rules of `capi`.
        let (path, normalization, out) = unsafe {
            (self::path(path)?, Normalization::read(normalization)?, room("predictor", predictor)?)
        };
        let mut loaded = nn::Predictor::load(path)?;
        if let Some(normalization) = normalization {
            loaded = loaded.with_normalization(&normalization)?;
        }
        give(Predictor(loaded), out);
        Ok(())
    })
}

/// Destroys a predictor; null is none. Its scratches stay: they serve any predictor of the same
/// shape.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tilewise_predictor_destroy(predictor: *mut Predictor) {
    // SAFETY: the caller keeps the rules of `capi`.
    unsafe { destroy(predictor) }
}

/// The sizes of the input, of the hidden layers and of the logits: their number into `count`, and
/// themselves into `dims`, which has room for `capacity`. With `capacity` 0 only the number.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tilewise_predictor_dims(
    predictor: *const Predictor,
    dims: *mut usize,
    capacity: usize,
    count: *mut usize,
) -> Status {
    guard(|| {
        // SAFETY: the caller keeps the rules of `capi`.
        let (Predictor(predictor), dims, count) = unsafe {
            let dims = elements_mut("dims", dims, capacity)?;
            (shared("predictor", predictor)?, dims, room("count", count)?)
        };
        let sizes = predictor.dims();
        if capacity != 0 {
            let (expected, found) = (sizes.len(), capacity);
            let room = dims.get_mut(..expected);
            room.ok_or(Error::Length { what: "dims", expected, found })?.copy_from_slice(sizes);
        }
        count.write(sizes.len());
        Ok(())
    })
}

/// Whether the predictor takes pictures, 1 or 0, into `takes`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tilewise_predictor_takes_pictures(
    predictor: *const Predictor,
    takes: *mut i32,
) -> Status {
    guard(|| {
        // SAFETY: the caller keeps the rules of `capi`.
        let (Predictor(predictor), out) =
            unsafe { (shared("predictor", predictor)?, room("takes", takes)?) };
        out.write(predictor.takes_pictures().into());
        Ok(())
    })
}

/// Memory for predictions of `capacity` rows at a time, 1 or more, into `scratch`. They run on the
/// threads of `pool`, or on the calling thread alone if that is null.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tilewise_scratch_create(
    predictor: *const Predictor,
    pool: *const Pool,
    capacity: usize,
    scratch: *mut *mut Scratch,
) -> Status {
    guard(|| {
        // SAFETY: the caller keeps the rules of `capi`.
        let (Predictor(predictor), pool, out) = unsafe {
            let out = room("scratch", scratch)?;
            (shared("predictor", predictor)?, optional("pool", pool)?, out)
        };
        let place = Place::new(pool);
        let scratch = place.run(|| Ok(predictor.scratch_on(place.threads(), capacity)?))?;
        give(Scratch { scratch: Exclusive::new(scratch), place }, out);
        Ok(())
    })
}

/// Destroys a scratch; null is none.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tilewise_scratch_destroy(scratch: *mut Scratch) {
    // SAFETY: the caller keeps the rules of `capi`.
    unsafe { destroy(scratch) }
}

/// # Safety
/// That of the module `capi`.
unsafe fn predict(
    Predictor(predictor): &Predictor,
    scratch: *mut Scratch,
    x: Examples<'_, f32>,
    logits: &MatrixMut<f32>,
) -> Result<(), Failure> {
    // SAFETY: the caller's promises are passed on.
    let (scratch, logits) = unsafe { (shared("scratch", scratch)?, logits.view("logits")?) };
    let mut memory = scratch.scratch.take("scratch")?;
    let memory = &mut *memory;
    scratch.place.run(|| Ok(predictor.predict_into(x, logits, memory)?))
}

/// The logits of the rows of `x`, (batch, input), into `logits`, (batch, classes), whose columns
/// stand side by side. Nothing is allocated. A batch larger than the scratch's capacity is worked
/// in pieces. A row's logits have the same bits in any batch and on any number of threads.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tilewise_predict(
    predictor: *const Predictor,
    scratch: *mut Scratch,
    x: *const Matrix<f32>,
    logits: *const MatrixMut<f32>,
) -> Status {
    // SAFETY: the caller keeps the rules of `capi`.
    guard(|| unsafe {
        let (predictor, x) = (shared("predictor", predictor)?, shared("x", x)?);
        let logits = shared("logits", logits)?;
        x.expect_apart("x", "logits", &logits.addresses("logits")?)?;
        predict(predictor, scratch, x.view("x")?.into(), logits)
    })
}

/// As `tilewise_predict`, for `batch` pictures of bytes, one after another, each as many bytes as
/// the network has inputs. The predictor's normalization makes numbers of them.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tilewise_predict_pictures(
    predictor: *const Predictor,
    scratch: *mut Scratch,
    pictures: *const u8,
    batch: usize,
    logits: *const MatrixMut<f32>,
) -> Status {
    // SAFETY: the caller keeps the rules of `capi`.
    guard(|| unsafe {
        let (predictor, logits) = (shared("predictor", predictor)?, shared("logits", logits)?);
        let features = predictor.0.in_features();
        let (what, rows, cols) = ("pictures", batch, features);
        let len = rows.checked_mul(cols).ok_or(Error::SizeOverflow { what, rows, cols })?;
        let row = Matrix { data: pictures, rows: 1, cols: len, row_stride: 0, col_stride: 1 };
        row.expect_apart(what, "logits", &logits.addresses("logits")?)?;
        predict(predictor, scratch, elements(what, pictures, len)?.into(), logits)
    })
}

/// Turns logits, (batch, classes), into probabilities, in place: `exp(logit - largest)` over the
/// sum of these in the row. Columns stand side by side. Rows with NaN or an infinite largest logit
/// become NaN. Nothing is allocated.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tilewise_softmax(logits: *const MatrixMut<f32>) -> Status {
    guard(|| {
        // SAFETY: the caller keeps the rules of `capi`.
        let logits = unsafe { shared("logits", logits)?.view("logits")? };
        Ok(nn::softmax(logits)?)
    })
}

/// The classes with the largest of the `classes` values of a row, best first, into `best`, which
/// has room for `k`; the first of equals comes first, and NaN last. Their number, the smaller of
/// `classes` and `k`, goes into `found`, their values into `best_values`, which has room for `k`
/// or is null. Nothing is allocated.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tilewise_top_k(
    row: *const f32,
    classes: usize,
    k: usize,
    best: *mut usize,
    best_values: *mut f32,
    found: *mut usize,
) -> Status {
    guard(|| {
        let values_len = if best_values.is_null() { 0 } else { k };
        // SAFETY: the caller keeps the rules of `capi`.
        let (row, best, values, found) = unsafe {
            (
                elements("row", row, classes)?,
                elements_mut("best", best, k)?,
                elements_mut("best_values", best_values, values_len)?,
                room("found", found)?,
            )
        };
        let count = nn::top_classes(row, best);
        for (value, &class) in values.iter_mut().zip(&best[..count]) {
            *value = row[class];
        }
        found.write(count);
        Ok(())
    })
}
