//! Random products: each computed by the definition and, with operands packed and in place, by
//! the kernels; every bit of every buffer is compared.

use std::{
    cell::Cell,
    collections::{HashMap, HashSet},
    panic::{AssertUnwindSafe, catch_unwind},
};

use rand::{RngExt, SeedableRng, rngs::ChaCha8Rng};
use rayon::prelude::*;
use tilewise::{
    Element, Error,
    float::Float,
    gemm::{
        Blocking, Companion, Companions, DropoutMask, Epilogue, Finish, GatheredRows, Gemm,
        Operand, Packed, Rule, Start, Update,
        epilogue::{AdaGrad, Adam, Average, Descent, Momentum, RmsProp, RmsPropMomentum},
        naive::{self, Rounding},
    },
    matrix::MatRef,
    simd::InstructionSet,
};

use crate::operands::{Layouts, Memory, Place, Strided, bits, value};

/// How a set's multiply-adds round.
pub fn rounding(set: InstructionSet) -> Rounding {
    if set.is_fused() { Rounding::Once } else { Rounding::Twice }
}

/// Where an operand comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    Matrix,
    Packed,
    Gathered,
    GatheredTransposed,
}

impl Kind {
    pub const ALL: [Self; 4] =
        [Self::Matrix, Self::Packed, Self::Gathered, Self::GatheredTransposed];

    fn random(rng: &mut ChaCha8Rng) -> Self {
        if rng.random_bool(0.5) { Self::Matrix } else { Self::ALL[rng.random_range(1..4)] }
    }
}

/// What becomes of the sums; `tilewise::gemm::Finish` without its factors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Ending {
    Store,
    Relu,
    ReluDropout,
    ReluGradient,
    Descent,
    Momentum,
    Nesterov,
    AdaGrad,
    RmsProp,
    RmsPropMomentum,
    Adam,
}

impl Ending {
    pub const ALL: [Self; 11] = [
        Self::Store,
        Self::Relu,
        Self::ReluDropout,
        Self::ReluGradient,
        Self::Descent,
        Self::Momentum,
        Self::Nesterov,
        Self::AdaGrad,
        Self::RmsProp,
        Self::RmsPropMomentum,
        Self::Adam,
    ];

    /// The step, if the sums are the gradient of one.
    pub fn rule<T: Float>(self) -> Option<Rule<T>> {
        let number = T::from_f64;
        let (learning_rate, momentum, epsilon) = (number(0.1), number(0.9), number(0.01));
        let average = |keep: f64| Average { keep: number(keep), take: number(1.0 - keep) };
        let rms_prop = RmsProp { learning_rate, squares: average(0.8), epsilon };
        Some(match self {
            Self::Store | Self::Relu | Self::ReluDropout | Self::ReluGradient => return None,
            Self::Descent => Rule::Descent(Descent { learning_rate }),
            Self::Momentum => Rule::Momentum(Momentum { learning_rate, momentum, nesterov: false }),
            Self::Nesterov => Rule::Momentum(Momentum { learning_rate, momentum, nesterov: true }),
            Self::AdaGrad => Rule::AdaGrad(AdaGrad { learning_rate, epsilon }),
            Self::RmsProp => Rule::RmsProp(rms_prop),
            Self::RmsPropMomentum => Rule::RmsPropMomentum(RmsPropMomentum { rms_prop, momentum }),
            Self::Adam => Rule::Adam(Adam {
                learning_rate,
                shrink: number(0.05),
                gradients: average(0.7),
                squares: average(0.8),
                root_scale: number(1.5),
                epsilon,
            }),
        })
    }

    pub fn is_update(self) -> bool {
        self.rule::<f32>().is_some()
    }
}

/// Images for a gathered operand, and the same numbers as a matrix.
pub struct Images<T: Float, M: Memory> {
    store: M::Buffer<u8>,
    indices: M::Buffer<u32>,
    scale: M::Buffer<T>,
    shift: M::Buffer<T>,
    values: Vec<T>,
}

impl<T: Element, M: Memory> Images<T, M> {
    pub fn random(rng: &mut ChaCha8Rng, rows: usize, cols: usize, rounding: Rounding) -> Self {
        let count = rng.random_range(1..rows + 4);
        let mut store = M::buffer::<u8>(rng, count * cols);
        store.iter_mut().for_each(|byte| *byte = rng.random());
        let mut indices = M::buffer::<u32>(rng, rows);
        indices.iter_mut().for_each(|index| *index = rng.random_range(0..count as u32));
        let mut scale = M::buffer::<T>(rng, cols);
        scale.iter_mut().for_each(|scale| *scale = value::<T>(rng) / T::from_f64(255.0));
        let mut shift = M::buffer::<T>(rng, cols);
        shift.iter_mut().for_each(|shift| *shift = value(rng));
        let mut values = Vec::with_capacity(rows * cols);
        for &index in &*indices {
            for j in 0..cols {
                let byte = T::from_f64(f64::from(store[index as usize * cols + j]));
                values.push(match rounding {
                    Rounding::Once => byte.mul_add(scale[j], shift[j]),
                    Rounding::Twice => byte * scale[j] + shift[j],
                });
            }
        }
        Self { store, indices, scale, shift, values }
    }

    pub fn rows(&self) -> GatheredRows<'_, T> {
        GatheredRows::new(&self.store, &self.indices, &self.scale, &self.shift).unwrap()
    }

    pub fn matrix(&self) -> MatRef<'_, T> {
        MatRef::new(&self.values, self.indices.len(), self.scale.len()).unwrap()
    }
}

/// An operand and its memory.
enum Source<T: Float, M: Memory> {
    Matrix(Strided<T, M>),
    Packed(Strided<T, M>),
    Gathered(Images<T, M>),
    GatheredTransposed(Images<T, M>),
}

impl<T: Element, M: Memory> Source<T, M> {
    fn random(rng: &mut ChaCha8Rng, (rows, cols): (usize, usize), rounding: Rounding) -> Self {
        match Kind::random(rng) {
            Kind::Packed => Self::Packed(Strided::random(rng, (rows, cols), Layouts::Shared)),
            // Images without pixels cannot be numbered.
            Kind::Gathered if cols > 0 => Self::Gathered(Images::random(rng, rows, cols, rounding)),
            Kind::GatheredTransposed if rows > 0 => {
                Self::GatheredTransposed(Images::random(rng, cols, rows, rounding))
            }
            _ => Self::Matrix(Strided::random(rng, (rows, cols), Layouts::Shared)),
        }
    }

    fn kind(&self) -> Kind {
        match self {
            Self::Matrix(_) => Kind::Matrix,
            Self::Packed(_) => Kind::Packed,
            Self::Gathered(_) => Kind::Gathered,
            Self::GatheredTransposed(_) => Kind::GatheredTransposed,
        }
    }

    /// The strides, of a matrix.
    fn strides(&self) -> Option<(isize, isize)> {
        match self {
            Self::Matrix(matrix) | Self::Packed(matrix) => Some(matrix.place.strides),
            Self::Gathered(_) | Self::GatheredTransposed(_) => None,
        }
    }

    /// The operand as the definition takes it.
    fn matrix(&self) -> MatRef<'_, T> {
        match self {
            Self::Matrix(matrix) | Self::Packed(matrix) => matrix.view(),
            Self::Gathered(images) => images.matrix(),
            Self::GatheredTransposed(images) => images.matrix().t(),
        }
    }

    fn operand<'a>(&'a self, packed: Option<&'a Packed<T>>) -> Operand<'a, T> {
        match (self, packed) {
            (_, Some(packed)) => Operand::Packed(packed),
            (Self::Matrix(matrix) | Self::Packed(matrix), None) => matrix.view().into(),
            (Self::Gathered(images), None) => images.rows().into(),
            (Self::GatheredTransposed(images), None) => Operand::GatheredTransposed(images.rows()),
        }
    }
}

/// What makes a case a case of its own: sizes, sources with their strides, strides of C, and the
/// places of alpha and beta in their lists.
#[derive(PartialEq, Eq, Hash)]
struct Key {
    sizes: (usize, usize, usize),
    a: (Kind, Option<(isize, isize)>),
    b: (Kind, Option<(isize, isize)>),
    c: (isize, isize),
    factors: (usize, usize),
}

pub const ALPHAS: [f64; 5] = [1.0, 0.0, -1.0, 0.7, -0.3];
pub const BETAS: [f64; 5] = [0.0, 1.0, -1.0, 0.5, -0.3];

/// A product and everything it reads and writes.
struct Case<T: Float, M: Memory> {
    key: Key,
    blocking: Blocking,
    alpha: T,
    beta: T,
    a: Source<T, M>,
    b: Source<T, M>,
    c: Strided<T, M>,
    bias: Option<M::Buffer<T>>,
    ending: Ending,
    activation: Strided<T, M>,
    /// Room for two, of which the first is used, or none.
    slots: [Strided<T, M>; 2],
    /// Of an update: factors of L2 term and weight decay.
    decay: (f64, f64),
    sums: Option<M::Buffer<T>>,
    mask: DropoutMask,
}

/// Sizes on both sides of the tile's and the blocks'.
pub fn random_sizes(
    rng: &mut ChaCha8Rng,
    (mr, nr): (usize, usize),
) -> ((usize, usize, usize), Blocking) {
    let blocking = Gemm::<f32>::new().expect("a CPU with one of the instruction sets").blocking();
    let blocking = blocking
        .with_mc(rng.random_range(1..=2) * mr)
        .with_kc(rng.random_range(1..=8))
        .with_nc(rng.random_range(1..=2) * nr)
        .with_in_place_lines(0)
        .with_in_place_work(0);
    match rng.random_range(0..100) {
        // Few rows, for the tiles that are short and wide.
        0..15 => {
            let sizes =
                (rng.random_range(1..=3), rng.random_range(0..=200), rng.random_range(0..=20));
            (sizes, blocking)
        }
        // Deep blocks, for the squares that packing transposes.
        15..25 => {
            let sizes = (
                rng.random_range(0..=3 * mr + 1),
                rng.random_range(0..=2 * nr + 1),
                rng.random_range(0..=70),
            );
            // Beyond a shallow block, panels are packed beside tiles.
            (sizes, blocking.with_mc(2 * mr).with_kc(rng.random_range(9..=70)))
        }
        // Many panels in a block.
        25..28 => {
            let sizes =
                (rng.random_range(0..=10 * mr), rng.random_range(0..=9), rng.random_range(0..=5));
            (sizes, blocking.with_mc(16 * mr))
        }
        28..31 => {
            let sizes =
                (rng.random_range(0..=3), rng.random_range(0..=10 * nr), rng.random_range(0..=5));
            (sizes, blocking.with_nc(16 * nr))
        }
        _ => {
            let sizes = (
                rng.random_range(0..=2 * mr + 1),
                rng.random_range(0..=2 * nr + 1),
                rng.random_range(0..=20),
            );
            (sizes, blocking)
        }
    }
}

impl<T: Element, M: Memory> Case<T, M> {
    fn random(rng: &mut ChaCha8Rng, gemm: Gemm<T>) -> Self {
        let ((m, n, k), blocking) = random_sizes(rng, gemm.tile());
        let rounding = rounding(gemm.instruction_set());
        let a = Source::random(rng, (m, k), rounding);
        let b = Source::random(rng, (k, n), rounding);
        let layouts = if rng.random_bool(0.7) { Layouts::Contiguous } else { Layouts::Distinct };
        let mut c = Strided::<T, M>::random(rng, (m, n), layouts);
        let contiguous = c.place.strides.1 == 1 || n <= 1;
        let ending = match contiguous {
            true => Ending::ALL[rng.random_range(0..Ending::ALL.len())],
            false => [Ending::Store, Ending::Relu][rng.random_range(0..2)],
        };
        let with_bias = contiguous && !ending.is_update() && rng.random_bool(0.4);
        // Gathered operands take no factor but 0, which takes them out.
        let factors =
            if matches!(a.kind(), Kind::Gathered | Kind::GatheredTransposed) { 2 } else { 5 };
        let alpha = if rng.random_bool(0.5) { 0 } else { rng.random_range(0..factors) };
        let beta = if ending.is_update() { 0 } else { rng.random_range(0..BETAS.len()) };
        let reads_c = ending.is_update() || (BETAS[beta] != 0.0 && !with_bias);
        if !reads_c {
            bytemuck::cast_slice_mut::<T, u8>(&mut c.data[..]).fill(0xff);
        }
        let bias = with_bias.then(|| {
            let mut bias = M::buffer::<T>(rng, n);
            bias.iter_mut().for_each(|bias| *bias = value(rng));
            bias
        });
        let activation = Strided::with(rng, (m, n), Layouts::Contiguous, |rng| {
            if rng.random_bool(0.1) { T::ZERO } else { value(rng) }
        });
        // Means and sums of squares are not negative.
        let slots = [(); 2].map(|()| {
            Strided::with(rng, (m, n), Layouts::Contiguous, |rng| {
                let value: T = value(rng);
                if value < T::ZERO { -value } else { value }
            })
        });
        let decay = [(0.0, 0.0), (0.02, 0.0), (0.0, 0.03), (0.02, 0.03)][rng.random_range(0..4)];
        let summed = matches!(&b, Source::Matrix(b) if b.place.strides.1 == 1);
        let sums = (summed && rng.random_bool(0.3)).then(|| M::buffer::<T>(rng, n));
        let key = Key {
            sizes: (m, n, k),
            a: (a.kind(), a.strides()),
            b: (b.kind(), b.strides()),
            c: c.place.strides,
            factors: (alpha, beta),
        };
        let (alpha, beta) = (T::from_f64(ALPHAS[alpha]), T::from_f64(BETAS[beta]));
        let mask = DropoutMask::new(0.3, rng.random(), 2, 3);
        Self {
            key,
            blocking,
            alpha,
            beta,
            a,
            b,
            c,
            bias,
            ending,
            activation,
            slots,
            decay,
            sums,
            mask,
        }
    }

    /// The epilogue, with the memory that it changes.
    fn epilogue<'e>(
        &'e self,
        slots: [&'e mut [T]; 2],
        column_sums: Option<&'e mut [T]>,
    ) -> Epilogue<'e, T> {
        let scale = T::from_f64(1.25);
        let start = match &self.bias {
            Some(bias) => Start::Bias(bias),
            None => Start::Scaled(self.beta),
        };
        let mut companions = Companions::default();
        let finish = match (self.ending, self.ending.rule()) {
            (_, Some(rule)) => {
                let mut places = self.slots.iter().zip(slots);
                companions = Companions::from(std::array::from_fn(|index| {
                    let (slot, memory) = places.next().unwrap();
                    let used = index < rule.slot_names().len();
                    used.then(|| Companion::Exclusive(slot.place.view_mut(memory)))
                }));
                let (l2, weight_decay) = self.decay;
                let (l2, weight_decay) = (T::from_f64(l2), T::from_f64(weight_decay));
                Finish::Update(Update { l2, weight_decay, rule })
            }
            (Ending::Relu, _) => Finish::Relu,
            (Ending::ReluDropout, _) => Finish::ReluDropout { mask: self.mask, scale },
            (Ending::ReluGradient, _) => {
                companions = self.activation.view().into();
                Finish::ReluGradient { scale }
            }
            _ => Finish::Store,
        };
        Epilogue { start, finish, companions, column_sums }
    }

    fn describe(&self) -> String {
        let Self { key, blocking, alpha, beta, ending, .. } = self;
        let (m, n, k) = key.sizes;
        format!(
            "{m} x {n} x {k}, A {:?}, B {:?}, C {:?}, alpha {alpha}, beta {beta}, bias {}, \
             {ending:?} {:?}, sums {}, {blocking:?}",
            key.a,
            key.b,
            key.c,
            self.bias.is_some(),
            self.decay,
            self.sums.is_some(),
        )
    }

    /// Computes the product by definition and by the kernels, and compares every bit of C, of the
    /// slots and of the sums. Returns whether operands in place were enough.
    fn check(&mut self, rng: &mut ChaCha8Rng, gemm: Gemm<T>) -> Result<bool, String> {
        let (m, n, k) = self.key.sizes;
        let packed_a = match &self.a {
            Source::Packed(a) => {
                let factor = if self.alpha == T::ZERO { T::ONE } else { self.alpha };
                Some(gemm.pack_a(factor, a.view()).unwrap())
            }
            _ => None,
        };
        let packed_b = match &self.b {
            Source::Packed(b) => Some(gemm.pack_b(b.view()).unwrap()),
            _ => None,
        };
        // The factor of packed panels is in them.
        let alpha = match self.alpha {
            alpha if alpha == T::ZERO || packed_a.is_none() => alpha,
            _ => T::ONE,
        };
        let mut expected: (Vec<T>, [Vec<T>; 2], Option<Vec<T>>) = (
            self.c.data.to_vec(),
            self.slots.each_ref().map(|slot| slot.data.to_vec()),
            self.sums.as_ref().map(|sums| sums.to_vec()),
        );
        let place: Place = self.c.place;
        naive::gemm(
            rounding(gemm.instruction_set()),
            self.alpha,
            self.a.matrix(),
            self.b.matrix(),
            place.view_mut(&mut expected.0),
            self.epilogue(
                expected.1.each_mut().map(|slot| &mut slot[..]),
                expected.2.as_deref_mut(),
            ),
        )
        .map_err(|error| format!("the definition: {error}"))?;

        let mut in_place = false;
        for (in_place_lines, in_place_work) in [(0, 0), (4, 0), (0, 1 << 30)] {
            let blocking =
                self.blocking.with_in_place_lines(in_place_lines).with_in_place_work(in_place_work);
            let gemm = gemm.with_blocking(blocking);
            let mut c = M::buffer::<T>(rng, self.c.data.len());
            c.copy_from_slice(&self.c.data);
            let mut slots = self.slots.each_ref().map(|slot| {
                let mut copy = M::buffer::<T>(rng, slot.data.len());
                copy.copy_from_slice(&slot.data);
                copy
            });
            let mut sums = self.sums.as_ref().map(|sums| {
                let mut copy = M::buffer::<T>(rng, sums.len());
                copy.copy_from_slice(sums);
                copy
            });
            let mut run = |scratch: &mut [u8]| {
                gemm.run(
                    alpha,
                    self.a.operand(packed_a.as_ref()),
                    self.b.operand(packed_b.as_ref()),
                    place.view_mut(&mut c),
                    self.epilogue(slots.each_mut().map(|slot| &mut slot[..]), sums.as_deref_mut()),
                    scratch,
                )
            };
            // Operands in place need no scratch memory, so without it they are told apart.
            let needed = match run(&mut []) {
                Ok(()) => 0,
                Err(Error::Length { expected, .. }) => expected,
                Err(error) => return Err(error.to_string()),
            };
            if needed > 0 {
                if needed > gemm.scratch_bytes(m, n, k).unwrap() {
                    return Err(format!("{needed} bytes of scratch, against its promise"));
                }
                run(&mut M::buffer::<u8>(rng, needed)).map_err(|error| error.to_string())?;
            }
            in_place |= needed == 0 && m * n * k > 0 && alpha != T::ZERO;
            let how = if needed == 0 { "in place" } else { "packed" };
            if bits(&c) != bits(&expected.0) {
                return Err(format!("C differs, {how}"));
            }
            for (found, expected) in slots.iter().zip(&expected.1) {
                if bits(found) != bits(expected) {
                    return Err(format!("a slot differs, {how}"));
                }
            }
            if sums.as_deref().map(bits) != expected.2.as_deref().map(bits) {
                return Err(format!("the sums of B differ, {how}"));
            }
        }
        Ok(in_place)
    }
}

thread_local! {
    /// The case at work on this thread, for whoever has to report its sudden end.
    pub static CURRENT: Cell<u64> = const { Cell::new(0) };
}

/// What a number of cases covered, and how they failed.
#[derive(Default)]
pub struct Census {
    keys: HashSet<Key>,
    /// Cases that ran in place.
    pub in_place: usize,
    /// Cases that ran in place with at most three rows and more columns than any tile has.
    pub wide: usize,
    /// Cases by source of A, source of B, and ending.
    pub covered: HashMap<(Kind, Kind, Ending), usize>,
    failures: Vec<String>,
}

impl Census {
    /// The number of different cases.
    pub fn distinct(&self) -> usize {
        self.keys.len()
    }

    /// Panics with the first failures, if there are any.
    pub fn expect_success(&self) {
        let first = &self.failures[..self.failures.len().min(5)];
        assert!(first.is_empty(), "{} failures:\n{}", self.failures.len(), first.join("\n"));
    }

    /// The number of the case at work on this thread.
    pub fn current() -> u64 {
        CURRENT.get()
    }

    fn add<T: Element, M: Memory>(&mut self, seed: u64, number: u64, gemm: Gemm<T>) {
        CURRENT.set(number);
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        rng.set_stream(number);
        let mut case = Case::<T, M>::random(&mut rng, gemm);
        let outcome = catch_unwind(AssertUnwindSafe(|| case.check(&mut rng, gemm)));
        let outcome = outcome.unwrap_or_else(|panic| {
            let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
            let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
            Err(format!("panicked: {}", text.unwrap_or_default()))
        });
        match outcome {
            Ok(in_place) => {
                self.in_place += usize::from(in_place);
                let (m, n, _) = case.key.sizes;
                self.wide += usize::from(in_place && m <= 3 && n > 64);
            }
            Err(problem) => self.failures.push(format!(
                "{} {} seed {seed} case {number}: {problem}: {}",
                gemm.instruction_set(),
                T::NAME,
                case.describe(),
            )),
        }
        let combination = (case.a.kind(), case.b.kind(), case.ending);
        *self.covered.entry(combination).or_default() += 1;
        self.keys.insert(case.key);
    }

    fn and(mut self, other: Self) -> Self {
        self.keys.extend(other.keys);
        self.in_place += other.in_place;
        self.wide += other.wide;
        for (combination, count) in other.covered {
            *self.covered.entry(combination).or_default() += count;
        }
        self.failures.extend(other.failures);
        self
    }

    /// Cases `0..count` of a seed on one instruction set.
    pub fn take<T: Element, M: Memory>(set: InstructionSet, seed: u64, count: u64) -> Self {
        let gemm = Gemm::<T>::with_instruction_set(set).unwrap();
        (0..count)
            .into_par_iter()
            .fold(Self::default, |mut census, number| {
                census.add::<T, M>(seed, number, gemm);
                census
            })
            .reduce(Self::default, Self::and)
    }
}
