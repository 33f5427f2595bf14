//! Predictors, their scratch memory, softmax and top-k.

use std::{ffi::c_char, path::Path};

use crate::{
    capi::{
        error::{Failure, Status, guard},
        handle::{Exclusive, destroy, give},
        matrix::{Matrix, MatrixMut},
        pointers::{elements, optional, path, room, rooms, shared},
        pool::{Place, Pool},
        precision::Precision,
    },
    context::Context,
    data,
    error::{Error, Result},
    infer::{self, Examples},
    nn,
};

/// A network for inference, with packed weights. It never changes: any number of threads may use it
/// at once, each with its own scratch.
pub struct Predictor(pub(super) infer::Predictor<f32>);

/// Memory for one prediction at a time. Only one thread at a time may use it.
pub struct Scratch {
    scratch: Exclusive<infer::Scratch<f32>>,
    place: Place,
}

/// The conversion of bytes to numbers: `byte * scale + shift`, with a scale and a shift for each channel of
/// images that are stored channel by channel.
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

/// The shape of one example: a row of a batch.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Number of values.
    pub features: usize,
    /// Height of an image; 0 for a plain vector.
    pub height: usize,
    /// Width of an image, else 0.
    pub width: usize,
    /// Channels of an image, contiguous for each pixel, else 0.
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
/// `nn.Sequential`, into `predictor`. `path` is UTF-8. `normalization` converts bytes to
/// numbers; null: that of the file, and if it has none, the predictor accepts no images.
///
/// It computes in bf16 if the network was trained in bf16, or, where the file does not say, if all
/// weights in it are BF16; else in f32.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tilewise_predictor_load(
    path: *const c_char,
    normalization: *const Normalization,
    predictor: *mut *mut Predictor,
) -> Status {
    // SAFETY: the caller keeps the rules of `capi`.
    guard(|| unsafe { load(path, normalization, predictor, infer::Predictor::load) })
}

/// Same as `tilewise_predictor_load`, in a precision of the caller's choice, a `tilewise_precision`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tilewise_predictor_load_in(
    path: *const c_char,
    normalization: *const Normalization,
    precision: i32,
    predictor: *mut *mut Predictor,
) -> Status {
    guard(|| {
        let context = Context::new()?.with_precision(Precision::read(precision)?)?;
        let in_context = |path: &Path| {
            infer::Predictor::load_with_context(path, context).map(|(loaded, _)| loaded)
        };
        // SAFETY: the caller keeps the rules of `capi`.
        unsafe { load(path, normalization, predictor, in_context) }
    })
}

/// # Safety
/// That of the module `capi`.
unsafe fn load(
    path: *const c_char,
    normalization: *const Normalization,
    predictor: *mut *mut Predictor,
    load: impl FnOnce(&Path) -> Result<infer::Predictor<f32>>,
) -> Result<(), Failure> {
    // SAFETY: the caller's promises are passed on.
    let (path, normalization, out) = unsafe {
        (self::path(path)?, Normalization::read(normalization)?, room("predictor", predictor)?)
    };
    let mut loaded = load(path)?;
    if let Some(normalization) = normalization {
        loaded = loaded.with_normalization(&normalization)?;
    }
    give(Predictor(loaded), out);
    Ok(())
}

/// Destroys a predictor; null does nothing. Its scratches remain valid for any predictor of the same
/// layers.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tilewise_predictor_destroy(predictor: *mut Predictor) {
    // SAFETY: the caller keeps the rules of `capi`.
    unsafe { destroy(predictor) }
}

/// The shape of one example, into `shape`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tilewise_predictor_input(
    predictor: *const Predictor,
    shape: *mut Shape,
) -> Status {
    guard(|| {
        // SAFETY: the caller keeps the rules of `capi`.
        let (Predictor(predictor), out) =
            unsafe { (shared("predictor", predictor)?, room("shape", shape)?) };
        let features = predictor.in_features();
        out.write(match predictor.input_shape() {
            nn::Shape::Features(_) => Shape { features, height: 0, width: 0, channels: 0 },
            nn::Shape::Image { height, width, channels } => {
                Shape { features, height, width, channels }
            }
        });
        Ok(())
    })
}

/// The number of classes, and so of logits for each example, into `classes`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tilewise_predictor_classes(
    predictor: *const Predictor,
    classes: *mut usize,
) -> Status {
    guard(|| {
        // SAFETY: the caller keeps the rules of `capi`.
        let (Predictor(predictor), out) =
            unsafe { (shared("predictor", predictor)?, room("classes", classes)?) };
        out.write(predictor.classes());
        Ok(())
    })
}

/// Whether the predictor accepts images of bytes, 1 or 0, into `takes`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tilewise_predictor_takes_images(
    predictor: *const Predictor,
    takes: *mut i32,
) -> Status {
    guard(|| {
        // SAFETY: the caller keeps the rules of `capi`.
        let (Predictor(predictor), out) =
            unsafe { (shared("predictor", predictor)?, room("takes", takes)?) };
        out.write(predictor.takes_images().into());
        Ok(())
    })
}

/// The precision that the predictor computes in, a `tilewise_precision`, into `precision`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tilewise_predictor_precision(
    predictor: *const Predictor,
    precision: *mut i32,
) -> Status {
    guard(|| {
        // SAFETY: the caller keeps the rules of `capi`.
        let (Predictor(predictor), out) =
            unsafe { (shared("predictor", predictor)?, room("precision", precision)?) };
        out.write(Precision::from(predictor.precision()) as i32);
        Ok(())
    })
}

/// Memory for predictions of `capacity` rows at a time, 1 or more, into `scratch`. They run on the
/// threads of `pool`, or on the calling thread if that is null.
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

/// Destroys a scratch; null does nothing.
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

/// The logits of the rows of `x`, (batch, features), into `logits`, (batch, classes), whose columns
/// are contiguous. Nothing is allocated. A batch larger than the scratch's capacity is computed in
/// parts. A row's logits have the same bits in any batch and on any number of threads.
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

/// Same as `tilewise_predict`, for `batch` contiguous images of bytes, each with as many bytes as an
/// example has features. The predictor's normalization converts them to numbers.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tilewise_predict_images(
    predictor: *const Predictor,
    scratch: *mut Scratch,
    images: *const u8,
    batch: usize,
    logits: *const MatrixMut<f32>,
) -> Status {
    // SAFETY: the caller keeps the rules of `capi`.
    guard(|| unsafe {
        let (predictor, logits) = (shared("predictor", predictor)?, shared("logits", logits)?);
        let features = predictor.0.in_features();
        let (what, rows, cols) = ("images", batch, features);
        let len = rows.checked_mul(cols).ok_or(Error::SizeOverflow { what, rows, cols })?;
        let written = logits.addresses("logits")?;
        Matrix::row(images, len).expect_apart(what, "logits", &written)?;
        predict(predictor, scratch, elements(what, images, len)?.into(), logits)
    })
}

/// Turns logits, (batch, classes), into probabilities, in place: `exp(logit - largest)` divided by
/// the sum of these in the row. Columns are contiguous. Rows with NaN or an infinite largest logit
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
/// or is null. These arrays must not overlap. Nothing is allocated.
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
        let read = Matrix::row(row, classes);
        let classes_written = Matrix::row(best.cast_const(), k).addresses("best")?;
        let values = Matrix::row(best_values.cast_const(), values_len);
        read.expect_apart("row", "best", &classes_written)?;
        values.expect_apart("best_values", "best", &classes_written)?;
        read.expect_apart("row", "best_values", &values.addresses("best_values")?)?;
        // SAFETY: the caller keeps the rules of `capi`.
        let (logits, best_room, values_room, found) = unsafe {
            (
                elements("row", row, classes)?,
                rooms("best", best, k)?,
                rooms("best_values", best_values, values_len)?,
                room("found", found)?,
            )
        };
        let count = classes.min(k);
        let classes_room = &mut best_room[..count];
        for class in &mut *classes_room {
            class.write(0);
        }
        // SAFETY: all of them were written.
        let best = unsafe { classes_room.assume_init_mut() };
        infer::top_classes(logits, best);
        for (value, &class) in values_room.iter_mut().zip(&*best) {
            value.write(logits[class]);
        }
        found.write(count);
        Ok(())
    })
}
