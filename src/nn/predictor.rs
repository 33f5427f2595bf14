//! `Predictor`: a network packed for inference, which any number of threads share; and `Scratch`,
//! the memory that each of them brings along.

use crate::{
    aligned::AlignedBuf,
    error::{Error, Result},
    gemm::{Epilogue, Finish, GatheredRows, Gemm, Operand, Packed},
    kernels::Element,
    matrix::{MatMut, MatRef, row_stride},
    nn::{linear::Linear, model::FullyConnectedNet},
    simd::InstructionSet,
    threads::{Threads, warm_up},
};

/// A fully connected network for inference: its weights are packed once and never change, so that
/// threads share it without locks. What a prediction writes lies in the caller's [`Scratch`].
///
/// A row's logits have the same bits in any batch, on any number of threads, and as
/// [`FullyConnectedNet::forward`] computes them.
///
/// ```
/// use tilewise::{matrix::{MatMut, MatRef}, nn::{FullyConnectedNet, NetConfig, Predictor}};
///
/// let config = NetConfig { input: 4, hidden: vec![8], classes: 3, ..NetConfig::default() };
/// let predictor = Predictor::<f32>::new(&FullyConnectedNet::new(&config)?)?;
/// let mut scratch = predictor.scratch(32)?;
/// let (x, mut logits) = ([0.5; 2 * 4], [0.0; 2 * 3]);
/// predictor.predict_into(MatRef::new(&x, 2, 4)?, MatMut::new(&mut logits, 2, 3)?, &mut scratch)?;
/// assert_eq!(logits[..3], logits[3..]);
/// # Ok::<(), tilewise::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Predictor<T: Element> {
    gemm: Gemm<T>,
    layers: Vec<PackedLinear<T>>,
    /// Sizes of the input, of the hidden layers and of the logits.
    dims: Vec<usize>,
    pixels: Option<PixelMap<T>>,
}

/// A linear layer with its weights in panels.
#[derive(Clone, Debug)]
struct PackedLinear<T: Element> {
    weight: Packed<T>, // (in, out)
    bias: Vec<T>,      // (out)
}

/// `value = byte * scale + shift` for each feature.
#[derive(Clone, Debug)]
struct PixelMap<T> {
    scale: Vec<T>, // (in)
    shift: Vec<T>, // (in)
}

/// What is predicted from.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum Examples<'a, T: Copy> {
    /// Numbers: (batch, in_features), of any strides.
    Rows(MatRef<'a, T>),
    /// Bytes, `in_features` of them for each example, one example after another. The predictor's
    /// normalisation makes numbers of them where they are used.
    Pictures(&'a [u8]),
}

impl<'a, T: Copy> From<MatRef<'a, T>> for Examples<'a, T> {
    fn from(rows: MatRef<'a, T>) -> Self {
        Self::Rows(rows)
    }
}

impl<'a, T: Copy> From<&'a [u8]> for Examples<'a, T> {
    fn from(pictures: &'a [u8]) -> Self {
        Self::Pictures(pictures)
    }
}

impl<T: Element> Predictor<T> {
    /// Packs the weights of `net` for the best instruction set of this CPU.
    ///
    /// # Errors
    /// As [`with_gemm`](Self::with_gemm) and [`Gemm::new`].
    pub fn new(net: &FullyConnectedNet<T>) -> Result<Self> {
        Self::with_gemm(net, Gemm::new()?)
    }

    /// Packs the weights of `net` for the kernels of `gemm`, whose blocking and threads are those
    /// of [`scratch`](Self::scratch).
    ///
    /// # Errors
    /// [`Error::Setting`] if a parameter is NaN or infinite, [`Error::SizeOverflow`] if the panels
    /// exceed the address space.
    pub fn with_gemm(net: &FullyConnectedNet<T>, gemm: Gemm<T>) -> Result<Self> {
        let pack = |(number, layer): (usize, &Linear<T>)| {
            for (kind, values) in ["weight", "bias"].into_iter().zip(layer.parameters()) {
                if let Some(index) = values.iter().position(|value| !value.is_finite()) {
                    let value = values[index];
                    let found = format!("{value} at {index} of the {kind} of layer {number}");
                    return Err(Error::setting("parameter", found, "a finite number"));
                }
            }
            let weight = gemm.pack_b(layer.weight())?;
            Ok(PackedLinear { weight, bias: layer.bias().to_vec() })
        };
        let layers = net.layers().iter().enumerate().map(pack).collect::<Result<_>>()?;
        Ok(Self { gemm, layers, dims: net.dims(), pixels: None })
    }

    /// The same with a scale and a shift for each feature of an example, by which bytes become
    /// numbers: `byte * scale + shift`, one multiply-add.
    ///
    /// # Errors
    /// [`Error::Length`] if there are not as many as features, [`Error::Setting`] if one is not
    /// finite.
    pub fn with_pixel_map(self, scale: Vec<T>, shift: Vec<T>) -> Result<Self> {
        let expected = self.in_features();
        for (what, values) in
            [("scales of a predictor's features", &scale), ("shifts of its features", &shift)]
        {
            if values.len() != expected {
                return Err(Error::Length { what, expected, found: values.len() });
            }
            if let Some(value) = values.iter().find(|value| !value.is_finite()) {
                return Err(Error::setting("normalization", value, "finite numbers"));
            }
        }
        Ok(Self { pixels: Some(PixelMap { scale, shift }), ..self })
    }

    /// Features of an example.
    pub fn in_features(&self) -> usize {
        self.dims[0]
    }

    /// Number of classes.
    pub fn classes(&self) -> usize {
        self.dims[self.dims.len() - 1]
    }

    /// Sizes of the input, of the hidden layers and of the logits.
    pub fn dims(&self) -> &[usize] {
        &self.dims
    }

    /// Whether it knows how bytes become numbers.
    pub fn takes_pictures(&self) -> bool {
        self.pixels.is_some()
    }

    /// Bytes of the packed weights.
    pub fn bytes(&self) -> usize {
        self.layers.iter().map(|layer| layer.weight.bytes()).sum()
    }

    /// Memory for predictions of `capacity` rows at a time, on the threads of the `Gemm` that the
    /// predictor was made with: the calling one, unless it says otherwise.
    ///
    /// # Errors
    /// As [`scratch_on`](Self::scratch_on).
    pub fn scratch(&self, capacity: usize) -> Result<Scratch<T>> {
        self.scratch_for(self.gemm, capacity)
    }

    /// Memory for predictions of `capacity` rows at a time that are divided among `threads`. Make
    /// it inside of the rayon pool that will run them: the pool's size is read here, and its
    /// threads are made ready.
    ///
    /// # Errors
    /// [`Error::Setting`] if `capacity` is 0; [`Error::SizeOverflow`] if the memory exceeds the
    /// address space.
    pub fn scratch_on(&self, threads: Threads, capacity: usize) -> Result<Scratch<T>> {
        let threads = match threads {
            Threads::Pool => Threads::Count(threads.tasks()),
            threads => threads,
        };
        self.scratch_for(self.gemm.threads(threads), capacity)
    }

    fn scratch_for(&self, gemm: Gemm<T>, capacity: usize) -> Result<Scratch<T>> {
        if capacity == 0 {
            return Err(Error::setting("capacity", capacity, "at least 1"));
        }
        let hidden = &self.dims[1..self.dims.len() - 1];
        let widest = hidden.iter().copied().max().unwrap_or(0);
        let overflow =
            || Error::SizeOverflow { what: "scratch of a predictor", rows: capacity, cols: widest };
        let stride = row_stride::<T>(widest).ok_or_else(overflow)?;
        let hidden = capacity.checked_mul(stride).ok_or_else(overflow)?;
        let count = u32::try_from(capacity).map_err(|_| overflow())?;
        let mut indices = Vec::new();
        indices.try_reserve_exact(capacity).map_err(|_| overflow())?;
        indices.extend(0..count);
        let mut product = 0;
        for pair in self.dims.windows(2) {
            product = product.max(gemm.scratch_bytes(capacity, pair[1], pair[0])?);
        }
        let scratch = Scratch {
            gemm,
            capacity,
            dims: self.dims.clone(),
            stride,
            hidden: [AlignedBuf::zeroed(hidden)?, AlignedBuf::zeroed(hidden)?],
            indices,
            product: AlignedBuf::zeroed(product)?,
        };
        warm_up();
        Ok(scratch)
    }

    /// The logits of `x`, (batch, classes), into `out`, whose columns stand side by side. Nothing
    /// is allocated or locked. A batch larger than the scratch's capacity is worked in pieces of
    /// that size, to the same bits.
    ///
    /// # Errors
    /// [`Error::Shape`] or [`Error::Length`] if x or `out` does not fit the network or each other,
    /// [`Error::Setting`] if the scratch was made for a network of another shape or instruction
    /// set, if pictures come and the predictor has no normalisation for them, or if the columns of
    /// `out` stand apart. `out` is untouched then.
    pub fn predict_into<'a>(
        &self,
        x: impl Into<Examples<'a, T>>,
        mut out: MatMut<'_, T>,
        scratch: &mut Scratch<T>,
    ) -> Result<()> {
        let x = x.into();
        let batch = self.check(&x, scratch)?;
        out.expect_shape("logits", (batch, self.classes()))?;
        if out.col_stride() != 1 && out.cols() > 1 {
            let expected = "1: columns side by side";
            return Err(Error::setting("column stride of the logits", out.col_stride(), expected));
        }
        let capacity = scratch.capacity;
        for first in (0..batch).step_by(capacity) {
            let rows = first..batch.min(first + capacity);
            let logits = out.reborrow().part(rows.clone(), 0..self.classes())?;
            match (x, &self.pixels) {
                (Examples::Rows(x), _) => {
                    let piece = x.part(rows, 0..x.cols())?;
                    scratch.forward(&self.layers, piece, logits)?;
                }
                (Examples::Pictures(bytes), Some(PixelMap { scale, shift })) => {
                    let features = self.in_features();
                    let piece = &bytes[rows.start * features..rows.end * features];
                    let indices = std::mem::take(&mut scratch.indices);
                    let gathered = GatheredRows::new(piece, &indices[..rows.len()], scale, shift);
                    let done = gathered.and_then(|x| scratch.forward(&self.layers, x, logits));
                    scratch.indices = indices;
                    done?;
                }
                (Examples::Pictures(_), None) => unreachable!("checked above"),
            }
        }
        Ok(())
    }

    /// The number of examples, if they and the scratch fit.
    fn check(&self, x: &Examples<'_, T>, scratch: &Scratch<T>) -> Result<usize> {
        if scratch.dims != self.dims || scratch.instruction_set() != self.gemm.instruction_set() {
            let found = format!("for {:?} on {}", scratch.dims, scratch.instruction_set());
            let expected = format!("for {:?} on {}", self.dims, self.gemm.instruction_set());
            return Err(Error::setting("scratch of a predictor", found, expected));
        }
        let features = self.in_features();
        match x {
            Examples::Rows(x) => {
                x.expect_shape("examples", (x.rows(), features))?;
                Ok(x.rows())
            }
            Examples::Pictures(bytes) => {
                if self.pixels.is_none() {
                    let expected = "one scale and shift for each feature, to take pictures";
                    return Err(Error::setting("normalization", "none", expected));
                }
                let batch = bytes.len() / features;
                if bytes.len() != batch * features {
                    let (what, expected) = ("bytes of whole pictures", batch * features);
                    return Err(Error::Length { what, expected, found: bytes.len() });
                }
                Ok(batch)
            }
        }
    }
}

/// What one prediction at a time writes to, planned for a network's shape and a number of rows and
/// threads. It serves every predictor of that shape, so that one can be replaced by another while
/// its scratches stay.
#[derive(Clone, Debug)]
pub struct Scratch<T: Element> {
    gemm: Gemm<T>,
    capacity: usize,
    dims: Vec<usize>,
    /// Elements from one row of hidden activations to the next.
    stride: usize,
    /// Hidden activations; layers take turns with the two.
    hidden: [AlignedBuf<T>; 2], // (capacity, widest)
    /// 0, 1, 2, …: which pictures of a batch are taken.
    indices: Vec<u32>, // (capacity)
    product: AlignedBuf<u8>,
}

impl<T: Element> Scratch<T> {
    /// Rows that are worked at a time.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Size of the memory.
    pub fn bytes(&self) -> usize {
        let hidden: usize = self.hidden.iter().map(|hidden| size_of_val(&hidden[..])).sum();
        hidden + self.product.len() + size_of_val(&self.indices[..])
    }

    fn instruction_set(&self) -> InstructionSet {
        self.gemm.instruction_set()
    }

    /// The logits of one piece of a batch, of at most `capacity` rows.
    fn forward<'a>(
        &mut self,
        layers: &[PackedLinear<T>],
        x: impl Into<Operand<'a, T>>,
        mut logits: MatMut<'_, T>,
    ) -> Result<()> {
        let Self { gemm, dims, stride, hidden, product, .. } = self;
        let (x, batch, strides) = (x.into(), logits.rows(), (*stride as isize, 1));
        let [before, after] = hidden;
        for (l, layer) in layers.iter().enumerate() {
            let x = if l == 0 {
                x
            } else {
                MatRef::strided(before, 0, (batch, dims[l]), strides)?.into()
            };
            let epilogue = Epilogue::bias(&layer.bias);
            if l + 1 == layers.len() {
                return gemm.run(T::ONE, x, &layer.weight, logits.reborrow(), epilogue, product);
            }
            let out = MatMut::strided(after, 0, (batch, dims[l + 1]), strides)?;
            let epilogue = Epilogue { finish: Finish::Relu, ..epilogue };
            gemm.run(T::ONE, x, &layer.weight, out, epilogue, product)?;
            std::mem::swap(before, after);
        }
        Ok(())
    }
}
