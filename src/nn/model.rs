//! Fully connected networks: linear-ReLU layers, each with dropout behind it, and a linear layer
//! for the logits.

use std::ops::{Deref, DerefMut};

use crate::{
    error::{Error, Result},
    gemm::{Epilogue, Finish, Gemm, Operand, Start},
    kernels::Element,
    matrix::{MatMut, MatRef},
    nn::{
        dropout::{Dropout, DropoutPosition},
        elementwise,
        init::Init,
        linear::{Linear, LinearGradient},
        loss::CrossEntropy,
        workspace::{LayerParts, Passes, Workspace},
    },
};

/// What a network looks like.
#[derive(Clone, Debug, PartialEq)]
pub struct NetConfig {
    /// Features of an example.
    pub input: usize,
    /// Widths of the hidden layers; none makes a linear classifier.
    pub hidden: Vec<usize>,
    /// Number of classes.
    pub classes: usize,
    /// Initial weights.
    pub init: Init,
    /// L2 regularisation: the loss has `l2` times the sum of all squared weights (not biases).
    pub l2: f64,
    /// Probability of dropping a hidden activation in training.
    pub dropout: f64,
    /// Seed of the initial weights and of the dropout masks.
    pub seed: u64,
}

impl Default for NetConfig {
    /// The two-layer network of the CIFAR-10 study: 3072-200-10, weight scale 0.01.
    fn default() -> Self {
        Self {
            input: 3072,
            hidden: vec![200],
            classes: 10,
            init: Init::Normal { std: 0.01 },
            l2: 0.0,
            dropout: 0.0,
            seed: 0,
        }
    }
}

/// Whether a pass is part of training.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// With dropout; the step chooses the masks.
    Training {
        /// Iteration of the training.
        step: u64,
    },
    /// Without dropout.
    Evaluation,
}

/// A fully connected network of any depth:
/// `x -> [linear -> ReLU -> dropout] * hidden layers -> linear -> logits`.
#[derive(Clone, Debug)]
pub struct FullyConnectedNet<T: Element> {
    layers: Vec<Linear<T>>,
    l2: f64,
    dropout: Dropout,
}

impl<T: Element> FullyConnectedNet<T> {
    /// A network with initial weights.
    ///
    /// # Errors
    /// [`Error::Setting`] if a size is 0 or another setting makes no sense;
    /// [`Error::SizeOverflow`] if the weights exceed the address space.
    pub fn new(config: &NetConfig) -> Result<Self> {
        let mut layers = Vec::with_capacity(config.hidden.len() + 1);
        let mut width = config.input;
        for &next in config.hidden.iter().chain([&config.classes]) {
            if next == 0 {
                let sizes = format!("{:?}", config.hidden);
                return Err(Error::setting("hidden", sizes, "layer sizes of at least 1"));
            }
            let place = layers.len() as u64;
            layers.push(Linear::new(width, next, config.init, config.seed, place)?);
            width = next;
        }
        Self::with_dropout(layers, config.l2, Dropout::new(config.dropout, config.seed)?)
    }

    /// A network of given layers, for evaluation or further training.
    ///
    /// # Errors
    /// [`Error::Shape`] if a layer does not take what the one before gives; [`Error::Setting`] if
    /// there is no layer or another setting makes no sense.
    pub fn from_layers(layers: Vec<Linear<T>>, l2: f64, dropout: f64, seed: u64) -> Result<Self> {
        Self::with_dropout(layers, l2, Dropout::new(dropout, seed)?)
    }

    fn with_dropout(layers: Vec<Linear<T>>, l2: f64, dropout: Dropout) -> Result<Self> {
        if layers.is_empty() {
            return Err(Error::setting("layers", 0, "at least one"));
        }
        for pair in layers.windows(2) {
            pair[1].weight().expect_shape(
                "weights of a layer behind another",
                (pair[0].out_features(), pair[1].out_features()),
            )?;
        }
        if !(l2.is_finite() && l2 >= 0.0) {
            return Err(Error::setting("reg", l2, "a finite number, 0 or above"));
        }
        Ok(Self { layers, l2, dropout })
    }

    /// The linear layers, from the input to the logits.
    pub fn layers(&self) -> &[Linear<T>] {
        &self.layers
    }

    /// The linear layers, to be changed.
    pub fn layers_mut(&mut self) -> &mut [Linear<T>] {
        &mut self.layers
    }

    /// Sizes of the input, of the hidden layers and of the logits.
    pub fn dims(&self) -> Vec<usize> {
        let outputs = self.layers.iter().map(Linear::out_features);
        [self.input()].into_iter().chain(outputs).collect()
    }

    /// Features of an example.
    pub fn input(&self) -> usize {
        self.layers[0].in_features()
    }

    /// Number of classes.
    pub fn classes(&self) -> usize {
        self.layers[self.layers.len() - 1].out_features()
    }

    /// An error unless an example has `features` features.
    pub(crate) fn expect_inputs(&self, features: usize) -> Result<()> {
        let (rows, cols) = self.layers[0].weight().shape();
        if rows != features {
            let what = "first weights of a network for these examples";
            return Err(Error::Shape { what, expected: (features, cols), found: (rows, cols) });
        }
        Ok(())
    }

    /// Lengths of all parameter tensors: of each layer the weights, then the biases.
    pub fn tensor_lengths(&self) -> Vec<usize> {
        self.layers.iter().flat_map(Linear::parameters).map(<[T]>::len).collect()
    }

    /// Number of weights and biases.
    pub fn parameter_count(&self) -> usize {
        self.layers.iter().flat_map(Linear::parameters).map(<[T]>::len).sum()
    }

    /// Factor of the L2 regularisation.
    pub fn l2(&self) -> f64 {
        self.l2
    }

    /// Probability of dropping a hidden activation in training.
    pub fn dropout(&self) -> f64 {
        self.dropout.probability()
    }

    /// The dropout layer behind each hidden layer.
    pub fn dropout_layer(&self) -> &Dropout {
        &self.dropout
    }

    /// Memory for passes of up to `capacity` rows over this network, forward and backward.
    ///
    /// # Errors
    /// [`Error::Setting`] if `capacity` is 0; [`Error::SizeOverflow`] if the memory exceeds the
    /// address space.
    pub fn workspace(&self, gemm: Gemm<T>, capacity: usize) -> Result<Workspace<T>> {
        self.workspace_for(gemm, capacity, Passes::Gradient)
    }

    /// Bytes of such a workspace.
    ///
    /// # Errors
    /// As [`workspace`](Self::workspace).
    pub fn workspace_bytes(&self, gemm: &Gemm<T>, capacity: usize) -> Result<usize> {
        Workspace::planned_bytes(gemm, &self.layers, capacity, Passes::Gradient)
    }

    /// A workspace for some passes alone.
    ///
    /// # Errors
    /// As [`workspace`](Self::workspace).
    pub fn workspace_for(
        &self,
        gemm: Gemm<T>,
        capacity: usize,
        passes: Passes,
    ) -> Result<Workspace<T>> {
        Workspace::plan(gemm, &self.layers, capacity, passes)
    }

    /// Copies the parameters of a network of the same shape, without allocating.
    ///
    /// # Errors
    /// [`Error::Shape`] or [`Error::Setting`] if the shapes differ.
    pub fn copy_parameters(&mut self, from: &Self) -> Result<()> {
        if self.layers.len() != from.layers.len() {
            let expected = format!("{}, as here", self.layers.len());
            return Err(Error::setting("layers", from.layers.len(), expected));
        }
        for (to, from) in self.layers.iter().zip(&from.layers) {
            from.weight().expect_shape("weights to copy", to.weight().shape())?;
        }
        for (to, from) in self.layers.iter_mut().zip(&from.layers) {
            for (to, from) in to.parameters_mut().into_iter().zip(from.parameters()) {
                to.copy_from_slice(from);
            }
        }
        Ok(())
    }

    /// Computes the logits of a batch x, (batch, input): a matrix, or rows gathered from a store
    /// of bytes. See [`Workspace::logits`].
    ///
    /// # Errors
    /// [`Error::BatchTooLarge`] if the workspace has no room for the batch; [`Error::Shape`] if x
    /// has another number of columns, or the workspace was planned for another network.
    pub fn forward<'a>(
        &self,
        x: impl Into<Operand<'a, T>>,
        workspace: &mut Workspace<T>,
        mode: Mode,
    ) -> Result<()> {
        self.forward_rows(x.into(), workspace, mode, 0)
    }

    /// The forward pass of rows `first` and following of a batch; dropout depends on the place.
    pub(crate) fn forward_rows(
        &self,
        x: Operand<'_, T>,
        workspace: &mut Workspace<T>,
        mode: Mode,
        first: usize,
    ) -> Result<()> {
        let gemm = *workspace.gemm();
        let (batch, last) = (x.shape().0, self.layers.len() - 1);
        for (l, layer) in self.layers.iter().enumerate() {
            let (hidden, out, scratch) = workspace.forward_parts(l, batch)?;
            let mask = match mode {
                Mode::Training { step } => {
                    self.dropout.mask(DropoutPosition { step, layer: l as u64 })
                }
                Mode::Evaluation => None,
            };
            let finish = match mask {
                _ if l == last => Finish::Store,
                Some(mask) => {
                    let (mask, scale) = (mask.starting_at(first, 0), self.dropout.scale());
                    Finish::ReluDropout { mask, scale }
                }
                None => Finish::Relu,
            };
            layer.forward_finish(&gemm, hidden.map_or(x, Operand::from), out, finish, scratch)?;
        }
        Ok(())
    }

    /// The cross-entropy of each row of the last forward pass.
    ///
    /// # Errors
    /// [`Error::Label`] if a label names no class.
    pub fn row_losses<'w>(
        &self,
        workspace: &'w mut Workspace<T>,
        labels: &[u8],
    ) -> Result<&'w [T]> {
        let (logits, _, row_losses) = workspace.loss_parts(labels.len())?;
        CrossEntropy::default().forward(logits, labels, row_losses)?;
        Ok(row_losses)
    }

    /// Mean cross-entropy of the last forward pass plus the L2 term.
    ///
    /// # Errors
    /// [`Error::Label`] if a label names no class.
    pub fn loss(&self, workspace: &mut Workspace<T>, labels: &[u8]) -> Result<f64> {
        let (logits, _, row_losses) = workspace.loss_parts(labels.len())?;
        let loss = CrossEntropy::default().forward(logits, labels, row_losses)?;
        Ok(loss + self.regularisation(workspace))
    }

    /// Forward and backward pass over a batch x, (batch, input): the loss, and the gradients of
    /// all parameters in the workspace; see [`Workspace::gradient`].
    ///
    /// # Errors
    /// As [`forward`](Self::forward) and [`loss`](Self::loss).
    pub fn loss_and_gradient<'a>(
        &self,
        x: impl Into<Operand<'a, T>>,
        workspace: &mut Workspace<T>,
        labels: &[u8],
        mode: Mode,
    ) -> Result<f64> {
        let x = x.into();
        self.forward(x, workspace, mode)?;
        let batch = labels.len();
        let loss = self.loss_backward(workspace, labels, CrossEntropy::default(), batch)?;
        for l in (0..self.layers.len()).rev() {
            self.backward_input(l, workspace, batch, mode)?;
            self.backward_parameters(l, x, workspace, batch, false)?;
            self.add_l2_gradient(l, workspace);
        }
        Ok(loss)
    }

    /// The loss of the last forward pass, L2 term included, and the gradient of the logits with
    /// respect to the mean over a batch of `of` rows.
    pub(crate) fn loss_backward(
        &self,
        workspace: &mut Workspace<T>,
        labels: &[u8],
        criterion: CrossEntropy,
        of: usize,
    ) -> Result<f64> {
        let (logits, d_logits, row_losses) = workspace.loss_parts(labels.len())?;
        let d_logits = d_logits.expect("a workspace for backward passes");
        let loss = criterion.part_backward(logits, labels, d_logits, of, row_losses)?;
        Ok(loss + self.regularisation(workspace))
    }

    /// The gradient of the input of layer `layer` from that of its output, unless it is the
    /// first. It comes before an update of the layer.
    pub(crate) fn backward_input(
        &self,
        layer: usize,
        workspace: &mut Workspace<T>,
        batch: usize,
        mode: Mode,
    ) -> Result<()> {
        // A kept activation was scaled, a dropped one is 0: the gate passes what was kept.
        let scale = match mode {
            Mode::Training { .. } => self.dropout.scale(),
            Mode::Evaluation => T::ONE,
        };
        let gemm = *workspace.gemm();
        let LayerParts { x, d_out, d_x, scratch, .. } = workspace.backward_parts(layer, batch)?;
        if let (Some(activation), Some(d_x)) = (x, d_x) {
            let finish = Finish::ReluGradient { scale };
            let epilogue = Epilogue { finish, ..Epilogue::relu_gradient(activation) };
            self.layers[layer].backward_input(&gemm, d_out, d_x, epilogue, scratch)?;
        }
        Ok(())
    }

    /// The gradients of the parameters of layer `layer`, without the L2 term, into the workspace;
    /// with `go_on` they are added to what is there. `x` is the input of the network.
    pub(crate) fn backward_parameters(
        &self,
        layer: usize,
        x: Operand<'_, T>,
        workspace: &mut Workspace<T>,
        batch: usize,
        go_on: bool,
    ) -> Result<()> {
        let gemm = *workspace.gemm();
        let parts = workspace.backward_parts(layer, batch)?;
        let (rows, cols) = self.layers[layer].weight().shape();
        let d_weight = MatMut::new(parts.weight, rows, cols)?;
        let gradient = LinearGradient { weight: d_weight, bias: parts.bias };
        let start = Start::Scaled(if go_on { T::ONE } else { T::ZERO });
        self.layers[layer].backward_parameters(
            &gemm,
            parts.x.map_or(x, Operand::from),
            parts.d_out,
            gradient,
            start,
            parts.scratch,
        )
    }

    /// Adds the gradient of the L2 term to that of the weights of layer `layer`.
    pub(crate) fn add_l2_gradient(&self, layer: usize, workspace: &mut Workspace<T>) {
        if self.l2 != 0.0 {
            let gemm = *workspace.gemm();
            let [weight, _] = self.layers[layer].parameters();
            let d_weight = workspace.gradient_mut(layer, 0);
            elementwise::add_scaled(&gemm, T::from_f64(2.0 * self.l2), weight, d_weight);
        }
    }

    /// Updates the weights of layer `layer` as their gradient comes into being; that of the biases
    /// goes into the workspace. `x` is the input of the network.
    pub(crate) fn backward_update(
        &mut self,
        layer: usize,
        x: Operand<'_, T>,
        workspace: &mut Workspace<T>,
        batch: usize,
        epilogue: Epilogue<'_, T>,
    ) -> Result<()> {
        let gemm = *workspace.gemm();
        let LayerParts { x: hidden, d_out, bias, scratch, .. } =
            workspace.backward_parts(layer, batch)?;
        let x = hidden.map_or(x, Operand::from);
        self.layers[layer].backward_update(&gemm, x, d_out, bias, epilogue, scratch)
    }

    /// `l2` times the sum of all squared weights.
    fn regularisation(&self, workspace: &mut Workspace<T>) -> f64 {
        if self.l2 == 0.0 {
            return 0.0;
        }
        let gemm = *workspace.gemm();
        let squares = self.layers.iter().map(|layer| {
            let [weight, _] = layer.parameters();
            elementwise::sum_of_squares(&gemm, weight, workspace.partial_sums())
        });
        self.l2 * squares.sum::<f64>()
    }

    /// The class with the largest logit in each row; the first of equals.
    pub fn predictions<'a>(logits: MatRef<'a, T>) -> impl Iterator<Item = usize> + 'a {
        (0..logits.rows()).map(move |i| {
            (1..logits.cols())
                .fold(0, |best, j| if logits.get(i, j) > logits.get(i, best) { j } else { best })
        })
    }
}

/// The two-layer network: one hidden layer. It is a [`FullyConnectedNet`] and serves as one.
#[derive(Clone, Debug)]
pub struct TwoLayerNet<T: Element>(FullyConnectedNet<T>);

impl<T: Element> TwoLayerNet<T> {
    /// `input -> hidden -> classes`, with the other settings from `config`.
    ///
    /// # Errors
    /// As [`FullyConnectedNet::new`].
    pub fn new(hidden: usize, config: &NetConfig) -> Result<Self> {
        let config = NetConfig { hidden: vec![hidden], ..config.clone() };
        FullyConnectedNet::new(&config).map(Self)
    }

    /// The network itself.
    pub fn into_inner(self) -> FullyConnectedNet<T> {
        self.0
    }
}

impl<T: Element> Deref for TwoLayerNet<T> {
    type Target = FullyConnectedNet<T>;

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

impl<T: Element> DerefMut for TwoLayerNet<T> {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.0
    }
}
