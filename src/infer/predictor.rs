//! `Predictor`: a network packed for inference, shared by any number of threads; and `Scratch`, the
//! memory that each of them needs.

use std::sync::Arc;

use crate::{
    context::Context,
    data::FeatureMap,
    error::{Error, Result},
    gemm::{GatheredRows, Operand},
    kernels::Element,
    matrix::{MatMut, MatRef},
    nn::{Arena, Mode, Network, PackedWeights, Part, Plan, Shape, Structure, Weights},
    precision::Precision,
    threads::Threads,
};

/// A network for inference: its weights are packed once and never change, so that threads share it
/// without locks. A prediction uses the caller's [`Scratch`].
///
/// A row's logits have the same bits in any batch, on any number of threads, and as
/// [`Plan::forward`] computes them.
///
/// ```
/// use tilewise::infer::Predictor;
/// use tilewise::{matrix::{MatMut, MatRef}, nn::{Network, Shape}};
///
/// let network = Network::<f32>::builder(Shape::Features(4)).linear(8).relu().linear(3).build()?;
/// let predictor = Predictor::new(&network)?;
/// let mut scratch = predictor.scratch(32)?;
/// let (x, mut logits) = ([0.5; 2 * 4], [0.0; 2 * 3]);
/// predictor.predict_into(MatRef::new(&x, 2, 4)?, MatMut::new(&mut logits, 2, 3)?, &mut scratch)?;
/// assert_eq!(logits[..3], logits[3..]);
/// # Ok::<(), tilewise::Error>(())
/// ```
#[derive(Debug)]
pub struct Predictor<T: Element> {
    context: Context<T>,
    structure: Arc<Structure<T>>,
    /// Parameters; empty where they are in `packed`.
    parameters: Arena<T>,
    buffers: Arena<T>,
    /// The weights of linear steps.
    packed: PackedWeights<T>,
    /// By which bytes become numbers, for each value of an example.
    bytes: Option<FeatureMap<T>>,
}

/// The input of a prediction.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum Examples<'a, T: Copy> {
    /// Numbers: (batch, inputs), of any strides.
    Rows(MatRef<'a, T>),
    /// Images of bytes. The predictor's normalization turns them into numbers when they are used.
    Images(&'a [u8]),
}

impl<'a, T: Copy> From<MatRef<'a, T>> for Examples<'a, T> {
    fn from(rows: MatRef<'a, T>) -> Self {
        Self::Rows(rows)
    }
}

impl<'a, T: Copy> From<&'a [u8]> for Examples<'a, T> {
    fn from(images: &'a [u8]) -> Self {
        Self::Images(images)
    }
}

impl<T: Element> Predictor<T> {
    /// Packs the weights of `network` for the best instruction set of this CPU.
    ///
    /// # Errors
    /// Same as [`with_context`](Self::with_context) and [`Context::new`].
    pub fn new(network: &Network<T>) -> Result<Self> {
        Self::with_context(network, Context::new()?)
    }

    /// Packs the weights of `network` for the kernels and the precision of `context`, whose threads
    /// are those of [`scratch`](Self::scratch). In bf16 the panels take half the memory of f32.
    ///
    /// # Errors
    /// [`Error::Setting`] if a parameter is NaN or infinite, [`Error::SizeOverflow`] if the panels
    /// exceed the memory.
    pub fn with_context(network: &Network<T>, context: Context<T>) -> Result<Self> {
        for (tensor, values) in network.parameters().iter().chain(network.buffers().iter()) {
            if let Some(index) = values.iter().position(|value| !value.is_finite()) {
                let found = format!("{} at {index} of {}", values[index], tensor.name());
                return Err(Error::setting("parameter", found, "a finite number"));
            }
        }
        let plan = Plan::forward_of(network.structure(), 1, context)?;
        let packed = plan.pack_weights(network.parameters())?;
        let in_panels: Vec<usize> = plan.packed_parameters().collect();
        Ok(Self {
            parameters: network.parameters().without(&in_panels)?,
            buffers: network.buffers().try_clone()?,
            structure: Arc::clone(network.structure()),
            context,
            packed,
            bytes: None,
        })
    }

    /// Adds a scale and a shift for each value of an example, which turn bytes into numbers:
    /// `byte * scale + shift`, one multiply-add.
    ///
    /// # Errors
    /// [`Error::Length`] if there are not as many as values, [`Error::Setting`] if one is not
    /// finite.
    pub fn with_byte_map(self, scale: Vec<T>, shift: Vec<T>) -> Result<Self> {
        let expected = self.in_features();
        for (what, values) in
            [("scales of a predictor's inputs", &scale), ("shifts of its inputs", &shift)]
        {
            if values.len() != expected {
                return Err(Error::Length { what, expected, found: values.len() });
            }
            if let Some(value) = values.iter().find(|value| !value.is_finite()) {
                return Err(Error::setting("normalization", value, "finite numbers"));
            }
        }
        Ok(Self { bytes: Some(FeatureMap { scale, shift }), ..self })
    }

    /// The shape of an example.
    pub fn input_shape(&self) -> Shape {
        self.structure.input
    }

    /// The shape of the logits of an example.
    pub fn output_shape(&self) -> Shape {
        self.structure.output
    }

    /// Values of an example.
    pub fn in_features(&self) -> usize {
        self.structure.input.features()
    }

    /// Number of classes.
    pub fn classes(&self) -> usize {
        self.structure.output.features()
    }

    /// Whether it has a normalization for bytes.
    pub fn takes_images(&self) -> bool {
        self.bytes.is_some()
    }

    /// The precision that it computes in.
    pub fn precision(&self) -> Precision {
        self.context.precision()
    }

    /// Bytes of the packed weights, which are bf16 in that precision.
    pub fn bytes(&self) -> usize {
        self.packed.bytes()
    }

    /// Memory for predictions of `capacity` rows at a time, on the threads of the context that the
    /// predictor was made with: the calling one, unless it says otherwise.
    ///
    /// # Errors
    /// Same as [`scratch_on`](Self::scratch_on).
    pub fn scratch(&self, capacity: usize) -> Result<Scratch<T>> {
        Scratch::new(self, self.context, capacity)
    }

    /// Memory for predictions of `capacity` rows at a time that are divided among `threads`. Make
    /// it inside of the rayon pool that will run them: the pool's size is read here, and its
    /// threads are made ready.
    ///
    /// # Errors
    /// [`Error::Setting`] if `capacity` is 0; [`Error::SizeOverflow`] if the memory exceeds what
    /// there is.
    pub fn scratch_on(&self, threads: Threads, capacity: usize) -> Result<Scratch<T>> {
        Scratch::new(self, self.context.with_threads(threads)?, capacity)
    }

    /// The logits of `x`, (batch, classes), into `out`, whose columns are contiguous. Nothing is
    /// allocated or locked. A batch larger than the scratch's capacity is computed in parts of that
    /// size, to the same bits.
    ///
    /// # Errors
    /// [`Error::Shape`] or [`Error::Length`] if x or `out` does not fit the network or each other,
    /// [`Error::OtherNetwork`] if the scratch was made for another network,
    /// [`Error::NoNormalization`] if images of bytes come and the predictor has none,
    /// [`Error::Setting`] if the scratch was made for another instruction set or precision, or the
    /// columns of `out` are not contiguous. `out` is untouched then.
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
            let expected = "1: contiguous columns";
            return Err(Error::setting("column stride of the logits", out.col_stride(), expected));
        }
        let Scratch { plan, indices } = scratch;
        let weights = Weights {
            structure: &self.structure,
            parameters: &self.parameters,
            buffers: &self.buffers,
            packed: Some(&self.packed),
        };
        for first in (0..batch).step_by(plan.capacity()) {
            let rows = first..batch.min(first + plan.capacity());
            let logits = out.reborrow().part(rows.clone(), 0..self.classes())?;
            let piece = match (x, &self.bytes) {
                (Examples::Rows(x), _) => Operand::from(x.part(rows, 0..x.cols())?),
                (Examples::Images(bytes), Some(FeatureMap { scale, shift })) => {
                    let features = self.in_features();
                    let piece = &bytes[rows.start * features..rows.end * features];
                    GatheredRows::new(piece, &indices[..rows.len()], scale, shift)?.into()
                }
                (Examples::Images(_), None) => unreachable!("checked above"),
            };
            plan.run_forward(weights, piece, Part::whole(Mode::Evaluation), Some(logits))?;
        }
        Ok(())
    }

    /// The number of examples, if they and the scratch fit.
    fn check(&self, x: &Examples<'_, T>, scratch: &Scratch<T>) -> Result<usize> {
        let planned = scratch.plan.structure();
        if !planned.is_same(&self.structure) {
            let [expected, found] =
                [planned, &self.structure].map(|network| format!("{network:?}"));
            return Err(Error::OtherNetwork { what: "network of a scratch", expected, found });
        }
        let (here, there) = (self.context, scratch.plan.context());
        if here.instruction_set() != there.instruction_set() {
            let expected = format!("for {}", here.instruction_set());
            let found = format!("for {}", there.instruction_set());
            return Err(Error::setting("scratch of a predictor", found, expected));
        }
        if here.precision() != there.precision() {
            let expected = format!("in {}", here.precision());
            let found = format!("in {}", there.precision());
            return Err(Error::setting("scratch of a predictor", found, expected));
        }
        let features = self.in_features();
        match x {
            Examples::Rows(x) => {
                x.expect_shape("examples", (x.rows(), features))?;
                Ok(x.rows())
            }
            Examples::Images(bytes) => {
                if self.bytes.is_none() {
                    return Err(Error::NoNormalization);
                }
                let batch = bytes.len() / features;
                if bytes.len() != batch * features {
                    let (what, expected) = ("bytes of whole images", batch * features);
                    return Err(Error::Length { what, expected, found: bytes.len() });
                }
                Ok(batch)
            }
        }
    }
}

/// Memory for one prediction at a time, planned for the layers of a network and a number of rows
/// and threads. It fits every predictor of a network with these layers, so a predictor can be
/// replaced while its scratches are kept.
#[derive(Debug)]
pub struct Scratch<T: Element> {
    plan: Plan<T>,
    /// 0, 1, 2, ...: which images of a batch are taken.
    indices: Vec<u32>, // (capacity)
}

impl<T: Element> Scratch<T> {
    fn new(predictor: &Predictor<T>, context: Context<T>, capacity: usize) -> Result<Self> {
        if capacity == 0 {
            return Err(Error::setting("capacity", capacity, "at least 1"));
        }
        let plan = Plan::forward_of(&predictor.structure, capacity, context)?;
        Ok(Self { indices: indices(capacity)?, plan })
    }

    /// Memory of the same size, for another thread.
    ///
    /// # Errors
    /// [`Error::SizeOverflow`] if there is not enough memory.
    pub fn try_clone(&self) -> Result<Self> {
        Ok(Self { plan: self.plan.try_clone()?, indices: indices(self.plan.capacity())? })
    }

    /// Rows that are computed at a time.
    pub fn capacity(&self) -> usize {
        self.plan.capacity()
    }

    /// Size of the memory.
    pub fn bytes(&self) -> usize {
        self.plan.bytes() + size_of_val(&self.indices[..])
    }
}

/// 0, 1, 2, ... to below `count`.
fn indices(count: usize) -> Result<Vec<u32>> {
    let overflow = || Error::SizeOverflow { what: "scratch of a predictor", rows: count, cols: 1 };
    let end = u32::try_from(count).map_err(|_| overflow())?;
    let mut indices = Vec::new();
    indices.try_reserve_exact(count).map_err(|_| overflow())?;
    indices.extend(0..end);
    Ok(indices)
}
