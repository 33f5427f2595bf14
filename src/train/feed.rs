//! `Feed`: pictures on their way into a network's workspace.

use crate::{
    data::{ImageSet, PixelTable, gather, gather_labels},
    error::{Error, Result},
    kernels::Element,
    nn::{Workspace, for_row_bands},
};

/// A set of pictures, the workspace that batches of them are gathered into, and their labels.
pub(super) struct Feed<'a, T: Element> {
    images: &'a ImageSet,
    table: PixelTable<T>,
    pub(super) workspace: Workspace<T>,
    labels: Vec<u8>,
}

impl<'a, T: Element> Feed<'a, T> {
    /// # Errors
    /// [`Error::Length`] if the pictures have another number of channels than the table,
    /// [`Error::Shape`] if they have another number of features than the workspace's input.
    pub(super) fn new(
        images: &'a ImageSet,
        table: PixelTable<T>,
        mut workspace: Workspace<T>,
    ) -> Result<Self> {
        let (expected, found) = (images.shape().channels, table.channels());
        if expected != found {
            return Err(Error::Length { what: "channels of a pixel table", expected, found });
        }
        let batch = workspace.capacity();
        let input = workspace.input_mut(batch)?;
        input.expect_shape("input of a network for these pictures", (batch, images.features()))?;
        Ok(Self { images, table, workspace, labels: vec![0; batch] })
    }

    /// Brings pictures into the workspace, normalised, and gives it back with their labels.
    ///
    /// # Errors
    /// [`Error::BatchTooLarge`] if there are too many, [`Error::Setting`] if an index names no
    /// picture.
    pub(super) fn load(&mut self, indices: &[u32]) -> Result<(&mut Workspace<T>, &[u8])> {
        let Self { images, table, workspace, labels } = self;
        let gemm = *workspace.gemm();
        let input = workspace.input_mut(indices.len())?;
        let labels = &mut labels[..indices.len()];
        gather_labels(images, indices, labels)?;
        let tasks = gemm.tasks_for(indices.len() * images.features());
        for_row_bands((0, input), tasks, &|(first, mut rows)| {
            let indices = &indices[first..first + rows.rows()];
            gather(images, indices, table, &mut rows).expect("indices and shapes are checked");
        })?;
        Ok((workspace, labels))
    }
}
