//! Lowering: a network's layers as steps, each of them one pass over memory if possible. All
//! fusion is decided here.

use std::fmt;

use crate::{
    error::{Error, Result},
    kernels::Element,
    nn::{
        layer::Fusion,
        network::{Node, Structure},
    },
};

/// A value between two steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Value {
    /// The batch, the input of the network.
    Input,
    /// The value with this number.
    Of(usize),
}

impl Value {
    /// The number of a value that a step has computed.
    pub(crate) fn number(self) -> Option<usize> {
        match self {
            Self::Input => None,
            Self::Of(number) => Some(number),
        }
    }
}

/// What a step computes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Kind {
    /// `out = dropout(relu(x W + b))` in one product; ReLU and dropout only if the network has them.
    Linear {
        relu: bool,
        /// Probability, and the layer.
        dropout: Option<(f64, usize)>,
        /// Whether the product that computes the gradient of `out` already applies the gradient of
        /// the ReLU.
        gated: bool,
    },
    /// The layer's own passes.
    Layer,
    /// `out = x + skip`: the end of a residual block.
    Add { skip: Value },
    /// The batch as a matrix, for steps that need one.
    Load,
}

/// How a step's gradient of its input is combined with those of other steps.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Contribution {
    /// It is not needed.
    pub(crate) unused: bool,
    /// Other steps have contributed before: add.
    pub(crate) accumulate: bool,
    /// The product applies the gradient of the ReLU that computed the input, with this factor.
    pub(crate) gate: Option<f64>,
}

/// One step of the forward pass, and of the backward pass in reverse order.
#[derive(Clone, Debug)]
pub(crate) struct Step {
    pub(crate) kind: Kind,
    /// The layer that it is named after; none for `Add` and `Load`.
    pub(crate) layer: Option<usize>,
    pub(crate) x: Value,
    pub(crate) out: usize,
    /// The gradient of `x`.
    pub(crate) d_x: Contribution,
    /// The gradient of `skip`.
    pub(crate) d_skip: Contribution,
}

/// The steps of a network.
#[derive(Clone, Debug)]
pub(crate) struct Lowered {
    pub(crate) steps: Vec<Step>,
    /// Columns of each value.
    pub(crate) columns: Vec<usize>,
    /// Whether each value has a gradient.
    pub(crate) has_gradient: Vec<bool>,
    /// A value whose gradient is the same as another's and shares its memory.
    pub(crate) gradient_of: Vec<usize>,
    /// The value of the logits.
    pub(crate) output: usize,
}

impl Lowered {
    /// # Errors
    /// [`Error::Setting`] if the network computes nothing.
    pub(crate) fn new<T: Element>(structure: &Structure<T>, frozen: &[bool]) -> Result<Self> {
        let mut lowered = Self {
            steps: Vec::new(),
            columns: Vec::new(),
            has_gradient: Vec::new(),
            gradient_of: Vec::new(),
            output: 0,
        };
        let output = lowered.lower(structure, &structure.nodes, Value::Input);
        let Value::Of(output) = output else {
            return Err(Error::setting("layers", "flatten alone", "a layer that computes"));
        };
        lowered.output = output;
        lowered.load_input(structure.input.features());
        lowered.plan_gradients(structure, frozen);
        Ok(lowered)
    }

    fn lower<T: Element>(
        &mut self,
        structure: &Structure<T>,
        nodes: &[Node],
        mut value: Value,
    ) -> Value {
        let fusion = |node: Option<&Node>| match node {
            Some(&Node::Layer(index)) => Some((structure.layers[index].layer.fusion(), index)),
            _ => None,
        };
        let mut at = 0;
        while let Some(node) = nodes.get(at) {
            at += 1;
            let index = match node {
                Node::Residual(block) => {
                    let skip = value;
                    let x = self.lower(structure, block, value);
                    let columns = self.columns_of(structure, x);
                    value = self.step(Kind::Add { skip }, None, x, columns);
                    continue;
                }
                Node::Layer(index) => *index,
            };
            let mut last = index;
            let kind = match structure.layers[index].layer.fusion() {
                Fusion::Identity => continue,
                Fusion::Linear => {
                    let relu = matches!(fusion(nodes.get(at)), Some((Fusion::Relu, _)));
                    let mut dropout = None;
                    if relu {
                        last = fusion(nodes.get(at)).map_or(last, |(_, index)| index);
                        at += 1;
                        if let Some((Fusion::Dropout { probability }, layer)) =
                            fusion(nodes.get(at))
                        {
                            at += 1;
                            last = layer;
                            dropout = (probability > 0.0).then_some((probability, layer));
                        }
                    }
                    Kind::Linear { relu, dropout, gated: false }
                }
                _ => Kind::Layer,
            };
            let columns = structure.layers[last].output.features();
            value = self.step(kind, Some(index), value, columns);
        }
        value
    }

    fn columns_of<T: Element>(&self, structure: &Structure<T>, value: Value) -> usize {
        value.number().map_or(structure.input.features(), |number| self.columns[number])
    }

    fn step(&mut self, kind: Kind, layer: Option<usize>, x: Value, columns: usize) -> Value {
        let out = self.columns.len();
        self.columns.push(columns);
        let (d_x, d_skip) = Default::default();
        self.steps.push(Step { kind, layer, x, out, d_x, d_skip });
        Value::Of(out)
    }

    /// Adds a first step that turns the batch into a matrix, if steps other than products read it.
    fn load_input(&mut self, columns: usize) {
        let reads = |step: &Step| {
            let skip = matches!(step.kind, Kind::Add { skip: Value::Input });
            skip || (step.x == Value::Input && !matches!(step.kind, Kind::Linear { .. }))
        };
        if !self.steps.iter().any(reads) {
            return;
        }
        let loaded = self.columns.len();
        self.columns.push(columns);
        for step in &mut self.steps {
            if step.x == Value::Input && !matches!(step.kind, Kind::Linear { .. }) {
                step.x = Value::Of(loaded);
            }
            if let Kind::Add { skip } = &mut step.kind
                && *skip == Value::Input
            {
                *skip = Value::Of(loaded);
            }
        }
        let (d_x, d_skip) = Default::default();
        let load =
            Step { kind: Kind::Load, layer: None, x: Value::Input, out: loaded, d_x, d_skip };
        self.steps.insert(0, load);
    }

    /// Decides which values have gradients, and how the gradients from several readers are added.
    fn plan_gradients<T: Element>(&mut self, structure: &Structure<T>, frozen: &[bool]) {
        let trained =
            |layer: usize| structure.layers[layer].parameters.clone().any(|index| !frozen[index]);
        self.has_gradient = vec![false; self.columns.len()];
        self.gradient_of = (0..self.columns.len()).collect();
        for step in &self.steps {
            let of = |value: Value| value.number().is_some_and(|number| self.has_gradient[number]);
            let skip = matches!(step.kind, Kind::Add { skip } if of(skip));
            self.has_gradient[step.out] = step.layer.is_some_and(trained) || of(step.x) || skip;
        }
        let mut readers = vec![0; self.columns.len()];
        for step in &self.steps {
            for value in step.reads().into_iter().flatten() {
                readers[value] += 1;
            }
        }
        // From the last step to the first: the order of the backward pass.
        let mut left = readers.clone();
        for at in (0..self.steps.len()).rev() {
            let Step { kind, x, out, .. } = self.steps[at].clone();
            let mut contribution = |value: Value| match value.number() {
                Some(number) if self.has_gradient[number] => {
                    let accumulate = left[number] < readers[number];
                    left[number] -= 1;
                    Contribution { unused: false, accumulate, gate: None }
                }
                _ => Contribution { unused: true, ..Contribution::default() },
            };
            let mut d_x = contribution(x);
            let mut d_skip = Contribution { unused: true, ..Contribution::default() };
            if let Kind::Add { skip } = kind {
                d_skip = contribution(skip);
                // The branch's gradient is that of the sum, unless its value is read elsewhere too.
                if let Some(number) = x.number()
                    && readers[number] == 1
                {
                    self.gradient_of[number] = self.gradient_of[out];
                    d_x.unused = true;
                }
            }
            if let (Kind::Linear { .. }, Some(number)) = (kind, x.number())
                && !d_x.unused
                && left[number] == 0
                && let Some(producer) = self.steps[..at].iter_mut().find(|step| step.out == number)
                && let Kind::Linear { relu: true, dropout, gated } = &mut producer.kind
            {
                *gated = true;
                let scale = dropout.map_or(1.0, |(probability, _)| 1.0 / (1.0 - probability));
                d_x.gate = Some(scale);
            }
            self.steps[at].d_x = d_x;
            self.steps[at].d_skip = d_skip;
        }
    }
}

impl Step {
    /// The numbers of the values that the step reads.
    pub(crate) fn reads(&self) -> [Option<usize>; 2] {
        let skip = if let Kind::Add { skip } = self.kind { skip.number() } else { None };
        [self.x.number(), skip]
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Linear { relu, dropout, .. } => {
                f.write_str("linear")?;
                f.write_str(if *relu { " + relu" } else { "" })?;
                f.write_str(if dropout.is_some() { " + dropout" } else { "" })
            }
            Self::Layer => f.write_str("layer"),
            Self::Add { .. } => f.write_str("add"),
            Self::Load => f.write_str("load"),
        }
    }
}
