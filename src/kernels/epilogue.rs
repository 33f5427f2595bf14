//! The epilogue of a product: what its sums start from, what happens to them before they are
//! stored, and the matrices beside C that this takes. It is one value from the layer to the tile,
//! cut together with C.
//!
//! A new finish is a variant of [`Finish`], with the companions it takes; its scalar reference in
//! `gemm::naive`; and its vector code, in `kernels::tile` if it needs the sums alone, else in
//! `kernels::finish`.

use std::any::TypeId;

pub use crate::kernels::{
    dropout::DropoutMask,
    update::{AdaGrad, Adam, Average, Descent, Momentum, RmsProp, RmsPropMomentum, Rule, Update},
};
use crate::{
    error::{Error, Result},
    float::Float,
    matrix::{MatMut, MatRef},
};

/// What each sum starts from.
#[derive(Clone, Copy, Debug)]
pub enum Start<'a, T: Copy> {
    /// `factor * C`. A factor of 0 never reads C: what stood there, NaN included, has no effect.
    Scaled(T),
    /// One value for each column; C is not read.
    Bias(&'a [T]),
}

/// What happens to each finished sum.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum Finish<T> {
    /// It is stored.
    Store,
    /// `max(sum, 0)` is stored; NaN stays NaN.
    Relu,
    /// `scale * max(sum, 0)` is stored where the mask keeps the element, else 0: ReLU, then dropout.
    ReluDropout {
        /// What is kept.
        mask: DropoutMask,
        /// Factor of what is kept.
        scale: T,
    },
    /// `scale * sum` is stored where the companion, an activation, is above 0, else 0: the gradient
    /// of the input of ReLU.
    ReluGradient {
        /// Factor of what passes.
        scale: T,
    },
    /// C holds weights and the sum is their gradient: a step is taken. The companions are the
    /// rule's slots; they change.
    Update(Update<T>),
}

impl<T: Float> Finish<T> {
    /// Names of the companions that it takes, and whether it changes them.
    fn companions(&self) -> (&'static [&'static str], bool) {
        match self {
            Self::Store | Self::Relu | Self::ReluDropout { .. } => (&[], false),
            Self::ReluGradient { .. } => (&["activation"], false),
            Self::Update(update) => (update.rule.slot_names(), true),
        }
    }

    /// The same for the part of C from element (`row`, `col`) on.
    fn starting_at(self, row: usize, col: usize) -> Self {
        match self {
            Self::ReluDropout { mask, scale } => {
                Self::ReluDropout { mask: mask.starting_at(row, col), scale }
            }
            other => other,
        }
    }
}

/// Companions of the finish that takes most.
pub(crate) const MAX_COMPANIONS: usize = 2;

/// A matrix beside C, of the same shape, with contiguous rows.
#[derive(Debug)]
pub enum Companion<'a, T: Copy> {
    /// It is read.
    Shared(MatRef<'a, T>),
    /// It is read and changed.
    Exclusive(MatMut<'a, T>),
}

impl<'a, T: Copy> Companion<'a, T> {
    /// Its elements, to be read.
    pub(crate) fn as_ref(&self) -> MatRef<'_, T> {
        match self {
            Self::Shared(matrix) => *matrix,
            Self::Exclusive(matrix) => matrix.as_ref(),
        }
    }

    /// The same companion, if `U` is the type of its elements.
    fn of_type<U: Copy + 'static>(self) -> Option<Companion<'a, U>>
    where
        T: 'static,
    {
        match self {
            Self::Shared(matrix) => matrix.of_type().map(Companion::Shared),
            Self::Exclusive(matrix) => matrix.of_type().map(Companion::Exclusive),
        }
    }

    fn reborrow(&mut self) -> Companion<'_, T> {
        match self {
            Self::Shared(matrix) => Companion::Shared(*matrix),
            Self::Exclusive(matrix) => Companion::Exclusive(matrix.reborrow()),
        }
    }

    fn split_rows(self, at: usize) -> (Self, Self) {
        match self {
            Self::Shared(matrix) => {
                let (upper, lower) = matrix.split_rows(at);
                (Self::Shared(upper), Self::Shared(lower))
            }
            Self::Exclusive(matrix) => {
                let (upper, lower) = matrix.split_rows(at);
                (Self::Exclusive(upper), Self::Exclusive(lower))
            }
        }
    }

    fn split_cols(self, at: usize) -> (Self, Self) {
        match self {
            Self::Shared(matrix) => {
                let (left, right) = matrix.split_cols(at);
                (Self::Shared(left), Self::Shared(right))
            }
            Self::Exclusive(matrix) => {
                let (left, right) = matrix.split_cols(at);
                (Self::Exclusive(left), Self::Exclusive(right))
            }
        }
    }
}

impl<'a, T: Copy> From<MatRef<'a, T>> for Companion<'a, T> {
    fn from(matrix: MatRef<'a, T>) -> Self {
        Self::Shared(matrix)
    }
}

impl<'a, T: Copy> From<MatMut<'a, T>> for Companion<'a, T> {
    fn from(matrix: MatMut<'a, T>) -> Self {
        Self::Exclusive(matrix)
    }
}

/// The matrices beside C that a finish takes, in its order.
#[derive(Debug)]
pub struct Companions<'a, T: Copy>([Option<Companion<'a, T>>; MAX_COMPANIONS]);

impl<T: Copy> Default for Companions<'_, T> {
    /// None.
    fn default() -> Self {
        Self([None, None])
    }
}

impl<'a, T: Copy> From<[Option<Companion<'a, T>>; MAX_COMPANIONS]> for Companions<'a, T> {
    fn from(companions: [Option<Companion<'a, T>>; MAX_COMPANIONS]) -> Self {
        Self(companions)
    }
}

impl<'a, T: Copy> From<MatRef<'a, T>> for Companions<'a, T> {
    fn from(matrix: MatRef<'a, T>) -> Self {
        Self([Some(matrix.into()), None])
    }
}

impl<'a, T: Copy> From<MatMut<'a, T>> for Companions<'a, T> {
    fn from(matrix: MatMut<'a, T>) -> Self {
        Self([Some(matrix.into()), None])
    }
}

impl<'a, T: Copy> From<[MatMut<'a, T>; 2]> for Companions<'a, T> {
    fn from(matrices: [MatMut<'a, T>; 2]) -> Self {
        Self(matrices.map(|matrix| Some(matrix.into())))
    }
}

impl<'a, T: Copy> Companions<'a, T> {
    /// Companion number `index`.
    pub(crate) fn get(&self, index: usize) -> Option<&Companion<'a, T>> {
        self.0.get(index)?.as_ref()
    }

    /// As [`get`](Self::get), to be changed.
    pub(crate) fn get_mut(&mut self, index: usize) -> Option<&mut Companion<'a, T>> {
        self.0.get_mut(index)?.as_mut()
    }

    fn reborrow(&mut self) -> Companions<'_, T> {
        Companions(self.0.each_mut().map(|companion| companion.as_mut().map(Companion::reborrow)))
    }

    fn split(
        self,
        split: impl Fn(Companion<'a, T>) -> (Companion<'a, T>, Companion<'a, T>),
    ) -> (Self, Self) {
        let [first, second] = self.0;
        let ((first1, first2), (second1, second2)) =
            (first.map(&split).unzip(), second.map(&split).unzip());
        (Self([first1, second1]), Self([first2, second2]))
    }
}

/// Start and finish of a product's sums, and what is summed on the side: for sums of type `T` and a C
/// of type `C`.
#[derive(Debug)]
pub struct Epilogue<'a, T: Copy, C: Copy = T> {
    /// What each sum starts from. For an update of weights it is 0.
    pub start: Start<'a, T>,
    /// What happens to each finished sum.
    pub finish: Finish<T>,
    /// The matrices beside C that the finish takes, with elements like C's.
    pub companions: Companions<'a, C>,
    /// Receives the sums of the columns of B, each from the first row to the last, taken while B
    /// is packed: where B is the gradient of a layer's output, the gradient of its bias. They start
    /// as C does, from a factor times what they hold (0 with a bias). With `alpha == 0` B is not
    /// read.
    pub column_sums: Option<&'a mut [T]>,
}

impl<T: Float, C: Copy> Default for Epilogue<'_, T, C> {
    fn default() -> Self {
        Self::scaled(T::ZERO)
    }
}

impl<'a, T: Float, C: Copy> Epilogue<'a, T, C> {
    /// `C = product + beta * C`.
    pub fn scaled(beta: T) -> Self {
        Self {
            start: Start::Scaled(beta),
            finish: Finish::Store,
            companions: Companions::default(),
            column_sums: None,
        }
    }

    /// `C = product + bias`.
    pub fn bias(bias: &'a [T]) -> Self {
        Self { start: Start::Bias(bias), ..Self::default() }
    }

    /// `C = max(product + bias, 0)`.
    pub fn bias_relu(bias: &'a [T]) -> Self {
        Self { finish: Finish::Relu, ..Self::bias(bias) }
    }

    /// `C = product` where the activation is above 0, else 0: the gradient of the input of ReLU.
    pub fn relu_gradient(activation: MatRef<'a, C>) -> Self {
        let finish = Finish::ReluGradient { scale: T::ONE };
        Self { finish, companions: activation.into(), ..Self::default() }
    }

    /// C are weights, the product is their gradient, and C takes a step. The slots are as many as
    /// the rule names, in its order.
    pub fn update(update: Update<T>, slots: impl Into<Companions<'a, C>>) -> Self {
        let (finish, companions) = (Finish::Update(update), slots.into());
        Self { finish, companions, ..Self::default() }
    }

    /// The same epilogue, if the type of C is that of the sums.
    pub(crate) fn of_type(self) -> Option<Epilogue<'a, T>>
    where
        C: 'static,
    {
        let Self { start, finish, companions: Companions(companions), column_sums } = self;
        let [first, second] = companions.map(|companion| companion.map(Companion::of_type));
        let (first, second) = match (first, second) {
            (Some(None), _) | (_, Some(None)) => return None,
            (first, second) => (first.flatten(), second.flatten()),
        };
        Some(Epilogue { start, finish, companions: Companions([first, second]), column_sums })
    }

    /// Whether the epilogue treats rows and columns alike.
    pub(crate) fn is_symmetric(&self) -> bool {
        matches!(self.start, Start::Scaled(_))
            && matches!(self.finish, Finish::Store | Finish::Relu)
            && self.column_sums.is_none()
    }

    /// Whether C is updated, so that its sums have nowhere to wait between two blocks.
    pub(crate) fn is_update(&self) -> bool {
        matches!(self.finish, Finish::Update(_))
    }

    /// Whether the rows of C must be contiguous.
    pub(crate) fn needs_contiguous_rows(&self) -> bool {
        !matches!(self.finish, Finish::Store | Finish::Relu) || matches!(self.start, Start::Bias(_))
    }

    /// Brings the sums of the columns of B to what they start from, with `scaled(factor, value)`.
    pub(crate) fn start_sums(&mut self, scaled: impl Fn(T, T) -> T) {
        let beta = if let Start::Scaled(beta) = self.start { beta } else { T::ZERO };
        if let Some(sums) = &mut self.column_sums {
            for sum in sums.iter_mut() {
                *sum = if beta == T::ZERO { T::ZERO } else { scaled(beta, *sum) };
            }
        }
    }

    /// The epilogues of rows `0..at` and of rows `at..` of C. The sums of the columns of B, which
    /// have nothing to do with rows of C, were taken out before.
    pub(crate) fn split_rows(self, at: usize) -> (Self, Self) {
        let Self { start, finish, companions, column_sums } = self;
        debug_assert!(column_sums.is_none(), "taken out before");
        let (upper, lower) = companions.split(|companion| companion.split_rows(at));
        (
            Self { start, finish, companions: upper, column_sums: None },
            Self { start, finish: finish.starting_at(at, 0), companions: lower, column_sums: None },
        )
    }

    /// The epilogues of columns `0..at` and of columns `at..` of C, as
    /// [`split_rows`](Self::split_rows).
    pub(crate) fn split_cols(self, at: usize) -> (Self, Self) {
        let Self { start, finish, companions, column_sums } = self;
        debug_assert!(column_sums.is_none(), "taken out before");
        let (left_start, right_start) = match start {
            Start::Bias(bias) => {
                let (left, right) = bias.split_at(at.min(bias.len()));
                (Start::Bias(left), Start::Bias(right))
            }
            Start::Scaled(_) => (start, start),
        };
        let (left, right) = companions.split(|companion| companion.split_cols(at));
        (
            Self { start: left_start, finish, companions: left, column_sums: None },
            Self {
                start: right_start,
                finish: finish.starting_at(0, at),
                companions: right,
                column_sums: None,
            },
        )
    }

    /// The epilogue of one of the blocks of the depth: the first begins, the others continue from
    /// what stands in C, and the last finishes.
    pub(crate) fn of_block(&mut self, is_first: bool, is_last: bool) -> Epilogue<'_, T, C> {
        Epilogue {
            start: if is_first { self.start } else { Start::Scaled(T::ONE) },
            finish: if is_last { self.finish } else { Finish::Store },
            companions: if is_last { self.companions.reborrow() } else { Companions::default() },
            column_sums: None,
        }
    }

    /// The same for a shorter time, without the sums.
    pub(crate) fn reborrow(&mut self) -> Epilogue<'_, T, C> {
        self.of_block(true, true)
    }

    /// An error unless all operands fit a C of the given shape and column stride.
    pub(crate) fn check(&self, shape: (usize, usize), col_stride: isize) -> Result<()>
    where
        C: 'static,
    {
        let contiguous = |what: &'static str, stride: isize| {
            if stride == 1 || shape.1 <= 1 {
                Ok(())
            } else {
                Err(Error::setting(what, stride, "1: contiguous rows"))
            }
        };
        let lengths = [
            ("bias", if let Start::Bias(bias) = self.start { Some(bias.len()) } else { None }),
            ("sums of the columns of B", self.column_sums.as_ref().map(|sums| sums.len())),
        ];
        for (what, len) in lengths {
            if let Some(found) = len
                && found != shape.1
            {
                return Err(Error::Length { what, expected: shape.1, found });
            }
        }
        let (names, changed) = self.finish.companions();
        let mut given = self.companions.0.iter().enumerate();
        if !given.all(|(index, companion)| companion.is_some() == (index < names.len())) {
            let found = self.companions.0.iter().flatten().count();
            let expected = if names.is_empty() {
                "none with this finish".to_owned()
            } else {
                format!("{}: {}", names.len(), names.join(", "))
            };
            return Err(Error::setting("companions", found, expected));
        }
        for (&name, companion) in names.iter().zip(self.companions.0.iter().flatten()) {
            companion.as_ref().expect_shape(name, shape)?;
            contiguous("column stride of a companion", companion.as_ref().col_stride())?;
            if changed && matches!(companion, Companion::Shared(_)) {
                return Err(Error::setting(name, "shared", "exclusive: it changes"));
            }
        }
        if self.is_update() && TypeId::of::<C>() != TypeId::of::<T>() {
            let expected = "one that stores: a C that is updated has the type of its sums";
            return Err(Error::setting("finish", "update", expected));
        }
        if self.is_update() && !matches!(self.start, Start::Scaled(beta) if beta == T::ZERO) {
            let expected = "0 where C is updated: its sums are a gradient";
            return Err(Error::setting("start", format!("{:?}", self.start), expected));
        }
        if self.needs_contiguous_rows() {
            contiguous("column stride of C with this epilogue", col_stride)?;
        }
        Ok(())
    }
}
